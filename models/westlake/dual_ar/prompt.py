"""Prompts: a user's turn as a grid, whole or while the user still speaks.

A turn is `<|im_start|>user\\n`, the user's columns, and `<|im_end|><|im_start|>assistant\\n`. Row 0
of the user's columns holds the text's tokens first and `<|semantic|>` on the rest; the other rows
hold the speech's codes + 1. The model reads codes only beneath `<|semantic|>`, so text lies over
the beginning of the speech. Text longer than the speech stands in front of it instead. What a
model wrote down of the speech stands behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """The token ids that a prompt is put together from."""

    semantic: int
    end: int
    user: tuple[int, ...]
    assistant: tuple[int, ...]

    @classmethod
    def from_encode(cls, encode: Callable[[str], list[int]]) -> PromptTokens:
        """Look the special pieces up.

        Args:
            encode: a tokenizer's text -> ids, which knows special tokens and adds none.

        Raises:
            ValueError: the tokenizer has no such special token.
        """

        def single(token: str) -> int:
            ids = encode(token)
            if len(ids) != 1:
                raise ValueError(
                    f"the tokenizer splits {token} into {len(ids)} tokens, but must have it as "
                    "a special token: use the tokenizer published with the model"
                )
            return ids[0]

        return cls(
            semantic=single("<|semantic|>"),
            end=single("<|im_end|>"),
            user=tuple(encode("<|im_start|>user\n")),
            assistant=tuple(encode("<|im_start|>assistant\n")),
        )

    def opening(self, after_reply: bool) -> list[int]:
        """What stands before the user's columns; a further turn closes the last reply first."""
        return [self.end, *self.user] if after_reply else [*self.user]

    def closing(self) -> list[int]:
        """What stands after the user's columns."""
        return [self.end, *self.assistant]


def turn_grid(
    tokens: PromptTokens,
    text_tokens: Sequence[int],
    codes: Tensor | None,
    num_codebooks: int,
    *,
    after_reply: bool = False,
    heard: Sequence[int] = (),
) -> Tensor:
    """Lay out a user's turn.

    Args:
        tokens: the special pieces.
        text_tokens: the text's ids; may be empty.
        codes: the speech [K, n] long as the codec gives it; None without speech.
        num_codebooks: K.
        after_reply: the turn follows a reply, whose end token it begins with.
        heard: ids of what was heard in the speech.

    Returns:
        grid [1+K, T] long.

    Raises:
        ValueError: codes of another shape, or neither text nor speech.
    """
    codes = _speech(codes, num_codebooks)
    num_text, num_frames = len(text_tokens), codes.shape[1]
    _check_turn(num_text, num_frames)
    parts = [text_columns(tokens.opening(after_reply), num_codebooks)]
    if num_text > num_frames:
        parts.append(text_columns(text_tokens, num_codebooks))
        parts.append(_speech_columns(tokens, codes))
    else:
        columns = _speech_columns(tokens, codes)
        columns[0, :num_text] = torch.tensor(text_tokens, dtype=torch.long)
        parts.append(columns)
    parts.append(text_columns([*heard, *tokens.closing()], num_codebooks))
    return torch.cat(parts, dim=1)


class TurnStream:
    """A user's turn while it is spoken: call `start`, `push` for each piece of speech, `finish`.

    The columns they return, one after another, are to the model those of `turn_grid`. (Beneath
    text, where it reads no codes, they hold pads.) Speech that text may turn out to lie over is
    held back until it is as long as the text.

    Args: as of `turn_grid`.
    """

    def __init__(
        self,
        tokens: PromptTokens,
        text_tokens: Sequence[int],
        num_codebooks: int,
        *,
        after_reply: bool = False,
    ):
        self.tokens = tokens
        self.text_tokens = list(text_tokens)
        self.num_codebooks = num_codebooks
        self.after_reply = after_reply
        self._num_frames = 0
        self._held = _speech(None, num_codebooks)

    def start(self) -> Tensor:
        """The columns [1+K, T] before any speech."""
        ids = self.tokens.opening(self.after_reply) + self.text_tokens
        return text_columns(ids, self.num_codebooks)

    def push(self, codes: Tensor) -> Tensor:
        """Add speech [K, n]; returns the columns [1+K, m] that are certain now, m may be 0."""
        codes = _speech(codes, self.num_codebooks)
        num_text, num_before = len(self.text_tokens), self._num_frames
        self._num_frames += codes.shape[1]
        if num_before < num_text:
            held = torch.cat([self._held, codes], dim=1)
            if self._num_frames < num_text:
                codes, self._held = held[:, :0], held
            else:
                codes, self._held = held[:, num_text:], held[:, :0]
        return _speech_columns(self.tokens, codes)

    def finish(self, heard: Sequence[int] = ()) -> Tensor:
        """The last columns [1+K, T]: speech shorter than the text, what was heard (see
        `turn_grid`), and the turn's closing.

        Raises:
            ValueError: the turn has neither text nor speech.
        """
        _check_turn(len(self.text_tokens), self._num_frames)
        closing = text_columns([*heard, *self.tokens.closing()], self.num_codebooks)
        return torch.cat([_speech_columns(self.tokens, self._held), closing], dim=1)


def _check_turn(num_text: int, num_frames: int) -> None:
    if num_text + num_frames == 0:
        raise ValueError("neither text nor speech: give at least one of them")


def _speech(codes: Tensor | None, num_codebooks: int) -> Tensor:
    if codes is None:
        return torch.zeros(num_codebooks, 0, dtype=torch.long)
    if codes.dim() != 2 or codes.shape[0] != num_codebooks:
        raise ValueError(
            f"codes have shape {list(codes.shape)}, but must be [{num_codebooks}, n]: "
            "one row per codebook, without a batch dimension"
        )
    return codes.to("cpu", torch.long)


def text_columns(ids: Sequence[int], num_codebooks: int) -> Tensor:
    """Text with pad codes beneath, [1+K, T]."""
    columns = torch.zeros(1 + num_codebooks, len(ids), dtype=torch.long)
    columns[0] = torch.tensor(ids, dtype=torch.long)
    return columns


def _speech_columns(tokens: PromptTokens, codes: Tensor) -> Tensor:
    """Codes + 1 beneath `<|semantic|>`, [1+K, n]."""
    return torch.cat([codes.new_full((1, codes.shape[1]), tokens.semantic), codes + 1])
