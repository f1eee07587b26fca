"""MiniOmniTransformer: one stack over columns of a text token and seven codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..transformer import KVCache, LanguageModel, RMSNorm, Stack
from .config import NUM_ROWS, MiniOmniConfig


class MiniOmniTransformer(LanguageModel):
    """The language model: columns are read, the next one's tokens are all predicted at once.

    A column is [8]: a text token, then the codes, each row with ids of its own from 0 on. In the
    embedding and the head the rows' vocabularies follow one another.

    Args:
        config: the sizes.
        is_tied: the embedding serves as the head.
    """

    first_ids: Tensor

    def __init__(self, config: MiniOmniConfig, *, is_tied: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = Stack(config.stack)
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if is_tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        rows = torch.arange(NUM_ROWS - 1, device="cpu") * config.audio_vocab_size
        first_ids = torch.cat([torch.zeros_like(rows[:1]), rows + config.text_vocab_size])
        self.register_buffer("first_ids", first_ids, persistent=False)
        self.num_parameters = sum(weight.numel() for weight in self.parameters())

    def new_cache(self, max_len: int, num_rows: int = 1) -> KVCache:
        """An empty cache."""
        return KVCache(self.config.stack, max_len, self.dtype, self.device, num_rows)

    def embed(self, columns: Tensor) -> Tensor:
        """The mean of a column's embeddings: [B, 8, T] long -> [B, T, dim]."""
        embedded = self.embed_tokens(columns + self.first_ids[:, None])
        return embedded.mean(1).to(self.dtype)

    def embed_heard(self, features: Tensor) -> Tensor:
        """Columns in which the ear's features stand for codes, over pads: [T, dim] -> [T, dim]."""
        pad = torch.tensor(self.config.text.pad, device=self.device)
        heard = features.to(self.dtype) * (NUM_ROWS - 1) + self.embed_tokens(pad)
        return (heard / NUM_ROWS).to(self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Predict the next column's tokens: [..., dim] -> [..., vocab_size], all rows' together."""
        hidden = self.norm(hidden)
        if self.lm_head is None:
            return F.linear(hidden, self.embed_tokens.weight)
        return self.lm_head(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Predict from whole sequences: embedded [B, T, dim] -> logits [B, T, vocab_size]."""
        return self.logits(self.layers(x))
