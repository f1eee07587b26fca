"""A decode step through a stack of quantised blocks, in C."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, addressof, c_int64, c_void_p

import torch
from torch import Tensor, nn

from ..blocks import Stack
from ..cache import KVCache
from .compiled import BlockStruct, NativeLinear, StackStruct, pointer_of, scratch_of

MAX_HEAD = 256  # as in the C file


class NativeStack:
    """A stack's blocks as the C file sees them.

    Args:
        library: from `load_library`.
        stack: of quantised layers, which have a `native` form, and bfloat16 norms.
    """

    def __init__(self, library: CDLL, stack: Stack) -> None:
        config = stack.config
        self.compiled = library
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
        """Run one position of each row, and append it to the caches, which do not advance.

        Args:
            x: [B, dim].
            caches: bfloat16, of B rows in all.

        Returns:
            [B, dim].
        """
        pointers, lengths, rooms = [], [], []
        for cache in caches:
            pointers += cache.pointers()
            lengths += [cache.length] * cache.num_rows
            rooms += [cache.max_len] * cache.num_rows
        angles = self.angles[lengths]
        num_rows, stack = len(x), addressof(self.struct)
        hidden, scratch = scratch_of(
            x.shape, self.compiled.native_scratch(stack, num_rows, max(lengths))
        )
        hidden.copy_(x)
        self.compiled.native_step(
            stack, hidden.data_ptr(), angles.data_ptr(), (c_void_p * len(pointers))(*pointers),
            (c_int64 * num_rows)(*lengths), (c_int64 * num_rows)(*rooms), num_rows,
            scratch.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return hidden.to(x.dtype, copy=True)


def native_form(layer: nn.Module) -> NativeLinear:
    """A quantised layer's form for the C file."""
    native = getattr(layer, "native", None)
    assert isinstance(native, NativeLinear), f"{layer} is not prepared with the library"
    return native
