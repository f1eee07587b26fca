"""A second opinion on what the language model decides by one token: what it adds to the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DOUBT = 0.02  # share of an opinion that all classes have alike, so that it rules out none


def doubted(logits: Tensor) -> Tensor:
    """A classifier's logits [classes] -> log-probabilities [classes] float32; none is ruled out."""
    told = F.softmax(logits.float(), dim=0)
    return ((1 - DOUBT) * told + DOUBT / len(told)).log()


class Leaning:
    """An opinion, told as what is added to the text logits of one frame.

    Args:
        classes: that the opinion is of.
        tokens: the class of each text token that tells one.
        vocab_size: of the text tokens.
        say: weight of the opinion, where the language model's has 1.

    Raises:
        ValueError: a class that there is none of.
    """

    def __init__(
        self, classes: Sequence[str], tokens: Mapping[int, str], vocab_size: int, say: float
    ) -> None:
        if missing := [name for name in tokens.values() if name not in classes]:
            raise ValueError(f"the classifiers do not know {', '.join(missing)}")
        places = {name: place for place, name in enumerate(classes)}
        self._ids = torch.tensor(list(tokens), dtype=torch.long)
        self._places = torch.tensor([places[name] for name in tokens.values()], dtype=torch.long)
        self._least = math.log(DOUBT / len(classes))
        self._vocab_size, self._say = vocab_size, say

    def __call__(self, opinion: Tensor) -> Tensor:
        """Log-probabilities [classes], as `doubted` gives them -> [vocab] float32.

        To what is none of the tokens as much is added as to the least likely class can be, so that
        it gains nothing where the two disagree.
        """
        leaning = torch.full((self._vocab_size,), self._least)
        leaning[self._ids] = opinion[self._places]
        return self._say * leaning
