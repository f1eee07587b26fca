"""A stack of quantised blocks, in C: prefill and decode steps, which round alike."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, addressof, c_int64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks import Stack
from ..cache import KVCache
from .compiled import BlockStruct, StackStruct, pointer_of, scratch_of
from .linear import PIECE, NativeLinear
from .threads import num_threads, share_of_threads

MAX_HEAD = 256  # as in the C file


class NativeStack:
    """A stack's blocks as the C file sees them.

    Args:
        library: from `load_library`.
        stack: of quantised layers, which have a `native` form, and bfloat16 norms.
    """

    def __init__(self, library: CDLL, stack: Stack) -> None:
        config = stack.config
        self.compiled, self.stack = library, stack
        self.angles = stack.rope[:, 1].contiguous()
        blocks = [
            BlockStruct(
                pointer_of(block.input_layernorm.weight),
                pointer_of(block.post_attention_layernorm.weight),
                *(
                    native_form(layer).struct
                    for layer in (
                        block.self_attn.wqkv,
                        block.self_attn.wo,
                        block.feed_forward.w_gate_up,
                        block.feed_forward.w_down,
                    )
                ),
            )
            for block in stack
        ]
        self.struct = StackStruct(
            (BlockStruct * len(blocks))(*blocks),
            len(blocks),
            config.dim,
            config.n_head,
            config.n_local_heads,
            config.head_dim,
            config.intermediate_size,
            config.norm_eps,
        )

    def __call__(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Run the blocks over new positions, as the stack itself does.

        A position gives the same, to the bit, whatever is read beside it.

        Args:
            x: [B, T, dim], bfloat16.
            caches: bfloat16, of B rows in all, to which the T new positions are appended.

        Returns:
            [B, T, dim], bfloat16.

        Raises:
            ValueError: more positions than a cache has room for.
        """
        num_new = x.shape[1]
        self.stack.check_room(num_new, caches)
        rows = [
            _Position(row, cache.length + position, cache.max_len)
            for cache in caches
            for row in _rows(cache)
            for position in range(num_new)
        ]
        y = x.clone(memory_format=torch.contiguous_format)
        start, size = pointer_of(y), y.element_size() * y.shape[-1]
        for first in range(0, len(rows), PIECE):
            self._run(start + size * first, rows[first : first + PIECE])
        for cache in caches:
            cache.advance(num_new)
        return y

    def _run(self, x: int, rows: Sequence[_Position]) -> None:
        """Run positions, those of one row in their order.

        Args:
            x: where they lie, bfloat16 [N, dim], which are replaced.
        """
        pointers, lengths, rooms = zip(*rows)
        num_rows, stack = len(rows), addressof(self.struct)
        num_bytes = self.compiled.native_scratch(stack, num_rows, max(lengths), num_threads())
        _, scratch = scratch_of((0,), num_bytes)
        places = (
            (c_void_p * num_rows)(*pointers),
            (c_int64 * num_rows)(*lengths),
            (c_int64 * num_rows)(*rooms),
        )
        with share_of_threads() as threads:
            self.compiled.native_step(
                stack, x, self.angles.data_ptr(), *places, num_rows, scratch, threads
            )


class _Position(NamedTuple):
    """A new position of a row: where the pointers to the row's entries lie, how much is before it,
    how much fits."""

    pointers: int
    length: int
    room: int


def _rows(cache: KVCache) -> range:
    """Where the pointers to each row's entries lie."""
    size = cache.pointers.nbytes // cache.num_rows
    return range(cache.pointers.data_ptr(), cache.pointers.data_ptr() + cache.pointers.nbytes, size)


def native_form(layer: nn.Module) -> NativeLinear:
    """A quantised layer's form for the C file."""
    native = getattr(layer, "native", None)
    assert isinstance(native, NativeLinear), f"{layer} is not prepared with the library"
    return native
