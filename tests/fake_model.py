"""A model that obeys the contract and costs nothing: it answers with a tone, frame by frame."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from models.contract import ReplyChunk, ReplyOptions, SamplingField
from models.errors import UserError

SAMPLE_RATE, FRAME_RATE = 16_000, 20.0


@dataclass(frozen=True)
class FakeSampling:
    temperature: float = 0.7
    seed: int | None = None


class FakeTurn:
    def __init__(self, conversation: FakeConversation, text: str | None, rate: int | None):
        self.conversation, self.text = conversation, (text or "").strip()
        self.rate, self.num_samples, self.is_open = rate or SAMPLE_RATE, 0, True

    @property
    def seconds_heard(self) -> float:
        return self.num_samples / self.rate

    @property
    def seconds_left(self) -> float:
        return self.conversation.model.max_input_seconds - self.seconds_heard

    def push(self, samples) -> None:
        self.conversation.model.on_push(self)
        self.num_samples += len(samples)

    def finish(self) -> None:
        self.conversation.heard.append((self.text, self.seconds_heard))

    def abandon(self) -> None:
        self.is_open = False


class FakeConversation:
    def __init__(self, model: FakeModel):
        self.model, self.heard = model, []

    def begin_turn(self, text=None, sample_rate=None, *, image=None, video=None) -> FakeTurn:
        return FakeTurn(self, text, sample_rate)

    def reply(self, turn: FakeTurn, options: ReplyOptions) -> Iterator[ReplyChunk]:
        model, num_frames = self.model, self.model.num_frames
        max_frames = options.max_frames or 100
        with model.counted():
            for frame in range(1, min(num_frames, max_frames) + 1):
                model.on_frame(frame)
                time.sleep(model.frame_seconds)
                ended = frame == num_frames
                chunk = model.chunk(frame, max_frames, ended, options.sampling)
                yield dataclasses.replace(chunk, heard=model.heard if turn.num_samples else None)
                if options.stop.is_set():
                    return

    def reset(self) -> None:
        self.heard = []

    def save(self, path) -> None:
        Path(path).write_text(json.dumps(self.heard))


class FakeModel:
    """Fields and methods of `contract.SpeechModel`, and hooks for tests.

    Args:
        num_frames: of each reply, if it may be as long.
        frame_seconds: that a frame takes.

    Fields:
        heard: what it writes down of whatever is spoken.
    """

    name, family, device, dtype = "fake", "fake", "cpu", "float32"
    num_parameters, sample_rate, frame_rate = 0, SAMPLE_RATE, FRAME_RATE
    max_input_seconds = 20.0
    languages: tuple[str, ...] = ("zh",)
    emotions, styles, voices = ("sad",), ("calm",), ()
    accepts = frozenset({"audio", "text"})
    sampling = FakeSampling()
    sampling_fields = (SamplingField(name="temperature", low=0.05, high=2.0, step=0.05),)

    def __init__(self, num_frames: int = 5, frame_seconds: float = 0.0) -> None:
        self.num_frames, self.frame_seconds = num_frames, frame_seconds
        self.heard: str | None = None
        self.on_frame: Callable[[int], None] = lambda frame: None
        self.on_push: Callable[[FakeTurn], None] = lambda turn: None
        self.num_running = self.most_running = self.num_replies = 0

    def counted(self) -> FakeModel:
        return self

    def __enter__(self) -> None:
        self.num_running += 1
        self.num_replies += 1
        self.most_running = max(self.most_running, self.num_running)

    def __exit__(self, *exception) -> None:
        self.num_running -= 1

    def new_conversation(self) -> FakeConversation:
        return FakeConversation(self)

    def load_conversation(self, path) -> FakeConversation:
        conversation = FakeConversation(self)
        try:
            conversation.heard = [tuple(turn) for turn in json.loads(Path(path).read_text())]
        except ValueError as error:
            raise UserError("error_no_conversation", name=Path(path).name) from error
        return conversation

    def warm_up(self) -> None:
        pass

    def chunk(
        self, frame: int, max_frames: int, ended: bool, sampling: FakeSampling | None = None
    ) -> ReplyChunk:
        size = int(SAMPLE_RATE / self.frame_rate)
        seed = sampling.seed if sampling and sampling.seed is not None else self.num_replies
        tone = 0.3 * np.sin(np.arange(size) * 0.1 * (1 + seed % 7) + frame)
        return ReplyChunk(
            new_text="好",
            new_audio=tone.astype(np.float32),
            total_frames=frame,
            max_frames=max_frames,
            total_seconds=frame / self.frame_rate,
            max_seconds=max_frames / self.frame_rate,
            emotion="sad",
            style="calm",
            seed=seed,
            ended=ended,
        )


@contextmanager
def held(model: FakeModel) -> Iterator[Event]:
    """No frame is made meanwhile; gives what is set once one would be."""
    free, is_reached, before = Event(), Event(), model.on_frame

    def wait(frame: int) -> None:
        is_reached.set()
        free.wait(60)

    model.on_frame = wait
    try:
        yield is_reached
    finally:
        model.on_frame = before
        free.set()


class OtherModel(FakeModel):
    """Another checkpoint, at another rate, which reads no conversation but its own."""

    name, sample_rate, styles, voices = "other", 24_000, (), ("Ann", "Bob")

    def load_conversation(self, path: Path) -> FakeConversation:
        raise UserError("error_conversation_of_another", name="", saved_by="fake", loaded="other")
