"""Which syllables follow which: how likely a transcript is before anything is heard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..files import naming
from ..weights import read_metadata, read_weights, write_weights

SYLLABLES_FILE = "syllables.safetensors"
LEAST_SHARE = 2.0**-24  # in 16 bits
START = 0  # the place of a line's start; its syllables' places are from 1 on
NUM_KEPT = 1 << 10  # contexts whose followers are kept, 1.5 KB each


class SyllableModel:
    """A trigram model of a line's syllables, interpolated (after Ney et al., 1994).

    Args:
        names: of the syllables.
        bigrams: log-probabilities [1+S, 1+S] float32 of each place behind each, for S names.
        trigrams: int64 [N], rising: `(a * (1+S) + b) * (1+S) + c` of the places of each three.
        shares: float32 [N], of what follows `a b`, that are `c` beyond what `b` alone tells; the
            rest is shared out as that tells.

    Raises:
        ValueError: sizes that don't fit, or values that can't be.
    """

    def __init__(
        self, names: Sequence[str], bigrams: np.ndarray, trigrams: np.ndarray, shares: np.ndarray
    ) -> None:
        self.names = tuple(names)
        size = 1 + len(self.names)
        if bigrams.shape != (size, size) or (bigrams > 0).any():
            raise ValueError(f"its bigrams must be log-probabilities [{size}, {size}]")
        if trigrams.ndim != 1 or trigrams.shape != shares.shape or (np.diff(trigrams) <= 0).any():
            raise ValueError("its trigrams must be rising numbers, and each must have a share")
        if ((trigrams < 0) | (trigrams >= size**3) | (shares <= 0) | (shares > 1)).any():
            raise ValueError("its trigrams must be of its syllables, and shares within 0 and 1")
        self.bigrams, self.trigrams, self.shares = bigrams, trigrams, shares
        self.followers = lru_cache(NUM_KEPT)(self._followers)

    def _followers(self, a: int, b: int) -> np.ndarray:
        """The log-probability of each place, [1+S] float32, behind the places `a b`."""
        size = len(self.bigrams)
        context = size * a + b
        first, last = np.searchsorted(self.trigrams, (size * context, size * (context + 1)))
        shares = self.shares[first:last]
        told = np.exp(self.bigrams[b]) * max(0.0, 1.0 - float(shares.sum()))
        told[self.trigrams[first:last] % size] += shares
        return np.log(np.maximum(told, np.finfo(np.float32).tiny))


def write_syllables(path: Path, model: SyllableModel) -> None:
    """Keep a model; its floats in 16 bits."""
    weights = {
        "bigrams": torch.from_numpy(model.bigrams).half(),
        "trigrams": torch.from_numpy(model.trigrams).int(),
        "shares": torch.from_numpy(model.shares).clamp(min=LEAST_SHARE).half(),
    }
    write_weights(path, weights, metadata={"names": json.dumps(model.names)})


def read_syllables(path: Path) -> SyllableModel:
    """What `write_syllables` has kept.

    Raises:
        ValueError: another file, or a damaged one.
    """
    weights = read_weights(path, integers=True)
    with naming(path):
        names = json.loads(read_metadata(path)["names"])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names must be a list of syllables")
        return SyllableModel(
            names,
            weights["bigrams"].float().numpy(),
            weights["trigrams"].long().numpy(),
            weights["shares"].float().numpy(),
        )
