"""The keys and values of past positions."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .config import StackConfig


class KVCache:
    """Keys and values of a stack's past positions, in a place for all and filled one by one.

    Of large ones a CPU gives memory only as it is filled.

    It is an argument of the model and never part of it: a conversation owns one with a single
    row. Rows of one cache share their position; rows with positions of their own take one cache
    each.

    Args:
        config: the stack's config.
        max_len: positions it has room for.
        dtype: of the keys and values.
        device: of the keys and values.
        num_rows: rows that are at the same position.

    Raises:
        ValueError: more positions than the stack has, or fewer than one.
    """

    def __init__(
        self,
        config: StackConfig,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        num_rows: int = 1,
    ):
        if not 1 <= max_len <= config.max_seq_len:
            raise ValueError(
                f"a cache of {max_len} positions: the model allows 1 to {config.max_seq_len}"
            )
        self.config = config
        self.num_rows = num_rows
        self.max_len = max_len
        self.length = 0
        # Of each layer, the heads of the keys and after them those of the values.
        shape = (num_rows, 2 * config.n_local_heads, max_len, config.head_dim)
        self._layers = [
            torch.empty(shape, dtype=dtype, device=device) for _ in range(config.n_layer)
        ]

    @property
    def free(self) -> int:
        """Positions that are still free."""
        return self.max_len - self.length

    def repeated(self, num_rows: int, max_len: int) -> KVCache:
        """A new cache of several rows, in each of which is what this one's only row holds.

        Raises:
            ValueError: `max_len` is fewer positions than this one holds, or more than there can be.
        """
        assert self.num_rows == 1, f"a cache of {self.num_rows} rows cannot be repeated"
        if max_len < self.length:
            raise ValueError(f"a cache of {max_len} positions cannot hold {self.length}")
        like = self._layers[0]
        other = KVCache(self.config, max_len, like.dtype, like.device, num_rows)
        for entries, own in zip(other._layers, self._layers, strict=True):
            entries[:, :, : self.length] = own[:, :, : self.length]
        other.length = self.length
        return other

    def append(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new positions; `advance` follows when all layers have written.

        Gradients end here: a cache is for generation.

        Args:
            layer: index of the layer.
            keys_values: [num_rows, 2 * n_local_heads, T, head_dim], the heads of the keys first.

        Returns:
            Views of all used keys and values, [num_rows, n_local_heads, length + T, head_dim].
        """
        num_new = keys_values.shape[2]
        entries = self._layers[layer]
        entries.narrow(2, self.length, num_new).copy_(keys_values.detach())
        keys, values = entries.narrow(2, 0, self.length + num_new).chunk(2, dim=1)
        return keys, values

    @functools.cached_property
    def pointers(self) -> Tensor:
        """Where the entries [2 * n_local_heads, max_len, head_dim] of each row and layer lie:
        [num_rows, n_layer] long."""
        return torch.tensor(
            [[layer[row].data_ptr() for layer in self._layers] for row in range(self.num_rows)]
        )

    def advance(self, num_positions: int) -> None:
        """Count the positions that every layer has written."""
        self.length += num_positions

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on.

        Raises:
            ValueError: the cache holds fewer positions than that.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut a cache of {self.length} positions to {length}")
        self.length = length

    def reset(self) -> None:
        """Forget all positions."""
        self.length = 0
