"""Finite scalar quantisation (Mentzer et al., 2023, arXiv:2309.15505), for groups of channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

MARGIN = 1e-3  # by which a bounded number may pass its outermost level, which rounds to it


class ScalarQuantizer(nn.Module):
    """A group of channels <-> one code: a few numbers, each of which has a few levels.

    Args:
        dim: channels of the group.
        levels: how many each number has.
    """

    levels: Tensor
    halves: Tensor
    steps: Tensor

    def __init__(self, dim: int, levels: Sequence[int]) -> None:
        super().__init__()
        count = len(levels)
        self.project_in = nn.Identity() if dim == count else nn.Linear(dim, count)
        self.project_out = nn.Identity() if dim == count else nn.Linear(count, dim)
        steps = [math.prod(levels[:place]) for place in range(count)]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("halves", torch.tensor(levels) // 2, persistent=False)
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    def bound(self, x: Tensor) -> Tensor:
        """Numbers [..., N] -> numbers whose rounding is a level, 0 in the middle."""
        reach = (self.levels - 1) * (1 + MARGIN) / 2
        offset = 0.5 * (self.levels % 2 == 0)  # an even number of levels has no middle one
        return (x + (offset / reach).atanh()).tanh() * reach - offset

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise [B, T, C] with straight-through gradients.

        Returns:
            the same, quantised, and codes [B, T], long.
        """
        numbers, codes = self.quantise(self.project_in(x))
        return self.project_out(numbers), codes

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers [..., N] -> the levels that they round to, in -1..1, and codes [...], long."""
        # Twice, as where the published weights were trained: they have other codes without.
        bounded = self.bound(self.bound(x.float()))
        rounded = bounded + (bounded.round() - bounded).detach()
        codes = ((rounded.detach() + self.halves) * self.steps).sum(-1)
        return (rounded / self.halves).to(x.dtype), codes.long()

    def numbers(self, codes: Tensor) -> Tensor:
        """Codes [...] -> the numbers that they stand for, [..., N] in -1..1."""
        return (codes[..., None] // self.steps % self.levels - self.halves) / self.halves

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, T] -> [B, T, C]."""
        return self.project_out(self.numbers(codes))


class GroupedScalarQuantizer(nn.Module):
    """Groups of channels, a code each (published part ``residual_fsq``, of one quantiser).

    Args:
        dim: channels of all groups.
        num_groups: of the same size.
        levels: as of `ScalarQuantizer`.
    """

    def __init__(self, dim: int, num_groups: int, levels: Sequence[int]) -> None:
        super().__init__()
        groups = (ScalarQuantizer(dim // num_groups, levels) for _ in range(num_groups))
        self.rvqs = nn.ModuleList(groups)
        self.codebook_size = math.prod(levels)

    @property
    def _groups(self) -> Iterable[ScalarQuantizer]:
        return cast(Iterable[ScalarQuantizer], self.rvqs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise [B, T, C]; returns that, and codes [B, K, T], long."""
        parts = x.chunk(len(self.rvqs), dim=-1)
        quantised, codes = zip(*(group(part) for group, part in zip(self._groups, parts)))
        return torch.cat(quantised, dim=-1), torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> [B, T, C]."""
        groups = zip(self._groups, codes.unbind(1))
        return torch.cat([group.decode(part) for group, part in groups], dim=-1)
