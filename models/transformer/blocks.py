"""The transformer block, and the stack of blocks that a language model is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KVCache
from .config import StackConfig


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, computed in float32."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps
        self.norm_to_rms = 1 / math.sqrt(dim)
        self.least_rms = torch.tensor(math.sqrt(eps), device="cpu")  # on the meta device too

    def forward(self, x: Tensor) -> Tensor:
        # In as few operations as can be: for a single position on a CPU it is they that take time.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rms = torch.hypot(norm * self.norm_to_rms, self.least_rms)
        return (x.float() / rms).type_as(x) * self.weight


def rope_table(config: StackConfig) -> Tensor:
    """Cosines and sines of the rotary embedding, float32 [max_seq_len, head_dim / 2, 2]."""
    # On the CPU by name, so that a model built on the meta device still has its table.
    exponents = torch.arange(0, config.head_dim, 2, device="cpu").float() / config.head_dim
    positions = torch.arange(config.max_seq_len, device="cpu").float()
    angles = torch.outer(positions, 1 / config.rope_base**exponents)
    table = torch.stack([angles.cos(), angles.sin()], -1)
    return table.bfloat16().float() if config.rounds_rope else table


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn adjacent pairs (2i, 2i + 1) of the last dimension by their position's angles.

    Args:
        x: [B, T, heads, head_dim].
        rope: complex64 [B or 1, T, heads, head_dim / 2].
    """
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rope).flatten(-2).type_as(x)


def attend(q: Tensor, k: Tensor, v: Tensor, num_past: int, dropout: float = 0.0) -> Tensor:
    """Causal attention in which query heads share key/value heads in equal groups.

    Args:
        q: [B, n_head, T, head_dim], the newest positions.
        k: [B, n_local_heads, num_past + T, head_dim].
        v: like k.
        num_past: positions before the first query.
        dropout: probability of dropping an attention weight, in training.

    Returns:
        [B, n_head, T, head_dim].
    """
    num_new = q.shape[2]
    if q.requires_grad and q.device.type == "cpu":
        return _attend_in_training(q, k, v, dropout)
    if num_new == 1:
        # A lone query sees everything, so a group of heads can pose as a group of queries.
        grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(grouped, k, v).reshape_as(q)
    mask = None
    if num_past:
        mask = torch.ones(num_new, num_past + num_new, dtype=torch.bool, device=q.device)
        mask = mask.tril(num_past)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=True
    )


def _attend_in_training(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """The same, without a past: on a CPU the fused kernel's backward takes three times as long."""
    batch_size, n_head, num_new, head_dim = q.shape
    k, v = (x.repeat_interleave(n_head // k.shape[1], dim=1).flatten(0, 1) for x in (k, v))
    future = q.new_full((num_new, num_new), -torch.inf).triu(1)
    scores = torch.baddbmm(
        future.expand(len(k), -1, -1), q.flatten(0, 1), k.mT, alpha=head_dim**-0.5
    )
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ v).view(batch_size, n_head, num_new, head_dim)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: StackConfig):
        super().__init__()
        self.config = config
        num_heads = config.n_head + 2 * config.n_local_heads
        self.wqkv = nn.Linear(config.dim, num_heads * config.head_dim, bias=config.qkv_bias)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def project(self, x: Tensor, rope: Tensor) -> Tensor:
        """Queries, keys and values of x [N, dim], the flattened positions of rope, turned.

        Args:
            rope: complex64 [B or 1, T, heads, head_dim / 2].

        Returns:
            [B, heads, T, head_dim]: n_head of queries, n_local_heads each of keys and values.
        """
        num_new, num_heads, _ = rope.shape[1:]
        heads = self.wqkv(x).view(-1, num_new, num_heads, self.config.head_dim)
        return rotate(heads, rope).transpose(1, 2)

    def mix(self, heads: Tensor, layer: int, caches: Sequence[KVCache] | None) -> Tensor:
        """Attend with what `project` gave, which joins the caches; returns [N, dim]."""
        n_head, n_kv = self.config.n_head, self.config.n_local_heads
        q, kv = heads.split_with_sizes((n_head, 2 * n_kv), dim=1)
        if caches is None:
            keys, values = kv.chunk(2, dim=1)
            dropout = self.config.dropout if self.training else 0.0
            y = attend(q, keys, values, 0, dropout)
        elif len(caches) == 1:
            y = attend(q, *caches[0].append(layer, kv), caches[0].length)
        else:
            rows = [cache.num_rows for cache in caches]
            parts = zip(caches, q.split_with_sizes(rows), kv.split_with_sizes(rows), strict=True)
            y = torch.cat(
                [
                    attend(q_row, *cache.append(layer, kv_row), cache.length)
                    for cache, q_row, kv_row in parts
                ]
            )
        return y.transpose(1, 2).reshape(-1, self.config.dim)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: StackConfig):
        super().__init__()
        self.w_gate_up = nn.Linear(config.dim, 2 * config.intermediate_size, bias=False)
        self.w_down = nn.Linear(config.intermediate_size, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w_gate_up(x).chunk(2, dim=-1)
        return self.w_down(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward, each normed before and added to its input."""

    def __init__(self, config: StackConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, rope: Tensor, layer: int, caches: Sequence[KVCache] | None
    ) -> Tensor:
        heads = self.before_attention(x, rope)
        return self.after_attention(x, self.self_attn.mix(heads, layer, caches))

    def before_attention(self, x: Tensor, rope: Tensor) -> Tensor:
        """[N, dim] -> what `Attention.mix` takes."""
        return self.self_attn.project(self.input_layernorm(x), rope)

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x [N, dim] and what `Attention.mix` gave -> the block's result [N, dim]."""
        x = x + self.self_attn.wo(mixed)
        return x + self.feed_forward(self.post_attention_layernorm(x))


class Stack(nn.ModuleList):
    """Blocks one after another, without a final norm."""

    rope: Tensor
    turned: Tensor

    def __init__(self, config: StackConfig):
        super().__init__(Block(config) for _ in range(config.n_layer))
        self.config = config
        table = rope_table(config)
        unturned = torch.tensor([1.0, 0.0], device="cpu").expand_as(table)
        self.register_buffer("rope", torch.stack([unturned, table], dim=1), persistent=False)
        heads = [1] * (config.n_head + config.n_local_heads) + [0] * config.n_local_heads
        turned = torch.tensor(heads, device="cpu")
        self.register_buffer("turned", turned, persistent=False)

    def __iter__(self) -> Iterator[Block]:
        return cast(Iterator[Block], super().__iter__())

    def forward(self, x: Tensor, caches: Sequence[KVCache] | None = None) -> Tensor:
        """Run the blocks over new positions.

        Args:
            x: [B, T, dim].
            caches: None for positions from 0 on; else caches of B rows in all, each with its own
                position, to which the T new positions are appended.

        Returns:
            [B, T, dim].

        Raises:
            ValueError: more positions than the stack, or a cache, has room for.
        """
        self.check_room(x.shape[1], caches)
        rope = self.rope_at(caches, x.shape[1])
        hidden = x.flatten(0, 1)
        for layer, block in enumerate(self):
            hidden = block(hidden, rope, layer, caches)
        for cache in caches or ():
            cache.advance(x.shape[1])
        return hidden.view_as(x)

    def check_room(self, num_new: int, caches: Sequence[KVCache] | None) -> None:
        """Raise a ValueError where there is no room for that many more positions."""
        room = self.config.max_seq_len if caches is None else min(cache.free for cache in caches)
        if num_new > room:
            raise ValueError(
                f"{num_new} new positions, but there is room for {room}: shorten the input, "
                "begin a new conversation, or make the cache larger"
            )

    def rope_at(self, caches: Sequence[KVCache] | None, num_new: int) -> Tensor:
        """Of the next positions, for all heads: complex64 [B or 1, T, heads, size / 2]."""
        if caches is None:
            rope = self.rope[None, :num_new]
        else:
            ropes = [self.rope[cache.length : cache.length + num_new] for cache in caches]
            if len(caches) == 1:
                rope = ropes[0][None]
            else:
                rows = [cache.num_rows for cache in caches]
                rope = torch.stack([rope for n, rope in zip(rows, ropes) for _ in range(n)])
        # Queries and keys are turned, values are not.
        return torch.view_as_complex(rope.index_select(2, self.turned).float())
