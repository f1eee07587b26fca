"""The KV cache of a language model of transformers, growing in place and cut to any length."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

FIRST_CAPACITY = 256  # positions


class _GrowingLayer(DynamicLayer):
    """Keys and values of a layer, in blocks that double: a step copies only its own position."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments, **options
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, n, head size]; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        assert self.keys is not None and self.values is not None, "never given back"
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            capacity = max(end, 2 * self.keys.shape[2], FIRST_CAPACITY)
            self.keys = self._grown(self.keys, capacity)
            self.values = self._grown(self.values, capacity)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def _grown(self, tensor: Tensor, capacity: int) -> Tensor:
        batch, heads, _, size = tensor.shape
        grown = torch.empty(batch, heads, capacity, size, dtype=tensor.dtype, device=tensor.device)
        grown[:, :, : self.length] = tensor[:, :, : self.length]
        return grown


class KVCache(Cache):
    """What a language model has read.

    Args:
        num_layers: of the language model.
    """

    def __init__(self, num_layers: int) -> None:
        self._growing = [_GrowingLayer() for _ in range(num_layers)]
        super().__init__(layers=list(self._growing))

    @property
    def length(self) -> int:
        """Positions read."""
        return self._growing[0].length

    def truncate(self, length: int) -> None:
        """Forget what stands behind the first positions."""
        assert length <= self.length, f"cannot keep {length} of {self.length} positions"
        for layer in self._growing:
            layer.length = length
