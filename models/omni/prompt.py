"""What is said in a conversation -> segments of the prompt."""

from __future__ import annotations

from torch import Tensor

from ..tokenizer import text_tokens
from .checkpoint import Checkpoint, Tokens
from .segment import Segment, text_segment

SPEECH_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)


class Prompt:
    """The published layout of turns.

    Args:
        checkpoint: whose tokens are used.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokens = Tokens.of(checkpoint)
        encode = checkpoint.tokenizer.encode
        line_end = encode("\n")
        self._end = [self.tokens.turn_end, *line_end]
        self._user = [self.tokens.turn_begin, *encode("user\n")]
        self._assistant = [self.tokens.turn_begin, *encode("assistant\n")]

    def system(self, text: str | None = None) -> Segment:
        """The conversation's beginning.

        Args:
            text: how the model shall be; it follows the sentence that it needs to speak.
        """
        words = f"{SPEECH_SYSTEM}\n{text}" if text else SPEECH_SYSTEM
        ids = text_tokens(self.checkpoint.tokenizer, f"system\n{words}")
        return text_segment([self.tokens.turn_begin, *ids, *self._end])

    def opening(self) -> Segment:
        """Before what a user gives."""
        return text_segment(self._user)

    def text(self, text: str) -> Segment:
        """What a user wrote."""
        return text_segment(text_tokens(self.checkpoint.tokenizer, text))

    def closing(self) -> Segment:
        """Behind what a user gave: the reply follows."""
        return text_segment([*self._end, *self._assistant])

    def reply_end(self, unread: list[int]) -> Segment:
        """Behind a reply, of which these tokens were said but not read."""
        said = [id for id in unread if id not in self.tokens.ends]
        return text_segment([*said, *self._end])

    def marked(self, marks: tuple[int, int], *media: Segment) -> list[Segment]:
        """Sound or pictures, with the marks around them."""
        return [text_segment(marks[:1]), *media, text_segment(marks[1:])]


def embeddings(checkpoint: Checkpoint, segment: Segment) -> Tensor:
    """What the thinker reads for a segment: [n, C]."""
    embedded = checkpoint.embed(segment.ids)
    if segment.media is not None:
        embedded[segment.is_media.to(embedded.device)] = segment.media.to(embedded)
    return embedded
