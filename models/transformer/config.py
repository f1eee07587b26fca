"""What a stack of transformer blocks is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Sizes of a stack; those of the families' language models differ only in this.

    `n_local_heads` counts key/value heads. `rounds_rope` rounds the rotary tables to bfloat16.
    """

    n_layer: int
    n_head: int
    n_local_heads: int
    dim: int
    intermediate_size: int
    qkv_bias: bool
    max_seq_len: int
    rope_base: float
    norm_eps: float
    dropout: float = 0.0
    rounds_rope: bool = False

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head
