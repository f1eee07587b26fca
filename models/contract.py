"""What front ends may know of a loaded checkpoint, whatever its family.

`models.load.load_model` gives a `SpeechModel`; generate.py, page/ and benchmarks/ use what stands
here and nothing else of a family.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SamplingField:
    """One setting of a family's sampling, as a front end offers it.

    Fields:
        name: of the attribute of `SpeechModel.sampling`.
        low, high: the smallest and largest value offered; both are allowed.
        step: between two values offered; 1 for whole numbers.
    """

    name: str
    low: float
    high: float
    step: float


@dataclass(frozen=True, kw_only=True)
class ReplyOptions:
    """How a reply is made. Marks, frames without text and sound, count nowhere as frames.

    Fields:
        sampling: a dataclass of the family's own; None for the checkpoint's settings. Its `seed`
            is a whole number or None, which draws one.
        style, voice: one of the model's; None leaves it to the model.
        max_frames: the longest reply; None for as long as the context has room for.
        first_chunk_frames: frames in the first chunk; few give an early first sound.
        chunk_frames: frames in the others at most: each has twice as many as the one before, so
            that the next one is there before a chunk has been played.
        stop: when set, the reply ends within one frame.
    """

    sampling: Any = None
    style: str | None = None
    voice: str | None = None
    max_frames: int | None = None
    first_chunk_frames: int = 2
    chunk_frames: int = 16
    stop: Event = field(default_factory=Event)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Columns as a model reads or says them: a text token over the codes of a moment's sound.

    Fields:
        text: [n] the tokens, each as text; part of a character is U+FFFD.
        codes: [K, n] int64, the codec's; -1 where a column has none, and so no sound.
        semantic: [n] bool, where the token stands for sound and the codes beneath are read.
    """

    text: tuple[str, ...]
    codes: np.ndarray
    semantic: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ReplyChunk:
    """A piece of a reply: `new_` is what came since the last piece, `total_` all so far.

    Marks, frames without text and sound by which a model says how it answers, are among the new
    frames alone, and come with the frames that follow them or with the last chunk.

    Fields:
        new_text: whole characters only.
        new_audio: [n] float32 in -1..1, at the model's `sample_rate`; joined, the reply's speech.
        total_frames: frames made so far.
        max_frames: frames at which the reply ends at the latest.
        total_seconds, max_seconds: the same two in seconds of speech.
        emotion: the user's emotion as the model perceives it; None where it does not say.
        style: the reply's style; None likewise.
        heard: what the model wrote down of the user's speech, its syllables in pinyin without
            tones, with blanks between; None where it wrote nothing.
        seed: that the reply is drawn with; it gives the same reply again.
        ended: True on the last chunk, if the model ended the reply itself.
        first_frame_seconds: from asking for the reply to its first frame; 0 without one.
        frame_seconds: the same for each of `new_frames`; empty where the family does not say.
        new_frames: the new frames themselves; None likewise.
    """

    new_text: str
    new_audio: np.ndarray
    total_frames: int
    max_frames: int
    total_seconds: float
    max_seconds: float
    emotion: str | None
    style: str | None
    seed: int
    ended: bool
    heard: str | None = None
    first_frame_seconds: float = 0.0
    frame_seconds: tuple[float, ...] = ()
    new_frames: Frames | None = None

    @property
    def is_whole(self) -> bool:
        """Nothing more is said: the model ended the reply, or it is at its longest."""
        return self.ended or self.total_frames >= self.max_frames


@runtime_checkable
class UserTurn(Protocol):
    """A user's turn while it comes in: what is heard is read at once.

    Fields:
        text: what the user wrote; may be empty.
    """

    text: str

    @property
    def conversation(self) -> Conversation: ...

    @property
    def seconds_heard(self) -> float:
        """Seconds of speech so far."""

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that the turn still has room for."""

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1, at the rate given to `begin_turn`."""

    def finish(self) -> None:
        """The user has finished; `Conversation.reply` answers."""

    def abandon(self) -> None:
        """Forget the turn, as if it had not begun."""


@runtime_checkable
class FramedTurn(Protocol):
    """What a `UserTurn` may offer besides: how the model reads it."""

    @property
    def frames(self) -> Frames:
        """The turn's columns so far."""


@runtime_checkable
class SpeechCodec(Protocol):
    """What a `SpeechModel` may offer besides: speech as its codes, and back."""

    def encode(self, samples: Tensor, sample_rate: int) -> np.ndarray:
        """Turn a sound [n] float32 in -1..1 into codes [K, T] int64, `frame_rate` a second."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Turn codes [K, T] into a sound [n] float32 in -1..1, at the model's `sample_rate`."""


@runtime_checkable
class SystemPrompts(Protocol):
    """What a `SpeechModel` may offer besides: it can be told how it shall be."""

    def new_conversation_with(self, system: str) -> Conversation:
        """A new conversation, with a system prompt beside the model's own."""


class Conversation(Protocol):
    """What was said so far: one user's; the model keeps nothing of it."""

    @property
    def model(self) -> SpeechModel: ...

    def begin_turn(
        self,
        text: str | None = None,
        sample_rate: int | None = None,
        *,
        image: Any = None,
        video: Any = None,
    ) -> UserTurn:
        """A user's turn begins, which ends one that is still open.

        Args:
            text: what the user wrote, if anything.
            sample_rate: of the speech to come, in Hz; None for the model's own.
            image, video: what the user shows, where the model accepts it.
        """

    def reply(self, turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
        """Answer a finished turn; at least one chunk comes, which is empty if the reply is.

        What was said is kept, also when the caller closes it early.
        """

    def reset(self) -> None:
        """Begin anew."""

    def save(self, path: str | os.PathLike) -> None:
        """Write the conversation to a file that `SpeechModel.load_conversation` reads."""


class SpeechModel(Protocol):
    """A loaded checkpoint.

    Fields:
        name: as it was asked for.
        family: "westlake", "omni" and so on.
        device: "cpu" or "cuda".
        dtype: of the language model: "float32", "bfloat16", "int8" or "int4".
        num_parameters: of all its parts.
        sample_rate: of its speech, in Hz.
        frame_rate: frames a second of speech.
        max_input_seconds: the longest speech that one turn may hold.
        languages: "zh" and "en", of which it speaks one or both.
        emotions, styles, voices: words it knows; empty where it has none.
        accepts: of "audio", "text", "image", "video".
        sampling: the checkpoint's own settings, a frozen dataclass with a `seed`, and where it can
            answer in text alone with `speaks`, which is False then.
        sampling_fields: those that a front end offers.
    """

    name: str
    family: str
    device: str
    dtype: str
    num_parameters: int
    sample_rate: int
    frame_rate: float
    max_input_seconds: float
    languages: tuple[str, ...]
    emotions: tuple[str, ...]
    styles: tuple[str, ...]
    voices: tuple[str, ...]
    accepts: frozenset[str]
    sampling: Any
    sampling_fields: tuple[SamplingField, ...]

    def new_conversation(self) -> Conversation: ...

    def load_conversation(self, path: str | os.PathLike) -> Conversation:
        """Restore what `Conversation.save` wrote; it goes on as the saved one would have."""

    def warm_up(self) -> None:
        """Make the process ready for its first user, whose reply would else be slower."""
