"""The assistant's speech, put together from syllables.

A small model learns fast what is always the same. So every syllable is taken once for each style
from a line that espeak-ng says, stretched to whole frames of codes, and is from then on always
said and coded alike. It holds whole periods of the voice, and its codes tell in which quarter of a
period each frame begins, by two numbers that in other speech are too small to get so far out.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.westlake.firefly import FireflyArchitecture

from .corpus import Spoken, encode, reply_lines
from .dialogues import STYLES, Dialogues
from .pitch import FRAME, STEPS_PER_FRAME, Sound, make
from .readings import PUNCTUATION
from .spelling import Syllable, read_lines
from .synthesise import SAMPLE_RATE
from .timing import speak_timed

# A reply's first frames carry its emotion and style, and its first word: the speech waits for them.
LEAD_FRAMES, TAIL_FRAMES = 4, 3
PAUSE_FRAMES = {"，": 3, "。": 5, "？": 5, "！": 5}
PHASE_CODEBOOKS = (6, 7)  # their last numbers are cosine and sine of the voice's phase

Key = tuple[str, Syllable]  # style and syllable


@dataclass(frozen=True, kw_only=True)
class Syllables:
    """The codes of every syllable in every style.

    Fields:
        codes: [K, n] int16 each.
        silence: [K, 1] int16, one frame of it.
        readings: text -> its syllables.
    """

    codes: Mapping[Key, Tensor]
    silence: Tensor
    readings: Mapping[str, Sequence[Syllable]]

    def say(self, intent: str, text: str, style: str) -> Spoken:
        """A reply to an intent, spoken."""
        codes, onsets, heard = [], [], []
        for part in arrange(text, self.readings[text]):
            if isinstance(part, int):
                codes.append(self.silence.expand(-1, part))
            else:
                onsets.append(len(heard))
                codes.append(self.codes[style, part])
            name = "" if isinstance(part, int) else " ".join(part)
            heard += [name] * codes[-1].shape[1]
        return Spoken(
            intent=intent,
            text=text,
            manner=style,
            codes=torch.cat(codes, dim=1),
            onsets=onsets,
            syllables=heard,
        )

    def replies(self, dialogues: Dialogues) -> Iterator[Spoken]:
        """Every reply in every style."""
        for intent, text in reply_lines(dialogues):
            for style in STYLES:
                yield self.say(intent, text, style)


def arrange(text: str, syllables: Sequence[Syllable]) -> list[Syllable | int]:
    """The order of what is heard: syllables, and frames of silence."""
    rest = iter(syllables)
    inner = [
        PAUSE_FRAMES[char] if char in PUNCTUATION else next(rest)
        for char in text.rstrip(PUNCTUATION)
    ]
    return [LEAD_FRAMES, *inner, TAIL_FRAMES]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How syllables are cut out of a line.

    Fields:
        start_seconds: added to where one starts.
        more_frames: added to how many frames of codes it lasts.
        tone_range: factor on how far its pitch moves.
    """

    start_seconds: float = 0.0
    more_frames: int = 0
    tone_range: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Take:
    """One recording of a syllable: its sound, its codes [K, n] int16, and whether it stood beside
    a pause."""

    sound: Sound
    codes: Tensor
    at_edge: bool


class Recorder:
    """Records the syllables of the replies.

    Args:
        codec: what codes them.
        workers: processes that synthesise.
    """

    def __init__(self, codec: FireflyArchitecture, dialogues: Dialogues, workers: int = 1) -> None:
        self.codec = codec
        self.readings = read_lines(sorted({text for _, text in reply_lines(dialogues)}))
        self.silence = encode(codec, make([Sound.silence(20)]))[:, 10:11]
        self.workers = workers

    def record(
        self, lines: Sequence[tuple[str, str]], cuts: Sequence[Cut] = (Cut(),)
    ) -> Iterator[tuple[Key, Take]]:
        """A take of every syllable in `lines`, pairs of a text and a style, for each cut."""
        jobs = [(text, style, cuts) for text, style in lines]
        with Pool(self.workers, maxtasksperchild=1) as pool:  # see `timing`
            recorded = tqdm(pool.imap(_record, jobs), "recording", len(jobs))
            for (text, style), results in zip(lines, recorded):
                for sounds, spoken, wave in results:
                    lengths = [len(sound.f0) // STEPS_PER_FRAME for sound in sounds]
                    parts = encode(self.codec, wave).split(lengths, dim=1)
                    for syllable, edge, index in zip(self.readings[text], at_edge(text), spoken):
                        mark_phases(self.codec, parts[index], sounds[index].quarters()[:-1])
                        yield (
                            (style, syllable),
                            Take(sound=sounds[index], codes=parts[index].clone(), at_edge=edge),
                        )

    def typical(self) -> dict[Key, Take]:
        """Of every syllable in every style the take of middle length among those that stand beside
        no pause, or among all."""
        lines = [(text, style) for style in STYLES for text in covering(self.readings)]
        found: dict[Key, list[Take]] = defaultdict(list)
        for key, take in self.record(lines):
            found[key].append(take)
        chosen = {}
        for key, takes in found.items():
            inner = [take for take in takes if not take.at_edge] or takes
            chosen[key] = sorted(inner, key=lambda take: len(take.sound.f0))[len(inner) // 2]
        return chosen

    def write(self, takes: Mapping[Key, Take], path: Path, speech: Path, minutes: float) -> None:
        """Write the codes of the takes, and some replies that are made of them.

        Args:
            takes: of every syllable in every style.
            path: gets the codes, for `load_syllables`.
            speech: gets replies in all styles for the vocoder to speak, as `write_locked` does.
        """
        codes = {key: take.codes for key, take in takes.items()}
        syllables = Syllables(codes=codes, silence=self.silence, readings=self.readings)
        torch.save({"codes": codes, "silence": self.silence, "readings": self.readings}, path)

        rng = np.random.default_rng(15)
        texts = list(self.readings)
        waves: list[np.ndarray] = []
        said: list[Tensor] = []
        while sum(map(len, waves)) < minutes * 60 * SAMPLE_RATE:
            text, style = str(rng.choice(texts)), str(rng.choice(STYLES))
            sounds = [
                Sound.silence(part) if isinstance(part, int) else takes[style, part].sound
                for part in arrange(text, self.readings[text])
            ]
            waves.append((np.clip(make(sounds), -1, 1) * 32767).astype(np.int16))
            said.append(syllables.say("", text, style).codes[None])
        wave = torch.from_numpy(np.concatenate(waves))
        torch.save({"wave": wave, "codes": torch.cat(said, dim=2)}, speech)


def load_syllables(path: Path) -> Syllables:
    """What `Recorder.write` wrote."""
    return Syllables(**torch.load(path, weights_only=True))


def covering(readings: Mapping[str, Sequence[Syllable]]) -> list[str]:
    """Lines in which every syllable is said, inside of one where it can be; few, but not the
    fewest."""
    inner = {
        text: {s for s, edge in zip(syllables, at_edge(text)) if not edge}
        for text, syllables in readings.items()
    }
    lines: list[str] = []
    missing = {syllable for syllables in readings.values() for syllable in syllables}
    for sets in (inner, {text: set(syllables) for text, syllables in readings.items()}):
        reachable = missing & set().union(*sets.values())
        while reachable:
            lines.append(max(sets, key=lambda text: len(sets[text] & reachable)))
            reachable -= sets[lines[-1]]
        missing -= {syllable for text in lines for syllable in sets[text]}
    return list(dict.fromkeys(lines))


def at_edge(text: str) -> list[bool]:
    """Whether each Chinese character of a text stands beside a pause."""
    padded = f"。{text}。"
    return [
        before in PUNCTUATION or after in PUNCTUATION
        for before, char, after in zip(padded, text, padded[2:])
        if char not in PUNCTUATION
    ]


def mark_phases(codec: FireflyArchitecture, codes: Tensor, quarters: np.ndarray) -> None:
    """Write cosine and sine of the phase in which each frame begins into its codes [K, n].

    Args:
        quarters: [n] int, of a period.
    """
    *lower, last = codec.config.fsq_levels
    step, middle = int(np.prod(lower)), last // 2
    cosines = np.array([1, 0, -1, 0])
    for codebook, waves in zip(PHASE_CODEBOOKS, (cosines, -np.roll(cosines, -1))):
        number = torch.from_numpy(middle + middle * waves[quarters % 4]).to(codes.dtype)
        codes[codebook] = codes[codebook] % step + number * step


def _record(
    job: tuple[str, str, Sequence[Cut]],
) -> list[tuple[list[Sound], list[int], np.ndarray]]:
    """For each cut a line as sounds in whole frames, which of them are syllables, and its wave."""
    text, style, cuts = job
    wave, spans = speak_timed(text, style)
    sound = Sound.analyse(np.pad(wave, (0, FRAME)))
    recorded = []
    for cut in cuts:
        shift = cut.start_seconds * SAMPLE_RATE
        sounds, spoken, end = [Sound.silence(LEAD_FRAMES)], [], spans[0][0]
        for start, next_end in spans:
            if pause := round((start - end) / FRAME):
                sounds.append(Sound.silence(pause))
            end = next_end
            spoken.append(len(sounds))
            num_frames = max(2, round((end - start) / FRAME)) + cut.more_frames
            syllable = sound.stretch(start + shift, end, num_frames)
            sounds.append(syllable.with_tones(cut.tone_range))
        sounds.append(Sound.silence(TAIL_FRAMES))
        recorded.append((sounds, spoken, make(sounds)))
    return recorded
