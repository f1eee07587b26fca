"""A user's turn while it is spoken, or what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..audio import StreamResampler
from ..conversations import check_text
from ..errors import UserError
from ..tokenizer import text_tokens
from . import ear
from .generation import Prompt, prompt_of_speech, prompt_of_text

if TYPE_CHECKING:
    from .conversation import Conversation
    from .speech_model import MiniOmniModel


class UserTurn:
    """A user's turn: text, or speech. The ear hears the whole of it, so it begins at the end.

    Args:
        conversation: the conversation that this turn belongs to.
        text: what the user wrote, if anything.
        sample_rate: of the samples to come, in Hz; None for the model's own.

    Raises:
        UserError: text that is too long, or no text.
    """

    def __init__(
        self, conversation: Conversation, text: str | None = None, sample_rate: int | None = None
    ) -> None:
        model = conversation.model
        self.conversation = conversation
        self.text = (text or "").strip()
        self.prompt: Prompt | None = None  # until the turn is finished
        self._tokens = _text_tokens(model, self.text)
        self._resampler = StreamResampler(sample_rate or model.sample_rate, ear.SAMPLE_RATE)
        self._pieces: list[Tensor] = []
        self._num_samples = 0  # at the ear's rate

    @property
    def seconds_heard(self) -> float:
        """Seconds of speech so far."""
        return self._num_samples / ear.SAMPLE_RATE

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that the turn still has room for."""
        return max(0.0, self.conversation.model.max_input_seconds - self.seconds_heard)

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1.

        Raises:
            UserError: the turn has text, or has become longer than the ear hears at once or the
                context holds, which ends it as if it had not begun; or it was over already.
        """
        self._check_open()
        if self.text:
            self.abandon()
            raise UserError("error_speech_or_text")
        self._keep(self._resampler.push(samples))

    def finish(self) -> None:
        """The user has finished: hear what was said.

        Raises:
            UserError: the turn has neither speech nor text, or is too long; either ends it as if
                it had not begun.
        """
        self._check_open()
        model = self.conversation.model.checkpoint.model
        self._keep(self._resampler.finish())
        if not self.text and not self._num_samples:
            self.abandon()
            raise UserError("error_nothing_given")
        with torch.inference_mode():
            if self.text:
                self.prompt = prompt_of_text(model, self._tokens)
            else:
                features = self.conversation.model.checkpoint.ear(torch.cat(self._pieces))
                self.prompt = prompt_of_speech(model, features)

    def abandon(self) -> None:
        """Forget the turn, as if it had not begun; one that is over stays as it is."""
        if self.conversation.open_turn is self:
            self.conversation.open_turn = None

    def _keep(self, samples: Tensor) -> None:
        limit = self.conversation.model.max_input_samples
        self._num_samples += len(samples)
        if self._num_samples > limit:
            self.abandon()
            raise UserError(
                "error_input_too_long",
                seconds=f"{self.seconds_heard:.1f}",
                limit=f"{limit / ear.SAMPLE_RATE:.1f}",
            )
        self._pieces.append(samples)

    def _check_open(self) -> None:
        if self.conversation.open_turn is not self or self.prompt is not None:
            raise UserError("error_turn_over")


def _text_tokens(model: MiniOmniModel, text: str) -> list[int]:
    check_text(text, model.max_input_characters)
    tokens = text_tokens(model.checkpoint.tokenizer, text)
    if len(tokens) > model.max_input_tokens:
        limit = len(text) * model.max_input_tokens // len(tokens)
        raise UserError("error_text_too_long", characters=len(text), limit=limit)
    return tokens
