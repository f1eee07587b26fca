"""The language model's config, as stored in a checkpoint's config.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ...transformer import StackConfig


@dataclass(frozen=True, kw_only=True)
class DualARConfig:
    """Sizes of a DualARTransformer; the names are the keys of the published config.json.

    `n_local_heads` counts key/value heads, -1 means as many as query heads; -1 as
    `intermediate_size_fast` means `intermediate_size`. `head_dim` may be given but never differs
    from dim / n_head.

    Raises:
        ValueError: sizes that do not fit together.
    """

    vocab_size: int
    n_layer: int
    n_head: int
    dim: int
    intermediate_size: int
    intermediate_size_fast: int = -1
    n_local_heads: int = -1
    n_local_heads_fast: int = -1
    head_dim: int = -1
    rope_base: float = 1_000_000.0
    norm_eps: float = 1e-6
    max_seq_len: int = 4096
    dropout: float = 0.0
    tie_word_embeddings: bool = True
    attention_qkv_bias: bool = True
    attention_qkv_bias_fast: bool = False
    n_fast_layer: int = 4
    codebook_size: int = 1032
    num_codebooks: int = 8
    initializer_range: float = 0.02

    def __post_init__(self):
        derived = {
            "intermediate_size_fast": self.intermediate_size,
            "n_local_heads": self.n_head,
            "n_local_heads_fast": self.n_head,
            "head_dim": self.dim // self.n_head,
        }
        for name, value in derived.items():
            if getattr(self, name) == -1:
                object.__setattr__(self, name, value)

        counts = (
            *("vocab_size", "n_layer", "n_fast_layer", "n_head", "n_local_heads"),
            *("n_local_heads_fast", "dim", "intermediate_size", "intermediate_size_fast"),
            *("max_seq_len", "codebook_size", "num_codebooks"),
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.head_dim * self.n_head != self.dim or self.head_dim % 2:
            raise ValueError(
                f"dim {self.dim} and n_head {self.n_head} (head_dim {self.head_dim}) do not fit: "
                "dim must be n_head times an even head_dim"
            )
        for name in ("n_local_heads", "n_local_heads_fast"):
            if self.n_head % getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but must divide n_head {self.n_head}"
                )

    @property
    def slow(self) -> StackConfig:
        """The stack that runs once a frame, over time."""
        return StackConfig(
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_local_heads=self.n_local_heads,
            dim=self.dim,
            intermediate_size=self.intermediate_size,
            qkv_bias=self.attention_qkv_bias,
            max_seq_len=self.max_seq_len,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            rounds_rope=True,  # the published weights were trained with rounded tables
        )

    @property
    def fast(self) -> StackConfig:
        """The stack that runs once a code, over the codebooks of one frame."""
        return dataclasses.replace(
            self.slow,
            n_layer=self.n_fast_layer,
            n_local_heads=self.n_local_heads_fast,
            intermediate_size=self.intermediate_size_fast,
            qkv_bias=self.attention_qkv_bias_fast,
            max_seq_len=self.num_codebooks,
        )
