"""A user's turn while it is spoken: wave -> codes -> columns, read at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..audio import StreamResampler
from ..contract import Frames
from ..conversations import check_text
from ..errors import UserError
from ..prosody import ProsodyStream
from ..tokenizer import text_tokens
from .dictation import Dictation
from .dual_ar.prompt import TurnStream
from .moods import features
from .speech import shown_frames

if TYPE_CHECKING:
    from .conversation import Conversation
    from .speech_model import WestlakeModel

FRAMES_AT_ONCE = 64  # encoded; more need large blocks of memory, and not less time


class UserTurn:
    """A user's turn while it is spoken: what was heard is encoded and read at once.

    What is left to do at the end does not depend on how long the user spoke. The text must be
    known at the start, as it stands on the first frames: its columns are read immediately, the
    speech beneath them is held back until it is longer than the text (see `TurnStream`). What a
    model writes down of speech without text (see `Dictation`) stands at the turn's end.

    Args:
        conversation: the conversation that this turn continues; one turn at a time.
        text: what the user wrote, if anything.
        sample_rate: of the samples to come, in Hz; None for the codec's.

    Raises:
        UserError: text that is too long, or no text.
    """

    def __init__(
        self, conversation: Conversation, text: str | None = None, sample_rate: int | None = None
    ) -> None:
        model = conversation.model
        codec = model.checkpoint.codec
        self.conversation = conversation
        self.text = (text or "").strip()
        self.num_samples = 0  # heard and encoded, at the codec's rate
        tokens = _text_tokens(model, self.text)
        self._resampler = StreamResampler(
            sample_rate or codec.config.sample_rate, codec.config.sample_rate
        )
        self._codec_state = codec.new_state()
        self._stream = TurnStream(model.prompt_tokens, tokens, codec.config.num_codebooks)
        checkpoint = model.checkpoint
        heard_ids = {} if self.text else checkpoint.heard_ids
        self._dictation = Dictation(checkpoint.model, heard_ids, checkpoint.syllables)
        self._num_dictated = 0  # of the turn's columns
        tells_moods = checkpoint.mood_leaning is not None
        self._voice = ProsodyStream(codec.config.sample_rate) if tells_moods else None
        self.turn = conversation.open()
        self._append(self._stream.start())

    @property
    def seconds_heard(self) -> float:
        """Seconds of speech so far."""
        return self.num_samples / self.conversation.model.sample_rate

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that the turn still has room for."""
        model = self.conversation.model
        text_seconds = len(self._stream.text_tokens) / model.frame_rate
        heard = self.seconds_heard
        if heard >= text_seconds:
            heard -= text_seconds  # the rest lies beneath the text; shorter speech lies behind it
        return max(0.0, model.max_input_seconds - text_seconds - heard)

    @property
    def heard(self) -> str | None:
        """The syllables that the model wrote down of the speech so far; None for none."""
        return self._dictation.text

    @property
    def manner(self) -> Tensor | None:
        """How the user spoke, of a turn that is finished: see `moods.features`.

        None where nothing was said, or was understood of speech without text; where it has too
        little pitch; and of a checkpoint that has no classifier of moods.
        """
        if self._voice is None or not self.num_samples or not (self.text or self.heard):
            return None
        num_syllables = len(self.heard.split()) if self.heard else None
        return features(self._voice.finish(), num_syllables)

    @property
    def frames(self) -> Frames:
        """The turn's columns so far; see `contract.FramedTurn`."""
        columns = self.turn.columns
        said = columns[:, : self.turn.prompt_length or columns.shape[1]]
        return shown_frames(said, self.conversation.model.checkpoint)

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1.

        Raises:
            UserError: the turn has become too long for the model's context, which ends it as if
                it had not begun; or it was over already.
        """
        self._check_open()
        self._encode(self._resampler.push(samples), last=False)
        self._read()

    def finish(self) -> None:
        """The user has finished: complete the prompt, leaving its last columns to be read.

        Raises:
            UserError: the turn has neither speech nor text, or has become too long; either ends
                it as if it had not begun.
        """
        self._check_open()
        if self.num_samples or self._resampler.pending:
            tail = self._resampler.finish()
            config = self.conversation.model.checkpoint.codec.config
            missing = config.samples_per_frame - self.num_samples - len(tail)
            self._encode(torch.cat([tail, tail.new_zeros(max(0, missing))]), last=True)
            if self._dictation.is_taken:
                self._read()
        if not self.text and not self.num_samples:
            self.abandon()
            raise UserError("error_nothing_given")
        closing = self._stream.finish(self._dictation.tokens)
        room = self.conversation.model.max_input_columns - self.turn.columns.shape[1]
        if closing.shape[1] > room:
            self._dictation.forget()  # all or nothing: a part would be taken for the whole
            closing = self._stream.finish()
        self._append(closing)
        self.turn.prompt_length = self.turn.columns.shape[1]

    def abandon(self) -> None:
        """Forget the turn, as if it had not begun; one that is over stays as it is."""
        if self.conversation.open_turn is self.turn:
            self.conversation.abandon_turn()

    def _check_open(self) -> None:
        if self.conversation.open_turn is not self.turn or self.turn.prompt_length:
            raise UserError("error_turn_over")

    @torch.no_grad()
    def _encode(self, samples: Tensor, last: bool) -> None:
        checkpoint = self.conversation.model.checkpoint
        codec, device = checkpoint.codec, checkpoint.device
        self.num_samples += len(samples)
        if self._voice is not None:
            self._voice.push(samples.numpy())
        *pieces, end = samples.split(FRAMES_AT_ONCE * codec.config.samples_per_frame)
        columns = []
        for piece, is_last in [*((piece, False) for piece in pieces), (end, last)]:
            wave = piece[None, None].to(device)
            codes = codec.encode_chunk(wave, self._codec_state, last=is_last)
            columns.append(self._stream.push(codes[0].cpu()))
        self._append(torch.cat(columns, dim=1))

    def _read(self) -> None:
        """Let the model read all columns so far, and write down what it hears in them."""
        hidden = self.conversation.read()
        if not self._dictation.is_taken:
            return
        new = self.turn.columns[0, self._num_dictated :]
        is_speech = new == self.conversation.model.checkpoint.semantic_id
        assert len(hidden) >= len(new)  # dropped turns make it read more, never less
        self._dictation.hear(hidden[len(hidden) - len(new) :][is_speech.to(hidden.device)])
        self._num_dictated += len(new)

    def _append(self, columns: Tensor) -> None:
        try:
            self.conversation.make_room(columns.shape[1])
        except UserError:
            self.abandon()
            raise
        self.conversation.add(columns)


def _text_tokens(model: WestlakeModel, text: str) -> list[int]:
    """A user's text as tokens; what looks like a control token in it is text as well."""
    check_text(text, model.max_input_characters)
    return text_tokens(model.checkpoint.tokenizer, text)
