"""What the families' language models have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import RMSNorm, Stack
from .quantised import Int8Linear


class LanguageModel(nn.Module):
    """An embedding, a stack of blocks, a norm and a head, which a family puts to its own use.

    Fields:
        embed_tokens: nn.Embedding, or the same of few bits.
        lm_head: nn.Linear, or the same of few bits; None: the embedding serves.
        quantisation: "int8" or "int4", where its layers are of so few bits.
    """

    embed_tokens: Any
    layers: Stack
    norm: RMSNorm
    lm_head: Any
    quantisation: str | None = None

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states; quantised weights have dtypes of their own."""
        return self.norm.weight.dtype

    def head_of(self, tokens: slice | Tensor) -> Callable[[Tensor], Tensor]:
        """The head for some tokens alone: normed hidden [..., dim] -> logits [..., n].

        Its weights are final: of a tensor of tokens they are a copy.
        """
        head = self.embed_tokens if self.lm_head is None else self.lm_head
        if isinstance(head, Int8Linear):
            return head.part(tokens)
        weight = head.weight[tokens]
        return lambda x: F.linear(x, weight)
