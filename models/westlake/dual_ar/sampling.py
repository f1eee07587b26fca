"""Sampling: from logits to the few tokens that may be drawn, and the draw itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError, shown

WINDOW_SIZE = 16

SORT_LIMIT = 4096  # tokens of a vocabulary that is sorted whole
NUM_CANDIDATES = 128  # of a larger one, the likeliest are sorted
NEGLIGIBLE = 40.0  # less in log probability: beyond what float32 can add to the likeliest
NUM_HALVINGS = 26  # of that range, down to float32's precision


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn.

    Args:
        temperature: 0 < temperature < 2; below 1 sharpens, above 1 flattens.
        top_p: 0 < top_p <= 1; only the likeliest tokens that together stay within it are drawn.
        repetition_penalty: 0 < penalty < 2; above 1 makes the last 16 tokens less likely.
        seed: the same seed gives the same reply; None draws a fresh one.

    Raises:
        UserError: a value of another type, or outside of its range.
    """

    temperature: float = 0.7
    top_p: float = 0.7
    repetition_penalty: float = 1.2
    seed: int | None = None

    def __post_init__(self):
        for name, (fits, limits) in {
            "temperature": (_between(0, self.temperature, 2), "0 < temperature < 2"),
            "top_p": (_between(0, self.top_p, 1) or self.top_p == 1, "0 < top_p <= 1"),
            "repetition_penalty": (
                _between(0, self.repetition_penalty, 2),
                "0 < repetition_penalty < 2",
            ),
            "seed": (
                self.seed is None or (isinstance(self.seed, int) and 0 <= self.seed < 2**63),
                "a whole number, 0 <= seed < 2^63",
            ),
        }.items():
            if not fits:
                value = shown(getattr(self, name))
                raise UserError("error_out_of_range", name=name, value=value, limits=limits)

    @property
    def kept_mass(self) -> float:
        """What the probabilities of the kept tokens may add up to: all of them, which in float32
        can be a little more than 1, where top_p is 1."""
        return self.top_p if self.top_p < 1 else 2.0


def _between(low: float, value: object, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return low < value < high


def sample(logits: Tensor, window: Tensor, settings: Tensor, points: Tensor) -> Tensor:
    """Draw a token [B] long for each row.

    Args:
        logits: [B, vocab].
        window: [B, W] long, the tokens generated last.
        settings: [B, 3] float32, temperature, top-p and repetition penalty.
        points: [B] float64, uniform in [0, 1), for inverse-CDF sampling.
    """
    temperature, top_p, penalty = settings.split(1, dim=1)
    logits = penalise(logits.float(), window, penalty)
    return draw(*candidates(logits, temperature, top_p), points)


def penalise(logits: Tensor, window: Tensor, penalty: Tensor | float) -> Tensor:
    """Divide the positive and multiply the negative logits of the window's tokens.

    Args:
        logits: [B, vocab].
        window: [B, W] long, the tokens generated last.
        penalty: one for all rows, or [B, 1].
    """
    seen = logits.gather(1, window)
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return logits.scatter(1, window, seen)


def candidates(
    logits: Tensor, temperature: Tensor | float, top_p: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, after top-p and then temperature.

    Top-p is measured at temperature 1: tokens are kept from the likeliest on as long as their
    probabilities add up to no more than `top_p`, and the likeliest one always.

    Args:
        logits: [B, vocab], any float dtype, after the penalty.
        temperature: one for all rows, or [B, 1].
        top_p: one for all rows, or [B, 1].

    Returns:
        ids [B, n] long, and their probabilities [B, n] float32, 0 where a token is not kept.
    """
    scores = logits.float().log_softmax(-1)
    num_rows, vocab_size = scores.shape
    is_small = vocab_size <= SORT_LIMIT
    top_scores, ids = scores.topk(vocab_size if is_small else NUM_CANDIDATES)
    mass = top_scores.exp().cumsum(-1)
    are_enough = mass[:, -1:] >= top_p
    are_too_few = not is_small and not bool(are_enough.all())
    if are_too_few and num_rows == 1:
        return _of_all(scores, temperature, top_p)
    if are_too_few and not _waits(scores):
        # row by row, so that no row's draw depends on the others
        settings = (torch.as_tensor(x).expand(num_rows, 1) for x in (temperature, top_p))
        rows = [candidates(*row) for row in zip(logits.split(1), *(x.split(1) for x in settings))]
        ids, probs = (
            torch.cat([F.pad(x, (0, vocab_size - x.shape[1])) for x in parts])
            for parts in zip(*rows)
        )
        return ids, probs
    dropped = mass > top_p
    dropped[:, 0] = False
    probs = (top_scores / temperature).masked_fill(dropped, -torch.inf).softmax(-1)
    if not are_too_few:
        return ids, probs
    missing = (0, vocab_size - NUM_CANDIDATES)
    all_ids, all_probs = _of_all(scores, temperature, top_p)
    return (
        torch.where(are_enough, F.pad(ids, missing), all_ids),
        torch.where(are_enough, F.pad(probs, missing), all_probs),
    )


def _of_all(
    scores: Tensor, temperature: Tensor | float, top_p: Tensor | float
) -> tuple[Tensor, Tensor]:
    """As `candidates`, of log probabilities [B, vocab] whose likeliest tokens are too few."""
    lowest = (_lowest_by_sorting if _waits(scores) else _lowest_by_halving)(scores, top_p)
    kept = scores >= lowest
    ids = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return ids, (scores / temperature).masked_fill(~kept, -torch.inf).softmax(-1)


def _waits(x: Tensor) -> bool:
    """A look at one of its values waits for all that its device still has to do."""
    return x.device.type != "cpu"


def _lowest_by_sorting(scores: Tensor, top_p: Tensor | float) -> Tensor:
    """The least log probabilities [B, 1] that top-p keeps of [B, vocab], without a look at them."""
    likeliest = scores.sort(dim=-1, descending=True).values
    num_kept = (likeliest.exp().cumsum(-1) <= top_p).sum(-1, keepdim=True).clamp(min=1)
    return likeliest.gather(1, num_kept - 1)


def _lowest_by_halving(scores: Tensor, top_p: Tensor | float) -> Tensor:
    """The same of [1, vocab]: on a CPU cheaper than a sort."""
    probs = scores.exp()
    fits = float(scores.max())  # no token is likelier, and the likeliest is kept always
    too_low = fits - NEGLIGIBLE
    for _ in range(NUM_HALVINGS):
        middle = (fits + too_low) / 2
        if float(_likelier(probs, middle).sum()) <= float(top_p):
            fits = middle
        else:
            too_low = middle
    kept = scores[_likelier(probs, fits) > 0]
    return kept.min() if len(kept) else scores.max()


def _likelier(probs: Tensor, score: float) -> Tensor:
    """The probabilities of more than this log probability, and 0 for others."""
    return F.threshold(probs, math.exp(score), 0.0)


def draw(ids: Tensor, probs: Tensor, points: Tensor) -> Tensor:
    """Inverse-CDF sampling with a uniform draw a row.

    Args:
        ids: [B, n] long, from `candidates`.
        probs: [B, n].
        points: [B] float64, uniform in [0, 1).

    Returns:
        [B] long.
    """
    shares = probs.double().cumsum(-1)
    points = points[:, None] * shares[:, -1:]
    return ids.gather(1, torch.searchsorted(shares, points, right=True))[:, 0]


def draw_points(generators: Sequence[torch.Generator], count: int = 1) -> Tensor:
    """Uniform draws [B, count] float64 in [0, 1), each row's from its own generator."""
    return torch.stack(
        [
            torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
            for generator in generators
        ]
    )
