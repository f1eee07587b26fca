"""A language model's decode steps as CUDA graphs, but for the attentions, whose lengths grow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

from ..transformer.graphs import Graphed, Result
from .cache import KVCache

TOLERANCE = 0.02  # of hidden states, relative; bfloat16 rounds by 0.004
NUM_READ = 300  # columns before the steps, more than the cache's first block holds
NUM_CHECKED = 3  # steps


def eager_step(model: Any, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
    """Let a language model of transformers read on.

    Args:
        model: of the thinker or the talker.
        inputs: [n, C].
        positions: [3, n] long.
        cache: what it has read, which is appended to.

    Returns:
        Its states [n, C].
    """
    out = model(
        inputs_embeds=inputs[None],
        position_ids=positions[:, None].to(inputs.device),
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state[0]


class GraphedStep:
    """The same for a single position. One step is under way at a time, whoever asks.

    Args:
        model: of the thinker or the talker.
        record: what makes its pieces quick.
    """

    def __init__(
        self, model: Any, record: Callable[[Callable], Callable[..., Result]] = Graphed
    ) -> None:
        layers = tuple(model.layers)
        self._attentions = [layer.self_attn for layer in layers]
        self._begin = record(partial(_begin, model.rotary_emb, layers[0]))
        self._between = [record(partial(_between, *pair)) for pair in pairwise(layers)]
        self._end = record(partial(_end, layers[-1], model.norm))
        self._lock = Lock()

    def __call__(self, inputs: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """See `eager_step`; inputs [1, C], positions [3, 1]."""
        with self._lock, torch.no_grad():
            cos, sin, *heads = self._begin(inputs[None], positions[:, None].to(inputs.device))
            x = inputs[None]
            for layer, between in enumerate(self._between):
                x, *heads = between(x, self._mixed(layer, heads, cache), cos, sin)
            last = len(self._between)
            return self._end(x, self._mixed(last, heads, cache))[0].clone()

    def _mixed(self, layer: int, heads: list[Tensor], cache: KVCache) -> Tensor:
        """The attention of a layer, [1, 1, heads * size]."""
        query, key, value = heads
        keys, values = cache.update(key, value, layer)
        scale = self._attentions[layer].scaling
        mixed = F.scaled_dot_product_attention(query, keys, values, scale=scale, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2)


def _begin(rotary: Any, layer: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
    cos, sin = rotary(x, positions)
    return (cos, sin, *_before_attention(layer, x, cos, sin))


def _between(
    before: Any, after: Any, x: Tensor, mixed: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, ...]:
    x = _after_attention(before, x, mixed)
    return (x, *_before_attention(after, x, cos, sin))


def _end(layer: Any, norm: Any, x: Tensor, mixed: Tensor) -> Tensor:
    return norm(_after_attention(layer, x, mixed))


def _before_attention(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values [1, heads, 1, size] of x [1, 1, C]."""
    attention, normed = layer.self_attn, layer.input_layernorm(x)
    query, key, value = (
        # [1, 1, heads * size] -> [1, heads, 1, size]
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return (*apply_rotary_pos_emb(query, key, cos, sin), value)


def _after_attention(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + layer.self_attn.o_proj(mixed)
    return x + layer.mlp(layer.post_attention_layernorm(x))


def checked(step: GraphedStep, model: Any) -> GraphedStep | None:
    """The step if its states are `eager_step`'s, else None, with a warning."""
    if any(layer.self_attn.sliding_window for layer in model.layers):
        fault: str | None = "a layer attends within a sliding window"
    else:
        try:
            error = _error(step, model)
            fault = None if error <= TOLERANCE else f"states differ by {error:.3g} of their size"
        except Exception as exception:  # whatever capturing may raise
            fault = f"{type(exception).__name__}: {exception}"
    if fault is None:
        return step
    reason = " ".join(fault.split())
    logger.warning(f"CUDA graphs are left out, PyTorch takes their place: {reason}")
    return None


@torch.no_grad()
def _error(step: GraphedStep, model: Any) -> float:
    """How far the states of steps are from `eager_step`'s, relative, after much was read.

    The columns are random, and so are their positions: unlike ones in time, height and width.
    """
    width, device = model.config.hidden_size, model.norm.weight.device
    generator = torch.Generator().manual_seed(0)
    num_columns = NUM_READ + NUM_CHECKED
    inputs = torch.randn(num_columns, width, generator=generator)
    inputs = inputs.to(device, model.norm.weight.dtype)
    positions = torch.randint(num_columns, (3, num_columns), generator=generator)
    caches = [KVCache(len(model.layers)) for _ in range(2)]
    for cache in caches:
        eager_step(model, inputs[:NUM_READ], positions[:, :NUM_READ], cache)
    states = []
    for place in range(NUM_READ, num_columns):
        given = inputs[place : place + 1], positions[:, place : place + 1]
        states.append((eager_step(model, *given, caches[0]), step(*given, caches[1])))
    expected, found = (torch.cat(each).float() for each in zip(*states))
    return float((found - expected).norm() / expected.norm())
