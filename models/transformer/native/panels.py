"""Weights in the order that the C file reads: of 16 outputs at once, the next 4 bytes of each."""

from __future__ import annotations

from ctypes import CDLL

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import HugePages
from .threads import num_threads

PANEL = 16  # outputs, as in the C file
NUMBER = 4  # bytes


def to_panels(
    library: CDLL, rows: Tensor, memory: HugePages | None = None, *, in_place: bool = False
) -> Tensor:
    """Rows [out, ...] of any dtype -> int32 [panels, numbers, PANEL]; what is missing is 0.

    Args:
        library: from `load_library`.
        rows: of each output as many bytes.
        memory: that it lies in; by default its own.
        in_place: it may lie where the rows do, which are given up; so it does where they are
            contiguous and fill panels and numbers.
    """
    taken = rows.contiguous().view(torch.uint8).flatten(1)
    if missing := -taken.shape[1] % NUMBER:
        taken = F.pad(taken, (0, missing))
    num_outputs, numbers = len(taken), taken.shape[1] // NUMBER
    shape = -(-num_outputs // PANEL), numbers, PANEL
    if in_place and num_outputs % PANEL == 0:
        panels = taken.view(torch.int32).view(shape)
    else:
        panels = torch.empty(shape, dtype=torch.int32) if memory is None else memory.take(shape)
    threads = num_threads()
    copies = torch.empty(threads, PANEL, numbers, dtype=torch.int32)
    library.native_panels(
        taken.data_ptr(), num_outputs, numbers, panels.data_ptr(), copies.data_ptr(), threads
    )
    return panels


def from_panels(panels: Tensor, outputs: Tensor, dtype: torch.dtype, size: int) -> Tensor:
    """Some outputs' rows as they were.

    Args:
        panels: see `to_panels`.
        outputs: [...] long.
        dtype, size: of a row.

    Returns:
        [..., size].
    """
    numbers = panels[outputs // PANEL, :, outputs % PANEL].contiguous()
    return numbers.view(dtype)[..., :size]
