"""The engine in C, for quantised models: columns that are embedded and go through the layers, the
text token, a frame's codes.

For single positions PyTorch's own overhead is the most; here each of the four is one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import CDLL, addressof, c_bool, c_int64, c_void_p

import torch
from torch import Tensor

from ....logits import NOT_FINITE
from ....transformer import KVCache, Stack
from ....transformer.native import (
    EmbeddingStruct,
    HeadStruct,
    LinearStruct,
    NativeLinear,
    NativeStack,
    native_form,
    num_threads,
    pointer_of,
    scratch_of,
    share_of_threads,
    without_torch_threads,
)
from ....transformer.quantised import Int8Embedding
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
        self._embed = NativeEmbedding(library, model)
        self._layers = NativeStack(library, model.layers)
        self._text = NativeText(
            library, native_form(model.lm_head), model.norm.weight, model.norm.eps
        )
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
        return self._layers(self._embed(grid), caches)

    def find_texts(
        self,
        hidden: Tensor,
        leanings: Sequence[Tensor | None],
        settled: Sequence[bool],
        window: Tensor,
        settings: Tensor,
        points: Tensor,
    ) -> list[int]:
        return self._text(hidden, leanings, settled, window, settings, points)

    def draw_codes(
        self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor
    ) -> Tensor:
        return self._draw_codes(hidden, windows, settings, points)


class NativeEmbedding:
    """`DualARTransformer.embed`, to the bit.

    Args:
        library: from `load_library`.
        model: of bfloat16 embeddings, or one that its head of 8 bits is tied to.
    """

    def __init__(self, library: CDLL, model: DualARTransformer) -> None:
        config, tokens = model.config, model.embed_tokens
        is_tied = isinstance(tokens, Int8Embedding)
        self.compiled, self.model = library, model
        self.struct = EmbeddingStruct(
            native_form(model.lm_head).struct if is_tied else LinearStruct(),
            None if is_tied else pointer_of(tokens.weight),
            pointer_of(model.codebook_embeddings.weight),
            config.vocab_size,
            config.num_codebooks,
            config.codebook_size,
            config.dim,
            model.semantic_id,
        )

    def __call__(self, grid: Tensor) -> Tensor:
        """See `DualARTransformer.embed`.

        Raises:
            IndexError: what is no token or code.
        """
        grid, dim = grid.contiguous(), self.struct.dim
        x = torch.empty(len(grid), grid.shape[2], dim, dtype=torch.bfloat16)
        _, scratch = scratch_of((0,), 4 * dim)
        if not self.compiled.native_embed(
            addressof(self.struct), grid.data_ptr(), *x.shape[:2], x.data_ptr(), scratch
        ):
            raise IndexError("the columns hold what is no token or code of the model")
        return x


class NativeText:
    """`EagerEngine.find_texts`.

    Args:
        library: from `load_library`.
        head: the text head's `native` form.
        norm, eps: bfloat16 [dim], the weight of the norm before it, and its epsilon.
    """

    def __init__(self, library: CDLL, head: NativeLinear, norm: Tensor, eps: float) -> None:
        self.compiled, self.head, self.norm, self.eps = library, head, norm, eps

    def __call__(
        self,
        hidden: Tensor,
        leanings: Sequence[Tensor | None],
        settled: Sequence[bool],
        window: Tensor,
        settings: Tensor,
        points: Tensor,
    ) -> list[int]:
        """See `EagerEngine.find_texts`."""
        hidden, window, points = (x.contiguous() for x in (hidden, window, points))
        num_rows, head = len(hidden), addressof(self.head.struct)
        num_bytes = self.compiled.native_text_scratch(head, num_rows, num_threads())
        _, scratch = scratch_of((0,), num_bytes)
        added = [None if leaning is None else leaning.data_ptr() for leaning in leanings]
        drawn = (c_int64 * num_rows)()
        with share_of_threads() as threads:
            self.compiled.native_text(
                head, pointer_of(hidden), pointer_of(self.norm), self.eps,
                (c_void_p * num_rows)(*added), (c_bool * num_rows)(*settled),
                window.data_ptr(), settings.data_ptr(), points.data_ptr(), *window.shape, drawn,
                scratch, threads,
            )  # fmt: skip
        tokens = list(drawn)
        if NO_TOKEN in tokens:
            raise FloatingPointError(NOT_FINITE)
        return tokens


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
        _, scratch = scratch_of((0,), num_bytes)
        drawn = torch.empty(len(logits), dtype=torch.long)
        with share_of_threads() as threads:
            self.compiled.native_draw(
                logits.data_ptr(), window.data_ptr(), settings.data_ptr(), points.data_ptr(),
                num_rows, vocab_size, window.shape[1], drawn.data_ptr(), scratch,
                threads,
            )  # fmt: skip
        if NO_TOKEN in drawn.tolist():
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
        hidden, windows, points = (x.contiguous() for x in (hidden, windows, points))
        codes = torch.empty(points.shape, dtype=torch.long)
        head = addressof(self.struct)
        num_bytes = self.compiled.native_codes_scratch(head, *codes.shape, num_threads())
        _, scratch = scratch_of((0,), num_bytes)
        with share_of_threads() as threads:
            self.compiled.native_codes(
                head, pointer_of(hidden), self.stack.angles.data_ptr(), windows.data_ptr(),
                settings.data_ptr(), points.data_ptr(), *windows.shape, codes.data_ptr(),
                scratch, threads,
            )  # fmt: skip
        return codes
