"""The engine in PyTorch; the others keep its interface."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ....logits import check_logits
from ....transformer import KVCache
from ..model import DualARTransformer
from ..sampling import sample


class EagerEngine:
    """How frames are made: columns are read, a token is drawn, a frame's codes are drawn.

    Args:
        model: whose weights are read.
    """

    name = "eager"

    def __init__(self, model: DualARTransformer) -> None:
        self.model = model

    def stepping(self) -> AbstractContextManager[None]:
        """Within it a step of replies is made, with what the engine needs around its calls."""
        return nullcontext()

    def read(self, grid: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Let the slow stack read columns: prefill, or one decode step.

        Args:
            grid: [B, 1+K, T] long.
            caches: one for each row, to which the columns are appended.

        Returns:
            hidden [B, T, dim].

        Raises:
            ValueError: more columns than a cache has room for.
        """
        return self.model.forward_hidden(grid, caches)

    def find_texts(
        self,
        hidden: Tensor,
        leanings: Sequence[Tensor | None],
        settled: Sequence[bool],
        window: Tensor,
        settings: Tensor,
        points: Tensor,
    ) -> list[int]:
        """Draw the next frame's text token of each row.

        Args:
            hidden: [B, dim].
            leanings: for each row what is added to its logits, [vocab] float32.
            settled: for each row whether its likeliest token is taken.
            window: [B, W] long, the text tokens generated last.
            settings: [B, 3] float32, see `sampling.sample`.
            points: [B] float64, see `sampling.sample`.

        Raises:
            FloatingPointError: logits that are not finite.
        """
        logits = self.text_logits(hidden)
        for row, leaning in enumerate(leanings):
            if leaning is not None:
                logits[row] += leaning
        check_logits(logits)
        drawn = sample(logits, window, settings, points).tolist()
        for row in (row for row, is_settled in enumerate(settled) if is_settled):
            drawn[row] = int(logits[row].argmax())
        return drawn

    def text_logits(self, hidden: Tensor) -> Tensor:
        """The logits [B, vocab] of the text token after hidden [B, dim]."""
        return self.model.text_logits(hidden)

    def draw_codes(
        self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor
    ) -> Tensor:
        """Draw the codes of a frame, one after another.

        Args:
            hidden: [B, dim], what the slow stack gave for the position before the frame.
            windows: [B, K, W] long, the codes generated last.
            settings: [B, 3] float32, see `sampling.sample`.
            points: [B, K] float64, see `sampling.sample`.

        Returns:
            [B, K] long.
        """
        return draw_codes(self.model, hidden, windows, settings, points)


def draw_codes(
    model: DualARTransformer, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor
) -> Tensor:
    """See `EagerEngine.draw_codes`; it never waits for the device."""
    cache = model.new_fast_cache(len(hidden))
    codes: list[Tensor] = []
    for codebook in range(model.config.num_codebooks):
        x = model.embed_codes(codes[-1]) if codes else hidden
        logits = model.step_fast(x, cache)
        codes.append(sample(logits, windows[:, codebook], settings, points[:, codebook]))
    return torch.stack(codes, dim=1)
