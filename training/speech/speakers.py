"""Who speaks: users of all kinds at all microphones, and the assistant in its styles.

The one place where an emotion or a style becomes prosody is `USER_PROSODY` and `STYLE_PROSODY`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import teacher
from .teacher import Prosody

SAMPLE_RATE = 22_050
LEAD_SECONDS, TAIL_SECONDS = 0.06, 0.12
AUDIBLE_DB = -38.0  # against the loudest sample: what lies before and after is cut off
SPEECH_DB = -24.0  # RMS of a neutral utterance
NOISE_FLOOR = 1e-4

USER_PROSODY = {
    "neutral": Prosody(rate=1.2),
    "happy": Prosody(pitch=1.18, pitch_range=1.45, rate=1.32, gain_db=3, tilt_db=3),
    "sad": Prosody(pitch=0.88, pitch_range=0.45, rate=1.05, gain_db=-4, tilt_db=-4),
    "angry": Prosody(pitch=1.08, pitch_range=1.6, rate=1.5, gain_db=7, tilt_db=7),
    "anxious": Prosody(pitch=1.3, pitch_range=0.7, rate=1.6, gain_db=-1, tilt_db=0),
    "tired": Prosody(pitch=0.8, pitch_range=0.6, rate=0.86, gain_db=-5, tilt_db=-6),
}
STYLE_PROSODY = {
    "comforting": Prosody(pitch=0.9, pitch_range=0.75, rate=1.02, gain_db=-4, tilt_db=-3),
    "calm": Prosody(pitch=0.95, pitch_range=0.8, rate=1.1, gain_db=-2, tilt_db=-1),
    "warm": Prosody(rate=1.2),
    "encouraging": Prosody(pitch=1.06, pitch_range=1.2, rate=1.28, gain_db=4, tilt_db=2),
    "cheerful": Prosody(pitch=1.13, pitch_range=1.25, rate=1.34, gain_db=2, tilt_db=2),
}
# Median pitch of the teacher's own voices, on two sentences.
VOICE_HZ = {
    "jf_alpha": 263.0,
    "jf_gongitsune": 225.0,
    "jf_nezumi": 229.0,
    "jf_tebukuro": 316.0,
    "jm_kumo": 93.0,
}
WANTED = "give the folder `voices` of the npm package kokoro-js, 1.2.1"
PLAIN = "plain"  # in place of an emotion: a blend of the teacher's voices, as it speaks by itself
ASSISTANT = {"jf_alpha": 0.7, "jf_gongitsune": 0.3}
# Blends near these, of shares in the order of `VOICE_HZ`, are heard in the evaluation alone.
HELDOUT_BLENDS = np.array(
    [
        [0.1, 0.1, 0.1, 0.1, 0.6],
        [0.1, 0.1, 0.6, 0.1, 0.1],
        [0.05, 0.5, 0.05, 0.3, 0.1],
        [0.35, 0.05, 0.1, 0.1, 0.4],
        [0.1, 0.4, 0.4, 0.05, 0.05],
        [0.4, 0.05, 0.05, 0.45, 0.05],
    ]
)
HELDOUT_DISTANCE = 0.3  # in the sum of the shares' differences
# Of users in blends of all of Kokoro's voices: those voices that the evaluation alone hears.
HELDOUT_VOICES = ("am_onyx", "bf_lily", "zf_xiaoyi", "zm_yunyang")
NATIVE_SHARE = 0.6  # of the drawn voices that are of Mandarin, whose names begin with z
BLENDED_SHARES = (0.45, 0.35, 0.2)  # of blends of one draw, of two, of three
OWN_MELODY_SHARE = 0.6  # of users whose sound and way to speak are of one blend
# Their logarithms of pitch and of size, in standard deviations; and their paces.
SPREADS = {"pitch": 0.1, "size": 0.06, "rate": (0.75, 1.12)}
# Kinds of people: median pitch in Hz, size of the throat (factor of the formants), pace.
PEOPLE = {
    "man": ((95.0, 150.0), (0.82, 0.93), (0.92, 1.1)),
    "woman": ((175.0, 255.0), (0.94, 1.05), (0.92, 1.1)),
    "child": ((250.0, 330.0), (1.08, 1.18), (0.9, 1.05)),
    "old man": ((100.0, 160.0), (0.85, 0.95), (0.8, 0.92)),
    "old woman": ((165.0, 230.0), (0.92, 1.02), (0.8, 0.92)),
}
PEOPLE_SHARES = (0.36, 0.38, 0.08, 0.09, 0.09)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One person's voice.

    Fields:
        timbre, melody: shares of Kokoro's voices, by name.
        pitch: factor of the melody's own.
        size: factor of the formants, by playing the wave faster or slower.
        rate: factor of the pace.
    """

    timbre: Mapping[str, float]
    melody: Mapping[str, float]
    pitch: float
    size: float
    rate: float

    def say(
        self, text: str, prosody: Prosody, voices: Path | None = None
    ) -> tuple[np.ndarray, list[float]]:
        """Say a text: [T] float32 at 22,050 Hz, and where each character begins, in seconds.

        Args:
            voices: folder of all of Kokoro's voices, see `teacher`.

        Raises:
            ValueError: as `teacher.say`.
        """
        asked = replace(
            prosody,
            pitch=prosody.pitch * self.pitch / self.size,
            rate=prosody.rate * self.rate / self.size,
        )
        said = teacher.say(text, self.timbre, self.melody, asked, voices)
        wave = _resample(said.wave, teacher.SAMPLE_RATE * self.size)
        wave, cut = _trim(wave)
        wave = tilt(wave, prosody.tilt_db)
        wave *= 10 ** ((SPEECH_DB + prosody.gain_db) / 20) / np.sqrt(np.mean(wave**2))
        return np.clip(wave, -1, 1), [max(0.0, onset / self.size - cut) for onset in said.onsets]


def assistant() -> Speaker:
    """The assistant's one voice."""
    return Speaker(timbre=ASSISTANT, melody=ASSISTANT, pitch=1.0, size=1.0, rate=1.0)


def draw_user(rng: np.random.Generator, heldout: bool = False) -> Speaker:
    """Some user; `heldout` ones have blends of voices that the others never come near."""
    kind = str(rng.choice(list(PEOPLE), p=PEOPLE_SHARES))
    hertz, sizes, rates = PEOPLE[kind]
    timbre, melody = _draw_blend(rng, heldout), _draw_blend(rng, heldout)
    own = math.exp(sum(share * math.log(VOICE_HZ[name]) for name, share in melody.items()))
    return Speaker(
        timbre=timbre,
        melody=melody,
        pitch=math.exp(rng.uniform(*np.log(hertz))) / own,
        size=rng.uniform(*sizes),
        rate=rng.uniform(*rates),
    )


def draw_plain_user(rng: np.random.Generator, heldout: bool = False) -> Speaker:
    """As `draw_user`, but of no kind of people: the teacher's own voice and pace."""
    blend = _draw_blend(rng, heldout)
    return Speaker(timbre=blend, melody=blend, pitch=1.0, size=1.0, rate=1.0)


def draw_other_user(
    rng: np.random.Generator, names: Sequence[str], heldout: bool = False
) -> Speaker:
    """Some user in a blend of all of Kokoro's voices.

    Args:
        names: of those that are there; a `heldout` user has one of `HELDOUT_VOICES`, the others
            never do.
    """
    names = sorted(HELDOUT_VOICES if heldout else set(names).difference(HELDOUT_VOICES))
    timbre = _draw_others(rng, names)
    return Speaker(
        timbre=timbre,
        melody=timbre if rng.random() < OWN_MELODY_SHARE else _draw_others(rng, names),
        pitch=math.exp(rng.normal(0, SPREADS["pitch"])),
        size=math.exp(np.clip(rng.normal(), -2, 2) * SPREADS["size"]),
        rate=rng.uniform(*SPREADS["rate"]),
    )


def _draw_others(rng: np.random.Generator, names: Sequence[str]) -> dict[str, float]:
    native = [name for name in names if name.startswith("z")]
    foreign = [name for name in names if name not in native]
    number = 1 + int(rng.choice(len(BLENDED_SHARES), p=BLENDED_SHARES))
    blend: dict[str, float] = {}
    for share in rng.dirichlet([1.0] * number):
        name = str(rng.choice(native if rng.random() < NATIVE_SHARE else foreign))
        blend[name] = blend.get(name, 0.0) + float(share)
    return blend


def check_voices(folder: Path) -> None:
    """Refuse a folder that lacks voices of `draw_other_user`.

    Raises:
        ValueError: no voice of Mandarin, a held-out one is missing, or a file of another size.
    """
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.bin")}
    missing = sorted(set(HELDOUT_VOICES) - sizes.keys())
    others = [name for name in sizes if name.startswith("z") and name not in HELDOUT_VOICES]
    if missing or not others:
        raise ValueError(f"{folder} lacks {', '.join(missing) or 'voices of Mandarin'}: {WANTED}")
    if wrong := sorted(name for name, size in sizes.items() if size != teacher.TABLE_BYTES):
        raise ValueError(f"{folder}/{wrong[0]}.bin is no table of a voice: {WANTED}")


def _draw_blend(rng: np.random.Generator, heldout: bool) -> dict[str, float]:
    if heldout:
        return dict(zip(VOICE_HZ, HELDOUT_BLENDS[rng.integers(len(HELDOUT_BLENDS))].tolist()))
    while True:
        blend = rng.dirichlet([0.6] * len(VOICE_HZ))
        if np.abs(HELDOUT_BLENDS - blend).sum(axis=1).min() > HELDOUT_DISTANCE:
            return dict(zip(VOICE_HZ, blend.tolist()))


@dataclass(frozen=True, kw_only=True)
class Microphone:
    """What a voice goes through on its way: a room, noise, a device, and its level.

    Fields:
        gain_db: of everything.
        snr_db: of the noise; `pink` or white.
        room_seconds: until the reverberation has fallen by 60 dB; 0: no room.
        room_db: its level against the direct sound.
        band_hz: what the device lets through.
        tilt_db: of the device above 2 kHz.
        seed: of noise and room.
    """

    gain_db: float
    snr_db: float
    pink: bool
    room_seconds: float
    room_db: float
    band_hz: tuple[float, float]
    tilt_db: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Microphone:
        """Some device in some place."""
        phone = rng.random() < 0.15
        return cls(
            gain_db=rng.uniform(-8, 5),
            snr_db=rng.uniform(14, 45),
            pink=bool(rng.random() < 0.6),
            room_seconds=rng.uniform(0.1, 0.5) if rng.random() < 0.5 else 0.0,
            room_db=rng.uniform(-20, -8),
            band_hz=(300.0, 3400.0) if phone else (rng.uniform(20, 120), rng.uniform(7e3, 11e3)),
            tilt_db=rng.uniform(-4, 4),
            seed=int(rng.integers(2**31)),
        )

    def record(self, wave: np.ndarray) -> np.ndarray:
        """[T] float32 at 22,050 Hz -> the same as it was recorded."""
        rng = np.random.default_rng(self.seed)
        level = np.sqrt(np.mean(wave**2))
        if self.room_seconds:
            wave = _reverberate(wave, self.room_seconds, self.room_db, rng)
            wave *= level / np.sqrt(np.mean(wave**2) + 1e-12)
        wave = wave + noise(len(wave), self.pink, rng) * level * 10 ** (-self.snr_db / 20)
        wave = _filter(wave, lambda f: _band(f, *self.band_hz) * _shelf(f, self.tilt_db))
        wave = wave * 10 ** (self.gain_db / 20)
        return (wave + NOISE_FLOOR * noise(len(wave), False, rng)).clip(-1, 1).astype(np.float32)


def vary(wave: np.ndarray, factor: float) -> np.ndarray:
    """The same voice a little larger or smaller, slower or faster: played at another speed."""
    return _resample(wave, SAMPLE_RATE * factor).astype(np.float32)


def tilt(wave: np.ndarray, gain_db: float) -> np.ndarray:
    """Raise or lower the spectrum above 2 kHz."""
    return _filter(wave, lambda f: _shelf(f, gain_db)) if gain_db else wave


def noise(length: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """White or pink (power falls with 1/f) noise [length] of RMS 1."""
    size = 1 << length.bit_length()  # a power of two, which the FFT is fast for
    samples = rng.standard_normal(size, dtype=np.float32)
    if pink:
        spectrum = np.fft.rfft(samples)
        samples = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 64)))
    samples = samples[:length]
    return samples / np.sqrt(np.mean(samples**2))


def _resample(wave: np.ndarray, sample_rate: float) -> np.ndarray:
    import soxr

    return soxr.resample(wave, sample_rate, SAMPLE_RATE)


def _shelf(frequencies: np.ndarray, gain_db: float) -> np.ndarray:
    """0 dB below about 1 kHz, `gain_db` above about 4 kHz."""
    octaves = np.log2(np.maximum(frequencies, 1) / 1000) / 2
    return 10 ** (gain_db * np.clip(octaves, 0, 1) / 20)


def _band(frequencies: np.ndarray, low: float, high: float) -> np.ndarray:
    """A band-pass of 4th order."""
    f = np.maximum(frequencies, 1e-3)
    return 1 / np.sqrt((1 + (low / f) ** 8) * (1 + (f / high) ** 8))


def _filter(wave: np.ndarray, response) -> np.ndarray:
    size = 1 << (len(wave) - 1).bit_length()
    spectrum = np.fft.rfft(wave, size) * response(np.fft.rfftfreq(size, 1 / SAMPLE_RATE))
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)


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


def _trim(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Cut to a fixed lead and tail around what is audible; also the seconds cut off before it."""
    audible = np.flatnonzero(np.abs(wave) > 10 ** (AUDIBLE_DB / 20) * np.abs(wave).max())
    lead, tail = round(LEAD_SECONDS * SAMPLE_RATE), round(TAIL_SECONDS * SAMPLE_RATE)
    padded = np.pad(wave, (lead, tail))
    cut = (int(audible[0]) - lead) / SAMPLE_RATE
    return padded[audible[0] : audible[-1] + 1 + lead + tail].astype(np.float32), cut
