"""Speech made by espeak-ng: users in many voices and moods, the assistant in one voice.

The one place where an emotion or a style becomes prosody is `USER_PROSODY` and `STYLE_PROSODY`.
Each utterance is one run of the espeak-ng program: the library called in process is about twice as
fast, but its output depends on what it said before, and training needs it reproducible.
"""

import functools
import re
import shutil
import subprocess
import zlib
from dataclasses import dataclass, replace

import numpy as np

from .readings import PUNCTUATION, apply_tone_sandhi, respell

SAMPLE_RATE = 22050
LEAD_SECONDS, TAIL_SECONDS = 0.060, 0.120
NOISE_FLOOR = 1e-4
# The plain `cmn` voice of espeak-ng 1.51 reads its own pinyin aloud as English ("zui four"), this
# one does not. Given as a path, espeak need not scan all its voices first.
LANGUAGE = "sit/cmn-Latn-pinyin"


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """Prosody in espeak's units."""

    pitch: int  # 0 to 99, 50 is the voice's own
    pitch_range: int  # 0 (monotone) to 99
    rate: int  # words per minute, 80 to 450
    volume: int  # amplitude 0 to 200; espeak starts to compress at about 75

    def __post_init__(self) -> None:
        limits = {"pitch": (0, 99), "pitch_range": (0, 99), "rate": (80, 450), "volume": (0, 200)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; espeak takes {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """An espeak voice variant and what brings it level with the others."""

    variant: str
    pitch_shift: int  # added to the pitch: espeak's male voices are very low
    gain_db: float  # evens out the loudness, so that loudness tells the emotion


USER_PROSODY = {
    "neutral": Prosody(pitch=46, pitch_range=50, rate=185, volume=26),
    "happy": Prosody(pitch=76, pitch_range=85, rate=225, volume=37),
    "sad": Prosody(pitch=16, pitch_range=10, rate=145, volume=11),
    "angry": Prosody(pitch=54, pitch_range=99, rate=275, volume=52),
    "anxious": Prosody(pitch=82, pitch_range=25, rate=320, volume=16),
    "tired": Prosody(pitch=34, pitch_range=28, rate=105, volume=18),
}

STYLE_PROSODY = {
    "comforting": Prosody(pitch=25, pitch_range=35, rate=140, volume=20),
    "calm": Prosody(pitch=38, pitch_range=40, rate=166, volume=27),
    "warm": Prosody(pitch=52, pitch_range=50, rate=195, volume=36),
    "encouraging": Prosody(pitch=66, pitch_range=60, rate=228, volume=64),
    "cheerful": Prosody(pitch=84, pitch_range=70, rate=262, volume=47),
}

VOICES = {
    voice.variant: voice
    for voice in (
        Voice(variant="f1", pitch_shift=0, gain_db=-1.2),
        Voice(variant="f2", pitch_shift=0, gain_db=0.0),
        Voice(variant="f3", pitch_shift=0, gain_db=1.3),
        Voice(variant="f4", pitch_shift=0, gain_db=-0.3),
        Voice(variant="f5", pitch_shift=-5, gain_db=1.3),
        Voice(variant="m1", pitch_shift=15, gain_db=0.7),
        Voice(variant="m2", pitch_shift=15, gain_db=2.0),
        Voice(variant="m3", pitch_shift=15, gain_db=-0.6),
        Voice(variant="m4", pitch_shift=15, gain_db=0.1),
        Voice(variant="m5", pitch_shift=15, gain_db=0.6),
        Voice(variant="m6", pitch_shift=15, gain_db=-0.5),
        Voice(variant="m7", pitch_shift=15, gain_db=-1.4),
        Voice(variant="m8", pitch_shift=15, gain_db=4.1),
    )
}
ASSISTANT_VOICE = "f2"  # the clearest: little roughness and no flutter
HELDOUT_VOICES = ("f3", "m2", "m6")
TRAIN_VOICES = tuple(v for v in VOICES if v != ASSISTANT_VOICE and v not in HELDOUT_VOICES)


def speak(text: str, voice: str, prosody: Prosody) -> np.ndarray:
    """Say `text`; the same arguments give the same samples.

    Args:
        text: Chinese characters and ，。？！
        voice: a key of `VOICES`.
        prosody: how to say it; the voice's own pitch shift comes on top.
    Returns:
        [T] float32 at 22,050 Hz, full scale 1: 60 ms of near silence, the speech, 120 ms of it.
    Raises:
        ValueError: a character or voice that is not allowed.
        RuntimeError: espeak-ng is missing or fails.
    """
    if voice not in VOICES:
        raise ValueError(f"no voice {voice!r}: choose one of {', '.join(VOICES)}")
    variant = VOICES[voice]
    pitch = int(np.clip(prosody.pitch + variant.pitch_shift, 0, 99))
    words = spelling(text)
    wav = _run_espeak(
        "-m", "-v", f"{LANGUAGE}+{voice}", "-p", str(pitch), "-s", str(prosody.rate),
        "-a", str(prosody.volume), "--stdout",
        text=f'<prosody range="{prosody.pitch_range}">{words}</prosody>',
    )  # fmt: skip
    # espeak streams its wav, so the lengths in its header are not to be trusted
    wave = np.frombuffer(wav, dtype="<i2", offset=44).astype(np.float32) / 32768
    wave = _trim(wave * np.float32(10 ** (variant.gain_db / 20)))
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    noise = rng.standard_normal(len(wave), dtype=np.float32)
    return wave + np.float32(NOISE_FLOOR) * noise


def speak_assistant(text: str, style: str) -> np.ndarray:
    """Say `text` [T] as the assistant does in `style`, a key of `STYLE_PROSODY`."""
    if style not in STYLE_PROSODY:
        raise ValueError(f"no style {style!r}: choose one of {', '.join(STYLE_PROSODY)}")
    return speak(text, ASSISTANT_VOICE, STYLE_PROSODY[style])


def speak_user(
    text: str, emotion: str, rng: np.random.Generator, heldout: bool = False
) -> np.ndarray:
    """Say `text` [T] as a random user in `emotion` does; see `UserSpeaker`."""
    return UserSpeaker.sample(rng, heldout).speak(text, emotion)


@dataclass(frozen=True, kw_only=True)
class UserSpeaker:
    """One person at one microphone in one room; keeps its sound over several turns."""

    voice: str
    pitch_shift: float
    range_shift: float
    rate_factor: float
    volume_factor: float
    gain_db: float
    snr_db: float
    pink_noise: bool
    room_t60: float  # seconds, 0: no room
    room_db: float  # level of the reverberation against the direct sound
    seed: int  # of noise and room

    @classmethod
    def sample(cls, rng: np.random.Generator, heldout: bool = False) -> "UserSpeaker":
        """Draw a speaker; `heldout` takes voices and jitter that training never hears."""
        voices = HELDOUT_VOICES if heldout else TRAIN_VOICES
        # first the sex: there are fewer female variants than male ones
        sex = rng.choice(["f", "m"])
        shift = 1.5 if heldout else 0.0
        return cls(
            voice=str(rng.choice([v for v in voices if v.startswith(sex)])),
            pitch_shift=shift + rng.uniform(-6, 6),
            range_shift=-shift + rng.uniform(-5, 5),
            rate_factor=rng.uniform(0.95, 1.07) if heldout else rng.uniform(0.94, 1.06),
            volume_factor=rng.uniform(0.94, 1.06),
            gain_db=rng.uniform(-2, 2),
            snr_db=rng.uniform(20, 45),
            pink_noise=bool(rng.random() < 0.5),
            room_t60=rng.uniform(0.1, 0.4) if rng.random() < 0.5 else 0.0,
            room_db=rng.uniform(-20, -8),
            seed=int(rng.integers(2**31)),
        )

    def prosody(self, emotion: str) -> Prosody:
        """How this speaker sounds in `emotion`, a key of `USER_PROSODY`."""
        if emotion not in USER_PROSODY:
            raise ValueError(f"no emotion {emotion!r}: choose one of {', '.join(USER_PROSODY)}")
        base = USER_PROSODY[emotion]
        return replace(
            base,
            pitch=round(np.clip(base.pitch + self.pitch_shift, 0, 99)),
            pitch_range=round(np.clip(base.pitch_range + self.range_shift, 0, 99)),
            rate=round(base.rate * self.rate_factor),
            volume=round(base.volume * self.volume_factor),
        )

    def speak(self, text: str, emotion: str) -> np.ndarray:
        """Say `text` in `emotion`; returns [T] float32 at 22,050 Hz, see the module's `speak`."""
        wave = speak(text, self.voice, self.prosody(emotion))
        rng = np.random.default_rng([self.seed, zlib.crc32(text.encode())])
        room = np.random.default_rng(self.seed)  # the same room in every turn
        level = np.sqrt(np.mean(wave**2))
        if self.room_t60:
            wave = _reverberate(wave, self.room_t60, self.room_db, room)
            wave *= level / np.sqrt(np.mean(wave**2))
        noise = _noise(len(wave), self.pink_noise, rng)
        wave = wave + noise * level * 10 ** (-self.snr_db / 20)
        return (wave * 10 ** (self.gain_db / 20)).astype(np.float32)


def phonemes(text: str) -> list[list[str]]:
    """The syllables of `text` as `speak` pronounces them, one per Chinese character.

    Args:
        text: Chinese characters and ，。？！
    Returns:
        For each character its initial, where it has one, and its final that ends in the tone 1 to
        5 (5: neutral), after tone sandhi and in espeak's notation: 你好 is [n i2] [X Au3].
    Raises:
        ValueError: a character that is not allowed or that espeak does not know.
    """
    return [list(syllable) for syllable in _phonemes(spelling(text), _num_characters(text))]


_INITIAL = re.compile(r"ts\.h|ts\.|tsh|ts|tS;h|tS;|s\.|S;|z\.|[pkt]h|[pktmfnlsXwj;]")
_TONES = {"55": 1, "35": 2, "21": 3, "214": 3, "51": 4, "53": 4}  # any other: neutral


def _num_characters(text: str) -> int:
    return sum(char not in PUNCTUATION for char in text)


def _phonemes(spelling: str, num_syllables: int) -> tuple[tuple[str, ...], ...]:
    output = _run_espeak("-v", LANGUAGE, "-q", "-x", text=spelling).decode()
    words = re.sub(r"['_|,%]", "", output).split()
    if "(" in output or len(words) != num_syllables:
        raise ValueError(
            f"espeak-ng reads {spelling!r} as {' '.join(words)}, not as {num_syllables} Chinese "
            "syllables: respell the character in training/readings.py"
        )
    return tuple(map(_split_syllable, words))


def _split_syllable(word: str) -> tuple[str, ...]:
    """One syllable of espeak's: "tS;j'Au51" -> ("tS;", "jAu4")."""
    tone = re.search(r"\d+", word)
    if tone is None:
        raise ValueError(f"espeak-ng gave a syllable without a tone: {word!r}")
    plain = word.replace(tone[0], "", 1).replace("-", "")
    initial = _INITIAL.match(plain)
    split = initial.end() if initial else 0
    final = f"{plain[split:]}{_TONES.get(tone[0], 5)}"
    return (plain[:split], final) if split else (final,)


@functools.cache
def spelling(text: str) -> str:
    """`text` as espeak must be given it, with pinyin where it would read a character wrongly."""
    wrong = sorted({c for c in text if c not in PUNCTUATION and not "\u4e00" <= c <= "\u9fff"})
    if wrong or not _num_characters(text):
        raise ValueError(
            f"cannot speak {text!r}: give Chinese characters and {PUNCTUATION}"
            + (f", without {' '.join(map(repr, wrong))}" if wrong else "")
        )
    units = respell(text)
    if "不" in text or "一" in text:
        syllables = iter(_phonemes(" ".join(units), _num_characters(text)))
        tones = [0 if unit in PUNCTUATION else int(next(syllables)[-1][-1]) for unit in units]
        units = apply_tone_sandhi(units, tones)
    return " ".join(units)


def _run_espeak(*arguments: str, text: str) -> bytes:
    program = shutil.which("espeak-ng")
    if program is None:
        raise RuntimeError("espeak-ng is not installed: apt-get install espeak-ng")
    done = subprocess.run(
        [program, *arguments, "--stdin"], input=text.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"espeak-ng failed on {text!r}: {done.stderr.decode().strip()}")
    return done.stdout


def _trim(wave: np.ndarray) -> np.ndarray:
    """Cut or pad to the fixed lead before the first and tail after the last audible sample."""
    audible = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    lead, tail = round(LEAD_SECONDS * SAMPLE_RATE), round(TAIL_SECONDS * SAMPLE_RATE)
    padded = np.pad(wave, (lead, tail))  # shifts by the lead
    return padded[audible[0] : audible[-1] + 1 + lead + tail]


def _noise(length: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """White or pink (power falls with 1/f) noise [length] of RMS 1."""
    size = 1 << length.bit_length()  # a power of two, which the FFT is fast for
    noise = rng.standard_normal(size, dtype=np.float32)
    if pink:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 64)))
    noise = noise[:length]
    return noise / np.sqrt(np.mean(noise**2))


def _reverberate(
    wave: np.ndarray, t60: float, level_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Add the reverberation of a room: noise that decays by 60 dB in `t60` seconds; keeps [T]."""
    time = np.arange(round(t60 * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60)
    response *= 10 ** (level_db / 20) / np.linalg.norm(response)
    response[0] += 1.0
    size = 1 << (len(wave) + len(response)).bit_length()
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
