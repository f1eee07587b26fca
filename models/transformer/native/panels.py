"""Weights in the order that the C file reads: of 16 outputs at once, the next 4 bytes of each."""

from __future__ import annotations

import mmap
from ctypes import CDLL

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 16  # outputs, as in the C file
NUMBER = 4  # bytes
HUGE_PAGE = 1 << 21  # bytes


def to_panels(library: CDLL, rows: Tensor) -> Tensor:
    """Rows [out, ...] of any dtype -> int32 [panels, numbers, PANEL]; what is missing is 0."""
    taken = rows.contiguous().view(torch.uint8).flatten(1)
    if missing := -taken.shape[1] % NUMBER:
        taken = F.pad(taken, (0, missing))
    num_outputs, numbers = len(taken), taken.shape[1] // NUMBER
    num_panels = -(-num_outputs // PANEL)
    panels = empty(num_panels * PANEL, numbers * NUMBER, torch.int8).view(torch.int32)
    library.native_panels(
        taken.data_ptr(), num_outputs, numbers, panels.data_ptr(), torch.get_num_threads()
    )
    return panels.view(num_panels, numbers, PANEL)


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


def empty(num_outputs: int, row_size: int, dtype: torch.dtype) -> Tensor:
    """Memory for a weight [num_outputs, row_size] of one byte each, in huge pages where there are
    any: who reads it from end to end is a twentieth faster."""
    num_bytes = num_outputs * row_size
    if num_bytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_outputs, row_size, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(num_outputs, row_size)
