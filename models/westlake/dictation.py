"""What a model writes down while it hears a user speak."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .dual_ar import DualARTransformer
from .syllables import START, SyllableModel

BLANK = START  # the place of `<|semantic|>`: nothing new is certain
# Transcripts that are followed, and how far below the likeliest, in logarithms.
WIDTH, FAR = 24, 8.0
NUM_LIKELY, LEAST = 8, -6.0  # syllables that a column may add, and their least log-probability
# How likely a syllable is counts less than what is heard; the bonus makes up for what each costs.
PRIOR_WEIGHT, BONUS = 0.8, 2.6


class Dictation:
    """The syllables that the text head writes down over a turn's columns of speech.

    In each column the head tells the syllable that has become certain there, or `<|semantic|>` for
    nothing new (connectionist temporal classification, Graves et al., 2006).

    Args:
        model: that hears.
        heard_ids: the syllables' text tokens; none where the model was not taught to.
        syllables: which of them follow which, None where that is not known.
    """

    def __init__(
        self,
        model: DualARTransformer,
        heard_ids: Mapping[str, int],
        syllables: SyllableModel | None = None,
    ) -> None:
        self._names = syllables.names if heard_ids and syllables else tuple(heard_ids)
        ids = [model.semantic_id, *(heard_ids[name] for name in self._names)]
        self._ids = torch.tensor(ids, device=model.device)
        self._head = model.text_head(self._ids)
        self._syllables = syllables
        self.forget()

    def forget(self) -> None:
        """Nothing was heard."""
        self._decoder: Decoder = PrefixSearch(self._syllables) if self._syllables else BestPath()

    @property
    def is_taken(self) -> bool:
        """Whether anything can be written down."""
        return len(self._ids) > 1

    @property
    def tokens(self) -> list[int]:
        """Written down so far; what follows may still change the last of them."""
        return self._ids[self._decoder.written].tolist()

    @property
    def text(self) -> str | None:
        """What was written down, with blanks between; None where nothing was."""
        return " ".join(self._names[place - 1] for place in self._decoder.written) or None

    @torch.no_grad()
    def hear(self, hidden: Tensor) -> None:
        """Hear on: hidden [T, dim] of the next columns of speech, as the slow stack gives it."""
        if len(hidden):
            self._decoder.add(self._head(hidden).float().cpu())


class Decoder(Protocol):
    """Columns of logits -> the places of syllables, from 1 on, that were told."""

    @property
    def written(self) -> list[int]:
        """So far."""

    def add(self, logits: Tensor) -> None:
        """Go on, with logits [T, 1+S] of `BLANK` and the syllables."""


class BestPath:
    """Takes what is most likely in each column; what is told in neighbours alike was said once."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self._last = BLANK

    def add(self, logits: Tensor) -> None:
        for place in logits.argmax(-1).tolist():
            if place not in (self._last, BLANK):
                self.written.append(place)
            self._last = place


class Likelihood(NamedTuple):
    """Of a transcript, in logarithms: heard with `BLANK` or its last syllable last; and unheard."""

    blank: float
    sound: float
    prior: float

    @property
    def heard(self) -> float:
        return _sum(self.blank, self.sound)

    @property
    def total(self) -> float:
        return self.heard + self.prior


class PrefixSearch:
    """Follows the likeliest transcripts, by what is heard and by which syllables follow which
    (prefix beam search: Hannun et al., 2014).

    Args:
        syllables: which follow which.
    """

    def __init__(self, syllables: SyllableModel) -> None:
        self._syllables = syllables
        self._found: dict[tuple[int, ...], Likelihood] = {(): Likelihood(0.0, -math.inf, 0.0)}

    @property
    def written(self) -> list[int]:
        return list(next(iter(self._found)))  # the likeliest comes first

    def add(self, logits: Tensor) -> None:
        told = logits.log_softmax(-1)
        likely = told.topk(min(NUM_LIKELY, told.shape[1]))
        for row, values, places in zip(told.numpy(), *(each.tolist() for each in likely)):
            pairs = zip(places, values)
            self._hear(row, [(k, value) for k, value in pairs if k != BLANK and value > LEAST])

    def _hear(self, row: np.ndarray, likely: list[tuple[int, float]]) -> None:
        """One column: its log-probabilities [1+S], and the syllables that it may add."""
        found: dict[tuple[int, ...], Likelihood] = {}
        for said, before in self._found.items():
            last = said[-1] if said else BLANK
            same = found.get(said, before._replace(blank=-math.inf, sound=-math.inf))
            blank = _sum(same.blank, before.heard + float(row[BLANK]))
            sound = _sum(same.sound, before.sound + float(row[last]))
            found[said] = same._replace(blank=blank, sound=sound)
            if not likely:
                continue
            followers = self._syllables.followers(said)
            for place, value in likely:
                longer = (*said, place)
                prior = before.prior + PRIOR_WEIGHT * float(followers[place]) + BONUS
                each = found.get(longer) or Likelihood(-math.inf, -math.inf, prior)
                sound = value + (before.blank if place == last else before.heard)
                found[longer] = each._replace(sound=_sum(each.sound, sound))
        totals = {said: each.total for said, each in found.items()}
        best = sorted(totals, key=totals.__getitem__, reverse=True)[:WIDTH]
        far = totals[best[0]] - FAR
        # Not `>=`: of what is no number something is kept, until the engine refuses the logits.
        self._found = {said: found[said] for said in best if not totals[said] < far}


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
