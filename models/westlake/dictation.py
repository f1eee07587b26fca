"""What a model writes down while it hears a user speak."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .dual_ar import DualARTransformer


class Dictation:
    """The syllables that the text head writes down over a turn's columns of speech.

    In each column the head tells the syllable that has become certain there, or `<|semantic|>` for
    nothing new; what it tells in neighbouring columns alike was said once (greedy decoding of
    connectionist temporal classification, Graves et al., 2006).

    Args:
        model: that hears.
        heard_ids: the syllables' text tokens; none where the model was not taught to.

    Fields:
        tokens: written down so far.
    """

    def __init__(self, model: DualARTransformer, heard_ids: Mapping[str, int]) -> None:
        self.tokens: list[int] = []
        self._model = model
        self._ids = torch.tensor([model.semantic_id, *heard_ids.values()], device=model.device)
        self._head = model.text_head(self._ids)
        self._last = model.semantic_id
        self._names = {id: name for name, id in heard_ids.items()}

    @property
    def is_taken(self) -> bool:
        """Whether anything can be written down."""
        return len(self._ids) > 1

    @property
    def text(self) -> str | None:
        """What was written down, with blanks between; None where nothing was."""
        return " ".join(self._names[token] for token in self.tokens) or None

    @torch.no_grad()
    def hear(self, hidden: Tensor) -> None:
        """Hear on: hidden [T, dim] of the next columns of speech, as the slow stack gives it."""
        if not len(hidden):
            return
        best = self._head(hidden).argmax(-1)
        for token in self._ids[best].tolist():
            if token not in (self._last, self._model.semantic_id):
                self.tokens.append(token)
            self._last = token
