"""The reply loop: a finished user turn -> its reply, streamed as text and sound."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..contract import ReplyChunk, ReplyOptions
from ..conversations import drawn_seed
from ..errors import UserError, shown
from ..tokenizer import TextDecoder
from .generation import CodeSteps, TextSteps
from .sampling import OmniSampling
from .segment import Segment, text_segment
from .token2wav import Token2Wav

if TYPE_CHECKING:
    from .user_turn import UserTurn

MAX_TOKENS, MAX_CODES = 1024, 4096  # of a reply, as published
CODES_WITHOUT_TEXT = 2  # positions of the talker that are no codes: the voice, and the begin
TEXT_SECONDS = 0.1  # that text waits for more at most, once there is some


class OpenReply:
    """A conversation's reply in the making, from its turn's end to its own.

    Args:
        turn: finished, and the last of its conversation.
        options: see `ReplyOptions`.

    Raises:
        UserError: an unknown style or voice, or the conversation went on since the turn.
    """

    def __init__(self, turn: UserTurn, options: ReplyOptions) -> None:
        self.conversation, self.turn = turn.conversation, turn.turn
        if not (self.is_wanted and turn.is_finished):
            raise UserError("error_turn_over")
        model = self.conversation.model
        checkpoint = model.checkpoint
        if options.style is not None:
            raise UserError("error_no_styles", name=shown(options.style), allowed="")
        sampling: OmniSampling = options.sampling or model.sampling
        voice = model.voice(options.voice)
        self.seed = drawn_seed(sampling.seed)
        if sampling.speaks and voice:
            checkpoint.talker, checkpoint.token2wav  # noqa: B018 (loaded before anything is read)
        self.conversation.read()
        self.reader = self.conversation.reader
        self.length = self.reader.thinker.length
        self.speech: CodeSteps | None = None
        self.sound: Token2Wav | None = None
        room = model.max_positions - max(self.length, self.reader.position)
        limit = options.max_frames or room
        max_tokens = min(MAX_TOKENS, room, limit)
        self.text = TextSteps(self.reader, model.prompt.tokens, sampling, self.seed, max_tokens)
        self.max_frames = max_tokens
        if sampling.speaks and voice:
            self.max_frames = max(1, min(MAX_CODES, room - CODES_WITHOUT_TEXT, limit))
            self.reader.read_as_talker()
            self.speech = CodeSteps(self.reader, voice, sampling, self.seed, self.max_frames)
            self.sound = model.token2wav(sampling.solved_flow, options)
            self.state = self.sound.new_state(voice["cond"], voice["ref_mel"], self.seed)

    @property
    def is_wanted(self) -> bool:
        """The conversation has not gone on without this reply."""
        return self.conversation.open_turn is self.turn

    @property
    def num_frames(self) -> int:
        """Codes so far; of a reply in text alone, its tokens."""
        return len(self.text.ids) if self.speech is None else len(self.speech.codes)

    @property
    def has_ended(self) -> bool:
        """The model ended text and speech itself."""
        return self.text.has_ended and (self.speech is None or self._speech_has_ended)

    @property
    def _speech_has_ended(self) -> bool:
        return self.speech is not None and (self.speech.has_ended or not self.text.parts)

    @property
    def is_over(self) -> bool:
        if not self.text.is_over:
            return False
        return self.speech is None or not self.text.parts or self.speech.is_over

    def step(self) -> tuple[int | None, torch.Tensor]:
        """One step of each that has one to make: a token if there is one, and new sound [n]."""
        token = None
        if not self.text.is_over:
            part = self.text.step()
            token = self.text.ids[-1]
            if self.speech is not None:
                self.speech.add_text(part)
        if self.speech is None or self.sound is None or not self.text.parts:
            return token, torch.zeros(0)
        codes: list[int] = []
        was_over = self.speech.is_over
        if self.speech.can_step:
            code = self.speech.step()
            codes = [] if code is None else [code]
        if was_over:
            return token, torch.zeros(0)
        return token, self.sound.push(self.state, codes, last=self.speech.is_over)

    def close(self) -> None:
        """Keep the text so far as what was said; the conversation can go on."""
        if not self.is_wanted:
            return
        num_read = len(self.text.parts)
        said: list[Segment] = [text_segment(self.text.ids[:num_read])] if num_read else []
        said.append(self.conversation.model.prompt.reply_end(self.text.ids[num_read:]))
        self.reader.end_reply(self.length, self.text.parts, self.text.positions)
        self.conversation.end_turn(said)


def stream_reply(turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
    """Answer a finished turn; see `contract.Conversation.reply`.

    The text so far is kept in the conversation, also when the caller stops early.
    """
    started = time.perf_counter()
    try:
        reply = OpenReply(turn, options)
    except Exception as error:
        turn.abandon(error)
        raise
    chunks = _Chunks(turn, reply, started)
    try:
        while not reply.is_over:
            chunks.add(*reply.step())
            if chunks.are_ready and not reply.is_over:
                yield chunks.take()
            # While the chunk was out, the conversation may have gone on without this reply.
            if options.stop.is_set() or not reply.is_wanted:
                break
        yield chunks.take(ended=reply.has_ended)
    except Exception:
        if reply.is_wanted:
            if not reply.text.ids:
                reply.conversation.abandon_turn()
            reply.conversation.read_anew()  # the caches may be as the fault has left them
        raise
    finally:
        reply.close()


class _Chunks:
    """A reply's text and sound, as they come -> its chunks."""

    def __init__(self, turn: UserTurn, reply: OpenReply, started: float) -> None:
        model = turn.conversation.model
        self.reply, self.frame_rate = reply, model.frame_rate
        self._decoder = TextDecoder(model.checkpoint.tokenizer, model.prompt.tokens.ends)
        self._text: list[str] = []
        self._sound: list[np.ndarray] = []
        self._started = self._taken = started
        self._first_frame_seconds = 0.0

    @property
    def are_ready(self) -> bool:
        """There is sound, or text that has waited."""
        return bool(self._sound) or (
            bool(self._text) and time.perf_counter() - self._taken >= TEXT_SECONDS
        )

    def add(self, token: int | None, sound: torch.Tensor) -> None:
        """Take what a step gave."""
        if self.reply.num_frames and not self._first_frame_seconds:
            self._first_frame_seconds = time.perf_counter() - self._started
        if token is not None and (text := self._decoder.push(token)):
            self._text.append(text)
        if len(sound):
            self._sound.append(sound.numpy())

    def take(self, *, ended: bool = False) -> ReplyChunk:
        """What is waiting, as a chunk."""
        text, sound = "".join(self._text), np.concatenate([np.zeros(0, np.float32), *self._sound])
        self._text, self._sound, self._taken = [], [], time.perf_counter()
        reply = self.reply
        speaks = reply.speech is not None
        return ReplyChunk(
            new_text=text,
            new_audio=sound,
            total_frames=reply.num_frames,
            max_frames=reply.max_frames,
            total_seconds=reply.num_frames / self.frame_rate if speaks else 0.0,
            max_seconds=reply.max_frames / self.frame_rate if speaks else 0.0,
            first_frame_seconds=self._first_frame_seconds,
            emotion=None,
            style=None,
            seed=reply.seed,
            ended=ended,
        )
