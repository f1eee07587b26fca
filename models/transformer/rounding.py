"""Rounding to 4 bits so that layers compute nearly the same, by the inputs that they get.

Weights are rounded one input after another; the error of each is made up for by those that are not
rounded yet, as far as their inputs go together, within a block of inputs (GPTQ, Frantar et al.
2022; computed as Babai's nearest plane, from the Cholesky factor of how the inputs go together).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL

import torch
from torch import Tensor, nn

from .native import native_correct

BLOCK_SIZE = 256  # inputs that make up for each other
DAMPING = 0.2  # of the mean square of the inputs, added to each

Inputs = dict[str, Tensor]  # of layers by name, what they read [N, in]


@contextmanager
def collected_inputs(
    model: nn.Module, names: Sequence[str], shares: dict[str, int] | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what layers read while the model runs, [N, in] a time.

    Args:
        model: that runs.
        names: the last parts of the layers' names.
        shares: by the first part of a name, of how many rows one is kept; else all are.
    """
    found: dict[str, list[Tensor]] = {}

    def collect(name: str, x: Tensor) -> None:
        parts, share = found.setdefault(name, []), (shares or {}).get(name.partition(".")[0], 1)
        rows = x.flatten(0, -2)[len(parts) % share :: share]
        parts.append(rows.clone() if share > 1 else rows)  # a part must not keep the whole

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: collect(name, given[0]))
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in names
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def factors_of(x: Tensor) -> Tensor | None:
    """How inputs [N, in] go together.

    Returns:
        Of each block of inputs in turn the upper triangular U [size, size], flattened, where the
        transposed U times U is the damped Gram matrix. Inputs that were always 0 make up for
        nothing. None where an input is not finite, or its square is not.
    """
    factors = []
    for block in x.float().split(BLOCK_SIZE, dim=1):
        gram = block.T @ block
        mean = gram.diagonal().mean()
        if not mean.isfinite():
            return None
        damped = gram.div_(mean if mean > 0 else 1)
        damped.diagonal().add_(DAMPING)
        factors.append(torch.linalg.cholesky(damped).mT.flatten())
    return torch.cat(factors)


def round_corrected(
    weight: Tensor, factors: Tensor, steps: Tensor, scale: Tensor, library: CDLL
) -> None:
    """Round weights to 4 bits.

    Args:
        weight: float32 [out, in], contiguous.
        factors: of the layer's inputs.
        steps: uint8 [out, in / 2], for the result: two steps a byte, the first in its upper half.
        scale: float32 [out, in / 64, 2], for the result: a step, and what the 8th means.
        library: that does it.
    """
    native_correct(library, weight, BLOCK_SIZE, factors, steps, scale)
