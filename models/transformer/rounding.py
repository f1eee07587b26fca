"""Rounding to 4 bits so that layers compute nearly the same, by the inputs that they get.

Weights are rounded one input after another; the error of each is made up for by those that are not
rounded yet, as far as their inputs go together, within a block of inputs (GPTQ, Frantar et al.
2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .native import native_correct

BLOCK_SIZE = 256  # inputs that make up for each other
DAMPING = 0.2  # of the mean square of the inputs, added to each

Grams = dict[str, list[Tensor]]  # of each layer and block of inputs, the sum of x x^T [size, size]


class Factors(NamedTuple):
    """How a layer's inputs go together.

    `blocks` holds, one block of inputs after another, the transposed of an upper triangular U
    [size, size] of float32, where U^T U is the inverse of the damped Gram matrix; `inverse`
    [inputs] is 1 / U[j][j].
    """

    blocks: Tensor
    inverse: Tensor


@contextmanager
def collected_grams(model: nn.Module, names: Sequence[str]) -> Iterator[Grams]:
    """Collect the Gram matrices of what linear layers read while the model runs.

    Args:
        model: whose layers are plain `nn.Linear`.
        names: the last parts of the layers' names.
    """
    grams: Grams = {}

    def collect(name: str, x: Tensor) -> None:
        blocks = x.flatten(0, -2).float().split(BLOCK_SIZE, dim=1)
        if name not in grams:
            grams[name] = [block.new_zeros(2 * block.shape[1:]) for block in blocks]
        for gram, block in zip(grams[name], blocks, strict=True):
            gram.addmm_(block.T, block)

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: collect(name, given[0]))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in names
    ]
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()


def factors_of(grams: Sequence[Tensor]) -> Factors:
    """The factors of a layer's Gram matrices; inputs that were always 0 make up for nothing."""
    blocks, inverses = [], []
    for gram in grams:
        mean, eye = gram.diagonal().mean(), torch.eye(len(gram))
        damped = (gram / mean if mean > 0 else torch.zeros_like(gram)) + DAMPING * eye
        # The matrix is R R^T with an upper R, which Cholesky gives of the inputs in reverse.
        lower = torch.linalg.cholesky(damped.flip(0, 1))
        upper = torch.linalg.solve_triangular(lower, eye, upper=False).flip(0, 1)
        blocks.append(upper.T.flatten())
        inverses.append(1 / upper.diagonal())
    return Factors(torch.cat(blocks), torch.cat(inverses))


def round_corrected(
    weight: Tensor, factors: Factors, steps: Tensor, scale: Tensor, library: CDLL
) -> None:
    """Round weights to 4 bits.

    Args:
        weight: float32 [out, in], contiguous.
        factors: of the layer.
        steps: uint8 [out, in / 2], for the result: two steps a byte, the first in its upper half.
        scale: float32 [out, in / 64, 2], for the result: a step, and what the 8th means.
        library: that does it.
    """
    native_correct(library, weight, BLOCK_SIZE, factors.blocks, factors.inverse, steps, scale)
