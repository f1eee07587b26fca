"""A user's turn while it comes in: what is shown, said and written is read at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audio import StreamResampler
from ..errors import UserError
from .listen import MAX_SECONDS, MelStream, encode_sound
from .segment import Segment, sound_segment, text_segment

if TYPE_CHECKING:
    from .conversation import Conversation

MIN_SECONDS = 0.1  # of speech; shorter is padded
TOKENS_PER_SECOND = 25


class UserTurn:
    """A user's turn: pictures, then what is said, then what was written.

    Sound is encoded in blocks of two seconds, each once and for good, so what is left to do at
    the end does not depend on how long the user spoke.

    Args:
        conversation: the conversation that this turn continues; one turn at a time.
        text: what the user wrote, if anything.
        sample_rate: of the samples to come, in Hz; None for the model's.
        shown: segments of pictures and video.

    Raises:
        UserError: it is too long, or no text.
    """

    def __init__(
        self,
        conversation: Conversation,
        text: str | None,
        sample_rate: int | None,
        shown: list[Segment],
    ) -> None:
        self.conversation = conversation
        self.text = (text or "").strip()
        model = conversation.model
        settings = model.mel_settings
        self._resampler = StreamResampler(sample_rate or model.sample_rate, settings.sample_rate)
        self._mel = MelStream(settings)
        model.check_text(self.text)
        self._written = [model.prompt.text(self.text)] if self.text else []
        self._is_finished = False
        self._is_empty = not (shown or self.text)
        self._tail = model.prompt.closing()  # and what it costs, kept free until the end
        self.turn: Any = conversation.open()
        self._append([model.prompt.opening(), *shown])

    @property
    def seconds_heard(self) -> float:
        """Seconds of speech so far."""
        return self._mel.num_samples / self._mel.settings.sample_rate

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that the turn still has room for."""
        if self.conversation.open_turn is not self.turn:
            return 0.0
        room = self.conversation.room_for_turn(self._num_reserved) / TOKENS_PER_SECOND
        return max(0.0, min(MAX_SECONDS - self.seconds_heard, room))

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1.

        Raises:
            UserError: the turn has become too long for the model's context, which ends it as if
                it had not begun; or it was over already.
        """
        self._check_open()
        self._hear(self._resampler.push(samples))

    def finish(self) -> None:
        """The user has finished: complete the prompt, which is read with the reply.

        Raises:
            UserError: the turn holds nothing, or has become too long; either ends it as if it had
                not begun.
        """
        self._check_open()
        if self._mel.num_samples or self._resampler.pending:
            settings = self._mel.settings
            tail = self._resampler.finish()
            missing = int(MIN_SECONDS * settings.sample_rate) - self._mel.num_samples - len(tail)
            self._hear(torch.cat([tail, tail.new_zeros(max(0, missing))]), last=True)
            self._append([text_segment(self.conversation.model.prompt.tokens.sound_marks[1:])])
        elif self._is_empty:
            self.abandon()
            raise UserError("error_nothing_given")
        self._append([*self._written, self._tail], read=False)
        self._is_finished = True

    def abandon(self, fault: Exception | None = None) -> None:
        """Forget the turn, as if it had not begun; one that is over stays as it is.

        Args:
            fault: for which; one that is no UserError may have left anything in the caches.
        """
        if self.conversation.open_turn is self.turn:
            self.conversation.abandon_turn()
            if not isinstance(fault, UserError | None):
                self.conversation.read_anew()

    @property
    def is_finished(self) -> bool:
        return self._is_finished

    @property
    def _num_reserved(self) -> int:
        """Positions that the end of the turn takes."""
        return sum(map(len, [*self._written, self._tail])) + 1

    def _check_open(self) -> None:
        if self.conversation.open_turn is not self.turn or self._is_finished:
            raise UserError("error_turn_over")

    def _hear(self, samples: Tensor, last: bool = False) -> None:
        model = self.conversation.model
        heard = self.seconds_heard + len(samples) / self._mel.settings.sample_rate
        if heard > MAX_SECONDS + MIN_SECONDS:
            self.abandon()
            raise UserError(
                "error_input_too_long", seconds=f"{heard:.1f}", limit=f"{MAX_SECONDS:.1f}"
            )
        if not self._mel.num_samples and len(samples):
            self._append([text_segment(model.prompt.tokens.sound_marks[:1])])
        for block in self._mel.push(samples, last):
            tokens = encode_sound(model.checkpoint, block)
            if len(tokens):
                self._append([sound_segment(model.prompt.tokens.sound, tokens)])

    def _append(self, segments: list[Segment], read: bool = True) -> None:
        try:
            self.conversation.add(segments, 0 if not read else self._num_reserved)
            if read:
                self.conversation.read()
        except Exception as error:
            self.abandon(error)
            raise
