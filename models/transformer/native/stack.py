"""A stack of quantised blocks, in C: prefill and decode steps, which round alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            x: [B, T, dim].
            caches: bfloat16, of B rows in all, to which the T new positions are appended.

        Returns:
            [B, T, dim].

        Raises:
            ValueError: more positions than a cache has room for.
        """
        num_new = x.shape[1]
        self.stack.check_room(num_new, caches)
        rows = [
            _Position(row, cache.length + position, cache.max_len)
            for cache in caches
            for row in _rows(cache.pointers(), cache.num_rows)
            for position in range(num_new)
        ]
        hidden = x.flatten(0, 1)
        pieces = range(0, len(rows), PIECE)
        parts = [self._run(hidden[n : n + PIECE], rows[n : n + PIECE]) for n in pieces]
        for cache in caches:
            cache.advance(num_new)
        return torch.cat(parts).view_as(x)

    def _run(self, x: Tensor, rows: Sequence[_Position]) -> Tensor:
        """Run positions [N, dim], those of one row in their order."""
        lengths = [row.length for row in rows]
        pointers = [pointer for row in rows for pointer in row.pointers]
        angles, most = self.angles[lengths], num_threads()
        num_rows, stack = len(rows), addressof(self.struct)
        hidden, scratch = scratch_of(
            x.shape, self.compiled.native_scratch(stack, num_rows, max(lengths), most)
        )
        hidden.copy_(x)
        places = (
            (c_void_p * len(pointers))(*pointers),
            (c_int64 * num_rows)(*lengths),
            (c_int64 * num_rows)(*(row.room for row in rows)),
        )
        with share_of_threads() as threads:
            self.compiled.native_step(
                stack, hidden.data_ptr(), angles.data_ptr(), *places, num_rows,
                scratch.data_ptr(), threads,
            )  # fmt: skip
        return hidden.to(x.dtype, copy=True)


class _Position(NamedTuple):
    """A new position of a row: where the row's caches lie, how much is before it, how much fits."""

    pointers: Sequence[int]
    length: int
    room: int


def _rows(pointers: Sequence[int], num_rows: int) -> Iterator[Sequence[int]]:
    """A cache's pointers, row by row."""
    size = len(pointers) // num_rows
    return (pointers[n : n + size] for n in range(0, len(pointers), size))


def native_form(layer: nn.Module) -> NativeLinear:
    """A quantised layer's form for the C file."""
    native = getattr(layer, "native", None)
    assert isinstance(native, NativeLinear), f"{layer} is not prepared with the library"
    return native
