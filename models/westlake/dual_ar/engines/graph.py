"""The engine of CUDA graphs: small kernels, launched one by one, take longer than their work.

Recorded are a frame's codes, and what a decode step does between the attentions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from threading import Lock

from torch import Tensor

from ....transformer import Block, KVCache, Stack
from ....transformer.graphs import Graphed, Result
from ..model import DualARTransformer
from .eager import EagerEngine, draw_codes


class GraphedStack:
    """A stack's step, one at a time. The attentions alone are not recorded: their lengths grow.

    Args:
        stack: of one block or more.
        record: what makes its pieces quick.
    """

    def __init__(
        self, stack: Stack, record: Callable[[Callable], Callable[..., Result]] = Graphed
    ) -> None:
        self.stack = stack
        blocks = tuple(stack)
        self.attentions = [block.self_attn for block in blocks]
        self.begin = record(blocks[0].before_attention)
        self.between = [record(partial(_between, *pair)) for pair in pairwise(blocks)]
        self.end = record(blocks[-1].after_attention)
        self._lock = Lock()  # what is recorded has one place for its inputs and results

    def __call__(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Run one new position of each row.

        Args:
            x: [B, dim].
            caches: of B rows, which are appended to but do not advance.

        Returns:
            [B, dim].
        """
        with self._lock:
            rope = self.stack.rope_at(caches, 1)
            heads = self.begin(x, rope)
            for layer, between in enumerate(self.between):
                mixed = self.attentions[layer].mix(heads, layer, caches)
                x, heads = between(x, mixed, rope)
            layer = len(self.between)
            return self.end(x, self.attentions[layer].mix(heads, layer, caches)).clone()


def _between(
    before: Block, after: Block, x: Tensor, mixed: Tensor, rope: Tensor
) -> tuple[Tensor, Tensor]:
    x = before.after_attention(x, mixed)
    return x, after.before_attention(x, rope)


class GraphEngine(EagerEngine):
    """`EagerEngine`, whose decode steps and codes are CUDA graphs.

    Args:
        model: on a GPU.
        record: what makes the pieces quick.
    """

    name = "graph"

    def __init__(
        self,
        model: DualARTransformer,
        record: Callable[[Callable], Callable[..., Result]] = Graphed,
    ) -> None:
        super().__init__(model)
        self._step = GraphedStack(model.layers, record)
        self._draw_codes = record(partial(draw_codes, model))

    def read(self, grid: Tensor, caches: Sequence[KVCache]) -> Tensor:
        if grid.shape[2] > 1:
            return super().read(grid, caches)
        self.model.layers.check_room(1, caches)
        hidden = self._step(self.model.embed(grid)[:, 0], caches)[:, None]
        for cache in caches:
            cache.advance(1)
        return hidden

    def draw_codes(
        self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor
    ) -> Tensor:
        return self._draw_codes(hidden, windows, settings, points)
