"""The reply loop: a finished user turn -> its reply, streamed in chunks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..contract import ReplyChunk, ReplyOptions
from ..conversations import drawn_seed
from ..errors import UserError, shown
from .dual_ar import Reply, SamplingConfig, make_frames, mark_room
from .speech import SpeechDecoder, Transcript, shown_frames
from .told_moods import told_leaning
from .topics import HEARD, WRITTEN, characters

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .user_turn import UserTurn

EMOTION_PLACE, STYLE_PLACE, TOPIC_PLACE = 0, 1, 2  # of marks
NO_SOUND = np.zeros(0, np.float32)


class OpenReply:
    """A conversation's reply in the making, from its turn's end to its own.

    Args:
        turn: finished, and the last of its conversation.
        options: see `ReplyOptions`.

    Raises:
        UserError: an unknown style, or the conversation went on since the turn.
    """

    def __init__(self, turn: UserTurn, options: ReplyOptions) -> None:
        self.conversation, self.turn = turn.conversation, turn.turn
        if not self.is_wanted:
            raise UserError("error_turn_over")
        checkpoint, cache = self.conversation.model.checkpoint, self.conversation.cache
        sampling: SamplingConfig = options.sampling or checkpoint.sampling
        self.seed = drawn_seed(sampling.seed)
        sampling = dataclasses.replace(sampling, seed=self.seed)
        prompt = self.conversation.unread
        room = cache.max_len - cache.length - prompt.shape[1] - 1 - mark_room(checkpoint.mark_ids)
        self.max_frames = min(room, options.max_frames or room)
        self.steps = Reply(
            checkpoint.model,
            prompt,
            self.max_frames,
            sampling,
            checkpoint.end_id,
            cache=cache,
            forced=_forced_tokens(checkpoint.style_ids, options.style),
            marks=checkpoint.mark_ids,
            leanings=_leanings(checkpoint, turn),
            settled=_settled_places(checkpoint),
            characters=checkpoint.character_ids,
        )

    @property
    def is_wanted(self) -> bool:
        """The conversation has not gone on without this reply."""
        return self.conversation.open_turn is self.turn

    def close(self, num_said: int) -> None:
        """Keep the first frames, marks included, as what was said; the conversation can go on."""
        if self.is_wanted:
            said = self.steps.columns[:num_said]
            empty = self.turn.columns[:, :0]
            self.conversation.end_turn(torch.stack(said, dim=1).cpu() if said else empty)


def _forced_tokens(style_ids: dict[str, int], style: str | None) -> tuple[int | None, ...]:
    if style is None:
        return ()
    if style not in style_ids:
        code = "error_unknown_style" if style_ids else "error_no_styles"
        raise UserError(code, name=shown(style), allowed=", ".join(style_ids))
    return (*[None] * STYLE_PLACE, style_ids[style])


def _settled_places(checkpoint: Checkpoint) -> set[int]:
    """Where a checkpoint writes what it understood, which is no matter of chance."""
    understood = {EMOTION_PLACE: checkpoint.emotion_ids, TOPIC_PLACE: checkpoint.topic_ids}
    return {p for p, ids in understood.items() if checkpoint.mark_ids.intersection(ids.values())}


def _leanings(checkpoint: Checkpoint, turn: UserTurn) -> dict[int, Tensor]:
    """What a turn's voice, or else what is written, says of the emotion, and its words of the
    topic, by the places where these are written. Of noise, which is heard as words of no topic, the
    voice tells nothing."""
    kind, symbols = (
        (WRITTEN, characters(turn.text)) if turn.text else (HEARD, (turn.heard or "").split())
    )
    leanings, topics, moods = {}, checkpoint.topic_leaning, checkpoint.mood_leaning
    is_known = True
    if topics is not None and symbols:
        leanings[TOPIC_PLACE] = topics(kind, symbols)
        is_known = topics.knows(kind, symbols)
    told = None
    if not turn.num_samples:
        ids, vocab_size = checkpoint.emotion_ids, checkpoint.model.config.vocab_size
        told = told_leaning(turn.text, ids, vocab_size)
    elif moods is not None and is_known and (manner := turn.manner) is not None:
        told = moods(manner)
    return leanings if told is None else {**leanings, EMOTION_PLACE: told}


def stream_reply(turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
    """Answer a finished turn; see `contract.Conversation.reply`.

    What was said of the reply is kept in the conversation, also when the caller stops early.
    """
    model = turn.conversation.model
    started = time.perf_counter()
    try:
        reply = OpenReply(turn, options)
    except Exception:
        turn.abandon()
        raise
    chunks = _Chunks(turn, reply)
    ahead: list[tuple[Tensor, float]] = []  # frames behind a chunk that is being decoded, and when
    size, frame = options.first_chunk_frames, None

    def may_go_on() -> bool:
        return not options.stop.is_set() and reply.is_wanted

    def deliver() -> Generator[ReplyChunk, None, bool]:
        """Hand out the chunk; whether what follows it is wanted, which else is not said."""
        model.stepper.leave(reply.steps)  # until the chunk is out
        yield chunks.take()
        if not may_go_on():
            ahead.clear()
        return may_go_on()

    try:
        for _, frame in make_frames(model.stepper.next_frames, [reply.steps]):
            if frame is None:
                break
            ahead.append((frame, time.perf_counter() - started))
            is_due = chunks.is_ready or len(ahead) == size
            if chunks.is_begun and is_due and not (yield from deliver()):
                break
            if not chunks.is_begun:
                while ahead:
                    chunks.add(*ahead.pop(0))
                if chunks.num_waiting == size:
                    chunks.begin()
                    size = min(2 * size, options.chunk_frames)
            if chunks.is_ready and not (yield from deliver()):
                break
            if not may_go_on():
                break
        model.stepper.leave(reply.steps)
        num_made = len(ahead)
        if chunks.is_begun:
            yield from deliver()
        for item in ahead:
            chunks.add(*item)
        chunks.begin(last=True, ended=frame is None and len(ahead) == num_made)
        yield chunks.take()
    except Exception:
        try:
            if chunks.is_begun:
                yield chunks.take()  # it was begun before the fault
        finally:
            if reply.is_wanted:
                if not chunks.num_said:
                    reply.conversation.abandon_turn()
                reply.conversation.cache.reset()  # what the fault has left there is read again
        raise
    finally:
        model.stepper.leave(reply.steps)
        reply.close(chunks.num_said)


class _Chunks:
    """A reply's frames, as they come -> its chunks."""

    def __init__(self, turn: UserTurn, reply: OpenReply) -> None:
        model = turn.conversation.model
        self.reply = reply
        self.checkpoint = model.checkpoint
        self.frame_rate = model.frame_rate
        self.num_said = 0  # of the frames that are out, marks included
        self._num_begun = 0  # of those whose chunk is at least begun,
        self._num_spoken = 0  # and of these, without marks
        self._waiting: list[Tensor] = []
        self._spoken: list[Tensor] = []  # of the waiting frames
        self._transcript = Transcript(model.checkpoint)
        self._heard = turn.heard
        self._speech = SpeechDecoder(model.checkpoint)
        self._decoders = model.decoders
        self._shown = 0  # characters
        self._first_frame_seconds = 0.0
        self._seconds: list[float] = []  # of the waiting frames
        self._begun: tuple[ReplyChunk, Future[np.ndarray]] | None = None

    @property
    def num_waiting(self) -> int:
        """Frames to be spoken that are in no chunk yet."""
        return len(self._spoken)

    @property
    def is_begun(self) -> bool:
        """There is a chunk, which may still lack its sound."""
        return self._begun is not None

    @property
    def is_ready(self) -> bool:
        """There is a chunk, and it is whole."""
        return self._begun is not None and self._begun[1].done()

    def add(self, frame: Tensor, seconds: float) -> None:
        """Take the next frame [1+K], made that many seconds after the reply was asked for."""
        if not self._waiting and not self._num_begun:
            self._first_frame_seconds = seconds
        token = int(frame[0])
        self._transcript.add(token)
        self._waiting.append(frame)
        self._seconds.append(seconds)
        if token not in self.checkpoint.mark_ids:
            self._spoken.append(frame)

    def begin(self, *, last: bool = False, ended: bool = False) -> None:
        """Make a chunk of what is waiting. Its sound comes beside the next frames where that is
        faster; that of the first one at once, as nothing is heard yet."""
        decode = partial(self._speech.decode, self._spoken, last)
        if self._decoders is not None and self._num_begun and not last:
            sound = self._decoders.submit(decode)
        else:
            sound = Future()
            sound.set_result(decode())
        frames, frame_seconds = self._waiting, tuple(self._seconds)
        self._num_begun += len(frames)
        self._num_spoken += len(self._spoken)
        self._waiting, self._spoken, self._seconds = [], [], []
        text = self._transcript.text[self._shown :]
        self._shown += len(text)
        chunk = ReplyChunk(
            new_text=text,
            new_audio=NO_SOUND,
            total_frames=self._num_spoken,
            max_frames=self.reply.max_frames,
            total_seconds=self._num_spoken / self.frame_rate,
            max_seconds=self.reply.max_frames / self.frame_rate,
            first_frame_seconds=self._first_frame_seconds,
            frame_seconds=frame_seconds,
            new_frames=shown_frames(self._columns(frames), self.checkpoint),
            emotion=self._transcript.emotion,
            style=self._transcript.style,
            heard=self._heard,
            seed=self.reply.seed,
            ended=ended,
        )
        self._begun = chunk, sound

    def take(self) -> ReplyChunk:
        """The chunk that is begun, whose sound is waited for."""
        assert self._begun is not None, "no chunk is begun"
        (chunk, sound), self._begun = self._begun, None
        audio = sound.result()
        self.num_said = self._num_begun
        return dataclasses.replace(chunk, new_audio=audio)

    def _columns(self, frames: list[Tensor]) -> Tensor:
        """Frames [1+K] as columns [1+K, n]; there may be none."""
        if frames:
            return torch.stack(frames, dim=1)
        return torch.zeros(1 + self.checkpoint.codec.config.num_codebooks, 0, dtype=torch.long)
