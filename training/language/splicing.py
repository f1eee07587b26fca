"""Lines that nobody recorded, put together of syllables that somebody did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..speech.pinyin import plain_syllables
from .corpus import Spoken

STRETCH = 0.15  # largest share of a user's frames that are left out, or said twice


def spoken_syllables(spoken: Spoken, names: list[str]) -> list[str]:
    """The syllable that is said in each of its frames, "" before the first.

    Args:
        names: of its characters, in order.
    """
    framed = [""] * spoken.codes.shape[1]
    for name, start, end in zip(names, spoken.onsets, (*spoken.onsets[1:], len(framed))):
        framed[start:end] = [name] * (end - start)
    return framed


def stretch(spoken: Spoken, rng: np.random.Generator) -> Spoken:
    """The same a little faster or slower: some frames are left out, or said twice."""
    rate = rng.uniform(-STRETCH, STRETCH)
    length = spoken.codes.shape[1]
    times = np.where(rng.random(length) < abs(rate), 0 if rate < 0 else 2, 1)
    index = np.repeat(np.arange(length), times)
    if not len(index):
        return spoken
    starts = np.concatenate([[0], np.cumsum(times)])
    return replace(
        spoken,
        codes=spoken.codes[:, torch.from_numpy(index)],
        onsets=tuple(int(min(starts[onset], len(index) - 1)) for onset in spoken.onsets),
    )


class Splicer:
    """Says lines in the syllables of others: what is heard is real, only its order is new.

    At the codes' frame rate a joint is hardly noticed, and recorded speech is dear: so the model
    hears lines by ten times as many voices as said them.

    Args:
        recorded: users' lines with their onsets.
    """

    def __init__(self, recorded: Iterable[Spoken]) -> None:
        # manner -> syllable -> where it is said: (the line, its first frame, its end)
        self.said: dict[str, dict[str, list[tuple[Spoken, int, int]]]] = {}
        self.leads: dict[str, list[Tensor]] = defaultdict(list)  # what comes before a first one
        for spoken in recorded:
            if not spoken.onsets:
                continue
            known = self.said.setdefault(spoken.manner, defaultdict(list))
            ends = (*spoken.onsets[1:], spoken.codes.shape[1])
            for name, start, end in zip(plain_syllables(spoken.text), spoken.onsets, ends):
                if end > start:
                    known[name].append((spoken, start, end))
            self.leads[spoken.manner].append(spoken.codes[:, : spoken.onsets[0]])

    def say(self, intent: str, text: str, rng: np.random.Generator) -> Spoken | None:
        """The line in an emotion in which all its syllables were said; None where there is none."""
        names = plain_syllables(text)
        manners = [m for m, known in self.said.items() if all(name in known for name in names)]
        if not names or not manners:
            return None
        manner = str(rng.choice(manners))
        known = self.said[manner]
        parts = [self.leads[manner][rng.integers(len(self.leads[manner]))]]
        onsets, frame = [], parts[0].shape[1]
        for name in names:
            source, start, end = known[name][rng.integers(len(known[name]))]
            onsets.append(frame)
            parts.append(source.codes[:, start:end])
            frame += end - start
        return Spoken(
            intent=intent,
            text=text,
            manner=manner,
            codes=torch.cat(parts, dim=1),
            onsets=tuple(onsets),
        )
