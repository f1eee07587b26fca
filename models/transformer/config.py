"""What a stack of transformer blocks is made of."""

from __future__ import annotations

from dataclasses import dataclass

MAX_TABLE = 1 << 25  # values of a rotary table; beyond, a damaged config would fill the memory


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

    def __post_init__(self) -> None:
        if self.max_seq_len * self.head_dim > MAX_TABLE:
            raise ValueError(
                f"max_seq_len {self.max_seq_len} and head_dim {self.head_dim} ask for a rotary "
                f"table of more than {MAX_TABLE} values, which no known model has"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head
