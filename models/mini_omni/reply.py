"""The reply loop: a finished user turn -> its reply, streamed in chunks."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..contract import ReplyChunk, ReplyOptions
from ..conversations import drawn_seed
from ..errors import UserError
from ..tokenizer import TextDecoder
from .codec import SpeechStream
from .config import NUM_CODEBOOKS
from .generation import DELAY, Reply

if TYPE_CHECKING:
    from .user_turn import UserTurn


class OpenReply:
    """A conversation's reply in the making, from its turn's end to its own.

    Args:
        turn: finished, and its conversation's open one.
        options: see `ReplyOptions`.

    Raises:
        UserError: the conversation went on since the turn.
    """

    def __init__(self, turn: UserTurn, options: ReplyOptions) -> None:
        self.turn, self.conversation = turn, turn.conversation
        if turn.prompt is None or not self.is_wanted:
            raise UserError("error_turn_over")
        model = self.conversation.model
        checkpoint = model.checkpoint
        sampling = options.sampling or model.sampling
        self.seed = drawn_seed(sampling.seed)
        self.frame_rate = model.frame_rate
        room = checkpoint.model.config.block_size - len(turn.prompt.x) - DELAY
        self.max_frames = min(room, options.max_frames or room)
        self.steps = Reply(checkpoint.model, turn.prompt, self.max_frames + DELAY)
        self.text = ""
        self._shown = 0  # characters
        self._decoder = TextDecoder(checkpoint.tokenizer, model.silent_tokens)
        self._sounds: list[Tensor] = []
        self._speech = SpeechStream(
            checkpoint.codec, self.seed, options.first_chunk_frames, options.chunk_frames
        )
        self._num_frames = 0
        self._first_frame_seconds = 0.0

    @property
    def is_wanted(self) -> bool:
        """The conversation has not gone on without this reply."""
        return self.conversation.open_turn is self.turn

    def add(self, column: Tensor, seconds: float) -> bool:
        """Take the next column [8], made that many seconds after the reply was asked for.

        Returns:
            There is something for a chunk: the next sound, or the first of the text.
        """
        is_first = not self.text
        self.text += self._decoder.push(int(column[0]))
        if self.steps.num_frames > self._num_frames:
            self._first_frame_seconds = self._first_frame_seconds or seconds
            sound = self._speech.push(self.steps.codes(self._num_frames)[:, None])
            self._num_frames += 1
            if len(sound):
                self._sounds.append(sound)
        return bool(self._sounds or (is_first and self.text))

    def take(self, *, last: bool = False, ended: bool = False) -> ReplyChunk:
        """What came since the last chunk."""
        if last:
            self._sounds.append(self._speech.push(torch.zeros(NUM_CODEBOOKS, 0), last=True))
        audio, self._sounds = torch.cat([torch.zeros(0), *self._sounds]), []
        text = self.text[self._shown :]
        self._shown = len(self.text)
        return ReplyChunk(
            new_text=text,
            new_audio=audio.numpy(),
            total_frames=self._num_frames,
            max_frames=self.max_frames,
            total_seconds=self._num_frames / self.frame_rate,
            max_seconds=self.max_frames / self.frame_rate,
            emotion=None,
            style=None,
            seed=self.seed,
            ended=ended,
            first_frame_seconds=self._first_frame_seconds,
        )


def stream_reply(turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
    """Answer a finished turn; see `contract.Conversation.reply`.

    What was said of the reply is kept in the conversation, also when the caller stops early.
    """
    stepper = turn.conversation.model.stepper
    started = time.perf_counter()
    try:
        reply = OpenReply(turn, options)
    except Exception:
        turn.abandon()
        raise
    column: Tensor | None = None
    try:
        while not reply.steps.ended:
            (column,) = stepper.next_frames([reply.steps])
            if column is None:
                break
            if reply.add(column, time.perf_counter() - started):
                stepper.leave(reply.steps)  # until the chunk is out
                yield reply.take()
            # While the chunk was out, the conversation may have gone on without this reply.
            if options.stop.is_set() or not reply.is_wanted:
                break
        stepper.leave(reply.steps)
        yield reply.take(last=True, ended=column is None)
    except Exception:
        if not reply.steps.columns:
            turn.abandon()
        raise
    finally:
        stepper.leave(reply.steps)
        if reply.is_wanted:
            turn.conversation.end_turn(reply.text)
