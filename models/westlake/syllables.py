"""Which syllables follow which: how likely a transcript is before anything is heard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from ..files import naming
from ..weights import read_metadata, read_weights, write_weights

SYLLABLES_FILE = "syllables.safetensors"
LEAST_SHARE = 2.0**-24  # in 16 bits
START = 0  # the place of a line's start; its syllables' places are from 1 on
NUM_KEPT = 1 << 12  # contexts whose followers are kept, 1.5 KB each


@dataclass(frozen=True, kw_only=True)
class Followers:
    """What follows contexts of one length beyond what shorter ones tell, N followers in all.

    Fields:
        numbers: [C] integers, how many followers each context has.
        places: [N] integers, the followers' places, those of a context rising.
        shares: [N] float32, of all that follows the context; the rest of it is shared out as a
            context shorter by its first syllable tells.
    """

    numbers: np.ndarray
    places: np.ndarray
    shares: np.ndarray

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.numbers, dtype=np.int64)

    def of(self, context: int) -> slice:
        """Where the followers of a context stand."""
        end = int(self._ends[context])
        return slice(end - int(self.numbers[context]), end)

    def find(self, context: int, place: int) -> int | None:
        """Where the follower of a context with that place stands; None where there is none."""
        among = self.of(context)
        index = among.start + int(np.searchsorted(self.places[among], place))
        return index if index < among.stop and self.places[index] == place else None


class SyllableModel:
    """An n-gram model of a line's syllables, interpolated (after Kneser and Ney, 1995).

    Args:
        names: of the syllables.
        bigrams: log-probabilities [1+S, 1+S] float32 of each place behind each, for S names.
        longer: followers of two places, of three and so on. The context of two is numbered
            `a * (1+S) + b`, a longer one as it stands itself among the followers of its first
            places.

    Raises:
        ValueError: sizes that don't fit, or values that can't be.
    """

    def __init__(
        self, names: Sequence[str], bigrams: np.ndarray, longer: Sequence[Followers]
    ) -> None:
        self.names = tuple(names)
        size = 1 + len(self.names)
        if bigrams.shape != (size, size) or (bigrams > 0).any():
            raise ValueError(f"its bigrams must be log-probabilities [{size}, {size}]")
        num_contexts = size**2
        for length, told in enumerate(longer, 2):
            if not _is_of(told, num_contexts, size):
                raise ValueError(f"what follows {length} syllables must be of its syllables")
            num_contexts = len(told.places)
        self.bigrams, self.longer = bigrams, tuple(longer)
        self._behind = lru_cache(NUM_KEPT)(self._told_behind)

    def followers(self, said: Sequence[int]) -> np.ndarray:
        """The log-probability of each place, [1+S] float32, behind a line's first places."""
        length = 1 + len(self.longer)
        return self._behind((*[START] * length, *said)[-length:])

    def _told_behind(self, context: tuple[int, ...]) -> np.ndarray:
        told = np.exp(self.bigrams[context[-1]])
        for length, longer in enumerate(self.longer, 2):
            number = self._number(context[-length:])
            if number is None:
                break
            among = longer.of(number)
            shares = longer.shares[among]
            told *= max(0.0, 1.0 - float(shares.sum()))
            told[longer.places[among]] += shares
        return np.log(np.maximum(told, np.finfo(np.float32).tiny))

    def _number(self, context: tuple[int, ...]) -> int | None:
        """A context's number; None where it never was."""
        first, second, *others = context
        number: int | None = len(self.bigrams) * first + second
        for longer, place in zip(self.longer, others):
            if number is not None:
                number = longer.find(number, place)
        return number


def _is_of(told: Followers, num_contexts: int, size: int) -> bool:
    """Whether these are followers of so many contexts, all of them places below `size`."""
    if told.numbers.shape != (num_contexts,) or (told.numbers < 0).any():
        return False
    if told.places.shape != (told.numbers.sum(),) or told.places.shape != told.shares.shape:
        return False
    rising = np.diff(np.repeat(np.arange(num_contexts), told.numbers) * size + told.places) > 0
    within = (told.places >= 0) & (told.places < size) & (told.shares > 0) & (told.shares <= 1)
    return bool(rising.all() and within.all())


def write_syllables(path: Path, model: SyllableModel) -> None:
    """Keep a model; its numbers in 16 bits."""
    weights = {"bigrams": torch.from_numpy(model.bigrams).half()}
    for length, told in enumerate(model.longer, 2):
        weights |= {
            f"{length}.numbers": torch.from_numpy(told.numbers).short(),
            f"{length}.places": torch.from_numpy(told.places).short(),
            f"{length}.shares": torch.from_numpy(told.shares).clamp(min=LEAST_SHARE).half(),
        }
    write_weights(path, weights, metadata={"names": json.dumps(model.names)})


def read_syllables(path: Path) -> SyllableModel:
    """What `write_syllables` has kept.

    Raises:
        ValueError: another file, of an earlier make too, or a damaged one.
    """
    weights = read_weights(path, integers=True)

    def take(key: str) -> torch.Tensor:
        if key not in weights:
            raise ValueError(
                f"it lacks '{key}', so it is damaged or of an earlier make: give the one that "
                "belongs to the checkpoint, or remove it"
            )
        return weights.pop(key)

    with naming(path):
        names = json.loads(read_metadata(path)["names"])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names must be a list of syllables")
        bigrams = take("bigrams").float().numpy()
        longer: list[Followers] = []
        while weights or not longer:
            length = 2 + len(longer)
            numbers, places = take(f"{length}.numbers"), take(f"{length}.places")
            if numbers.is_floating_point() or places.is_floating_point():
                raise ValueError(f"what follows {length} syllables must be told by whole numbers")
            shares = take(f"{length}.shares").float().numpy()
            longer.append(Followers(numbers=numbers.numpy(), places=places.numpy(), shares=shares))
        return SyllableModel(names, bigrams, longer)
