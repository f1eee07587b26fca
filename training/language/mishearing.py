"""What the model may write down of a user's speech while it learns: with errors, as it makes them.

It hears the recordings it learns from far better than any other voice; from what it wrote down of
them it would never learn to bear errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

MISHEARD_SHARE = 0.6  # most syllables of a line that are taken for others
ALIKE_SHARE = 0.7  # of them that are taken for like ones
LOST_SHARE, ADDED_SHARE = 0.4, 0.03  # of the errors
MOST_OF_NOISE = 5  # syllables that are heard where nobody speaks


class Mishearing:
    """Hears lines with errors; everything random comes from the generator handed in.

    Args:
        syllables: all that can be heard, without tones.
    """

    def __init__(self, syllables: Sequence[str]) -> None:
        self.syllables = list(syllables)
        parts = {name: _parts(name) for name in self.syllables}
        self.alike = {
            name: [other for other in self.syllables if _are_alike(parts[name], parts[other])]
            or self.syllables
            for name in self.syllables
        }

    def hear(self, names: Sequence[str], rng: np.random.Generator) -> list[str]:
        """The syllables of a line as they might be heard."""
        share = rng.uniform(0, MISHEARD_SHARE)
        heard = []
        for name in names:
            if rng.random() >= share:
                heard.append(name)
                continue
            error = rng.random()
            if error < ADDED_SHARE:
                heard += [name, self._any(rng)]
            elif error >= ADDED_SHARE + LOST_SHARE:
                is_alike = name in self.alike and rng.random() < ALIKE_SHARE
                heard.append(str(rng.choice(self.alike[name])) if is_alike else self._any(rng))
        return heard

    def hear_noise(self, rng: np.random.Generator) -> list[str]:
        """What might be heard where nothing is said: mostly nothing."""
        number = int(rng.integers(1, MOST_OF_NOISE + 1)) if rng.random() < 0.4 else 0
        return [self._any(rng) for _ in range(number)]

    def _any(self, rng: np.random.Generator) -> str:
        return self.syllables[rng.integers(len(self.syllables))]


def _are_alike(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Two syllables with the same initial, or the same final."""
    return a != b and (a[1] == b[1] or bool(a[0]) and a[0] == b[0])


def _parts(syllable: str) -> tuple[str, str]:
    match = re.fullmatch(r"([zcs]h|[bpmfdtnlgkhjqxrzcsyw]?)(.*)", syllable)
    assert match is not None
    return match[1], match[2]
