"""How a step is computed: what columns are read, and which tokens follow."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL

from torch import Tensor

from ..logits import check_logits
from ..transformer import KVCache, Stack
from ..transformer.native import MAX_HEAD, NativeStack
from .config import NUM_CODEBOOKS
from .model import MiniOmniTransformer


class Engine:
    """A model's columns, read, and the likeliest tokens after them.

    Those of a model of few bits are read in C.

    Args:
        model: whose weights are in place.
        library: that its quantised layers are prepared with; None for none.
    """

    def __init__(self, model: MiniOmniTransformer, library: CDLL | None = None) -> None:
        self.model = model
        num_text = model.config.text_vocab_size
        self._text_head = model.head_of(slice(0, num_text))
        self._audio_head = model.head_of(slice(num_text, None))
        self._layers: Stack | NativeStack = model.layers
        if library is not None and model.config.stack.head_dim <= MAX_HEAD:
            self._layers = NativeStack(library, model.layers)

    @property
    def name(self) -> str:
        return "native" if isinstance(self._layers, NativeStack) else "eager"

    def read(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Let the stack read columns.

        Args:
            x: [B, T, dim], embedded.
            caches: of B rows in all, to which the columns are appended.

        Returns:
            hidden [B, T, dim].

        Raises:
            ValueError: more columns than a cache has room for.
        """
        return self._layers(x, caches)

    def text(self, hidden: Tensor) -> Tensor:
        """The likeliest text token after hidden [B, dim]: [B] long.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        logits = self._text_head(self._normed(hidden))
        check_logits(logits)
        return logits.argmax(-1)

    def codes(self, hidden: Tensor) -> Tensor:
        """The likeliest code of each row after hidden [B, dim]: [B, 7] long.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        logits = self._audio_head(self._normed(hidden))
        check_logits(logits)
        return logits.unflatten(-1, (NUM_CODEBOOKS, -1)).argmax(-1)

    def _normed(self, hidden: Tensor) -> Tensor:
        # In C the logits come in the dtype of the input, and in bfloat16 the likeliest would tie.
        return self.model.norm(hidden.float() if self.name == "native" else hidden)
