"""The engine in C, for quantised models: columns through the layers, the text head, a draw, a
frame's codes.

For single positions PyTorch's own overhead is the most; here each of the four is one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import CDLL, addressof

import torch
from torch import Tensor

from ....logits import NOT_FINITE
from ....transformer import KVCache, Stack
from ....transformer.native import (
    HeadStruct,
    NativeLinear,
    NativeStack,
    native_form,
    num_threads,
    pointer_of,
    scratch_of,
    share_of_threads,
    without_torch_threads,
)
from ..model import DualARTransformer
from .eager import EagerEngine

NO_TOKEN = -1  # as in the C file


class NativeEngine(EagerEngine):
    """`EagerEngine` in C; a conversation gives the same however its columns are read.

    Args:
        model: of quantised layers that are prepared with the library.
        library: from `load_library`.
    """

    name = "native"

    def __init__(self, model: DualARTransformer, library: CDLL) -> None:
        super().__init__(model)
        self._layers = NativeStack(library, model.layers)
        self._text_head = native_form(model.lm_head)
        self._draw = NativeDraw(library)
        self._draw_codes = NativeCodes(
            library,
            model.fast_layers,
            model.fast_norm.weight,
            native_form(model.fast_output),
            model.fast_embeddings.weight,
        )

    def stepping(self) -> AbstractContextManager[None]:
        return without_torch_threads()

    def read(self, grid: Tensor, caches: Sequence[KVCache]) -> Tensor:
        return self._layers(self.model.embed(grid), caches)

    def text_logits(self, hidden: Tensor) -> Tensor:
        return self._text_head.kept(self.model.normed(hidden))

    def draw(self, logits: Tensor, window: Tensor, settings: Tensor, points: Tensor) -> Tensor:
        return self._draw(logits, window, settings, points)

    def draw_codes(
        self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor
    ) -> Tensor:
        return self._draw_codes(hidden, windows, settings, points)


class NativeDraw:
    """`sampling.sample`.

    Args:
        library: from `load_library`.
    """

    def __init__(self, library: CDLL) -> None:
        self.compiled = library

    def __call__(self, logits: Tensor, window: Tensor, settings: Tensor, points: Tensor) -> Tensor:
        """See `sampling.sample`.

        Raises:
            FloatingPointError: logits that are not finite.
        """
        logits, window, points = (x.contiguous() for x in (logits.float(), window, points))
        num_rows, vocab_size = logits.shape
        num_bytes = self.compiled.native_draw_scratch(vocab_size, min(num_rows, num_threads()))
        _, scratch = scratch_of(logits.shape, num_bytes)  # behind `text_logits`
        drawn = torch.empty(len(logits), dtype=torch.long)
        with share_of_threads() as threads:
            self.compiled.native_draw(
                logits.data_ptr(), window.data_ptr(), settings.data_ptr(), points.data_ptr(),
                num_rows, vocab_size, window.shape[1], drawn.data_ptr(), scratch.data_ptr(),
                threads,
            )  # fmt: skip
        if NO_TOKEN in drawn:
            raise FloatingPointError(NOT_FINITE)
        return drawn


class NativeCodes:
    """`EagerEngine.draw_codes`: the fast stack, its head and `NativeDraw` in turn.

    Args:
        library: from `load_library`.
        stack: the fast stack.
        norm: bfloat16 [dim], the weight of the norm after it.
        output: its head, a quantised layer's `native` form.
        embedding: bfloat16 [codebook_size, dim], what the stack reads of a code.
    """

    def __init__(
        self,
        library: CDLL,
        stack: Stack,
        norm: Tensor,
        output: NativeLinear,
        embedding: Tensor,
    ) -> None:
        self.compiled = library
        self.stack = NativeStack(library, stack)
        self.num_codebooks = stack.config.max_seq_len
        self.struct = HeadStruct(
            self.stack.struct, output.struct, pointer_of(norm), pointer_of(embedding)
        )

    def __call__(self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor) -> Tensor:
        """See `EagerEngine.draw_codes`."""
        windows, points = windows.contiguous(), points.contiguous()
        codes = torch.empty(points.shape, dtype=torch.long)
        head = addressof(self.struct)
        x, scratch = scratch_of(
            hidden.shape,
            self.compiled.native_codes_scratch(head, *codes.shape, num_threads()),
        )
        x.copy_(hidden)
        with share_of_threads() as threads:
            self.compiled.native_codes(
                head, x.data_ptr(), self.stack.angles.data_ptr(), windows.data_ptr(),
                settings.data_ptr(), points.data_ptr(), *windows.shape, codes.data_ptr(),
                scratch.data_ptr(), threads,
            )  # fmt: skip
        return codes
