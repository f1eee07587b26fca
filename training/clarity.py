"""Choose for every syllable a recording that is heard as what it is.

Cut out of its line and coded, one syllable in six is heard as another: its tone is cut short, or
the silence before its first consonant. And as it is always said alike, it is always wrong. So a
recogniser listens to the replies, as the vocoder's slow stages say them; of what it gets wrong,
more recordings are made, from other lines and cut a little differently, and the ones heard best
stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import product
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from models.westlake.firefly import FireflyArchitecture

from .dialogues import STYLES
from .judge import Judge
from .spelling import Syllable
from .syllables import Cut, Key, Recorder, Syllables, Take
from .vocoder import SlowStages

Listener = Callable[[Tensor, int], Sequence[Syllable]]  # codes [K, L] and a seed -> what is heard

NOISE = 0.3  # deviation, in a judge's features
CLEAR = 0.85  # share of hearings in which a syllable is heard right
FIRST_ROUNDS, ROUNDS = 2, 8  # how often all replies are heard, before and after more is recorded
MIN_PLACES = 3  # in the replies, for a syllable to be recorded again
TAKES = 2  # lines that more recordings of a syllable are made from
CUTS = tuple(
    Cut(start_seconds=start, more_frames=more, tone_range=tones)
    for start, more, tones in product((-0.012, 0.0, 0.008), (0, 1), (1.0, 1.4))
)
CUTS_A_STYLE = 5


def listener(codec: FireflyArchitecture, slow: SlowStages, judge: Judge) -> Listener:
    """Hear, in noise, what the vocoder's slow stages make of codes.

    What is heard in noise is heard by others too.
    """

    @torch.inference_mode()
    def hear(codes: Tensor, seed: int) -> Sequence[Syllable]:
        generator = torch.Generator().manual_seed(seed)
        features = judge.even(slow.read_mel(codec.quantizer.decode(codes[None].long())))
        shape = features.shape
        patches = torch.randn(1, 1, shape[1] // 4, shape[2] // 4, generator=generator)
        patches = F.interpolate(patches, size=shape[1:], mode="bilinear")[:, 0]
        noise = patches + 0.5 * torch.randn(shape, generator=generator)
        return judge.read(features[0] + NOISE * noise[0])

    return hear


def choose_clear(recorder: Recorder, hear: Listener, seed: int = 0) -> dict[Key, Take]:
    """Of every syllable in every style the take that is heard best in the replies."""
    rng = np.random.default_rng(seed)
    readings = recorder.readings
    candidates = {key: [_Candidate(take)] for key, take in recorder.typical().items()}
    jobs = [(text, style) for text in readings for style in STYLES]
    for _ in range(FIRST_ROUNDS):
        _listen(jobs, candidates, recorder, hear, rng)
    unclear = {
        key
        for key, (only,) in candidates.items()
        if only.right < CLEAR * only.heard and only.heard >= FIRST_ROUNDS * MIN_PLACES
    }
    logger.info(f"clarity: {len(unclear)} of {len(candidates)} recordings are unclear")
    for style in STYLES:
        wanted = {syllable for manner, syllable in unclear if manner == style}
        lines = [(text, style) for text in carriers(readings, wanted, TAKES)]
        cuts = [CUTS[i] for i in rng.permutation(len(CUTS))[:CUTS_A_STYLE]]
        for key, take in recorder.record(lines, cuts):
            if key in unclear:
                candidates[key].append(_Candidate(take))
    jobs = [(text, style) for text, style in jobs if unclear & {(style, s) for s in readings[text]}]
    for _ in range(ROUNDS):
        _listen(jobs, candidates, recorder, hear, rng)
    return {key: max(several, key=_Candidate.share).take for key, several in candidates.items()}


def carriers(
    readings: Mapping[str, Sequence[Syllable]], wanted: set[Syllable], takes: int
) -> list[str]:
    """Lines in which every wanted syllable is said `takes` times, as far as there are so many."""
    missing = dict.fromkeys(wanted, takes)
    rest = {text: wanted.intersection(syllables) for text, syllables in readings.items()}
    lines: list[str] = []
    while rest:
        text, syllables = max(rest.items(), key=lambda line: sum(missing[s] > 0 for s in line[1]))
        if not any(missing[s] > 0 for s in syllables):
            break
        lines.append(text)
        del rest[text]
        for syllable in syllables:
            missing[syllable] -= 1
    return lines


def heard_right(said: Sequence[Syllable], heard: Sequence[Syllable]) -> list[bool]:
    """For each syllable that was said, whether it was heard in its place."""
    right = [False] * len(said)
    for block in SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks():
        right[block.a : block.a + block.size] = [True] * block.size
    return right


@dataclass
class _Candidate:
    take: Take
    right: int = 0
    heard: int = 0

    def share(self) -> float:
        """Expected share of right ones (Laplace)."""
        return (self.right + 1) / (self.heard + 2)

    def draw(self, rng: np.random.Generator) -> float:
        """A share that it may have, for a choice as Thompson's (1933)."""
        return rng.beta(self.right + 1, self.heard - self.right + 1)


def _listen(
    jobs: Sequence[tuple[str, str]],
    candidates: Mapping[Key, Sequence[_Candidate]],
    recorder: Recorder,
    hear: Listener,
    rng: np.random.Generator,
) -> None:
    """Say all lines once, each syllable by a candidate that may be its best, and count."""
    readings = recorder.readings

    def choose(text: str, style: str) -> dict[Key, _Candidate]:
        keys = sorted({(style, syllable) for syllable in readings[text]})
        return {key: max(candidates[key], key=lambda c: c.draw(rng)) for key in keys}

    def listen(job: tuple[str, str, Mapping[Key, _Candidate], int]) -> list[bool]:
        text, style, chosen, seed = job
        codes = {key: candidate.take.codes for key, candidate in chosen.items()}
        voice = Syllables(codes=codes, silence=recorder.silence, readings=readings)
        return heard_right(readings[text], hear(voice.say("", text, style).codes, seed))

    said = [(text, style, choose(text, style), int(rng.integers(2**31))) for text, style in jobs]
    num_right = num_heard = 0
    with ThreadPool(recorder.workers) as pool:
        for (text, style, chosen, _), right in zip(
            said, tqdm(pool.imap(listen, said), "listening", len(said))
        ):
            for syllable, hit in zip(readings[text], right):
                chosen[style, syllable].heard += 1
                chosen[style, syllable].right += hit
            num_right, num_heard = num_right + sum(right), num_heard + len(right)
    logger.info(f"clarity: {num_right / num_heard:.3f} of {num_heard} syllables heard right")
