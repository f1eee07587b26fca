"""A model that answers in another process: what is kept here of it, of conversations and turns.

What goes there and comes back can be pickled: a conversation as `Conversation.save` writes it, and
a turn as its text and its samples, which are read when it is answered.
"""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import numpy as np
import torch

from .contract import (
    Conversation,
    ReplyChunk,
    ReplyOptions,
    SamplingField,
    SpeechModel,
    UserTurn,
)
from .conversations import write_conversation
from .errors import UserError


def state_of(conversation: Conversation) -> bytes:
    """A conversation as it is saved."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversation"
        conversation.save(path)
        return path.read_bytes()


def conversation_of(model: SpeechModel, state: bytes, name: str = "conversation") -> Conversation:
    """A saved conversation of a model.

    Args:
        name: of the file that it came in, for errors.

    Raises:
        UserError: as `SpeechModel.load_conversation`.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(state)
        return model.load_conversation(path)


def beginning_of(conversation: Conversation) -> bytes:
    """Reset a conversation; returns it as it is saved then, with a system prompt if it has one."""
    conversation.reset()
    return state_of(conversation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedTurn:
    """A turn to be answered, and how.

    Fields:
        text, sample_rate, shown: as of `Conversation.begin_turn`.
        pieces: [n] float32 each, as they were heard.
        options: of `ReplyOptions`, but for `stop`.
    """

    text: str
    sample_rate: int | None
    shown: Mapping[str, Any]
    pieces: tuple[np.ndarray, ...]
    options: Mapping[str, Any]

    def read(self, conversation: Conversation) -> UserTurn:
        """Put the turn into a conversation, up to its closing.

        Raises:
            UserError: as of `UserTurn`.
        """
        turn = conversation.begin_turn(self.text or None, self.sample_rate, **self.shown)
        for piece in self.pieces:
            turn.push(torch.tensor(piece))
        turn.finish()
        return turn

    def reply_options(self, stop: Event) -> ReplyOptions:
        return ReplyOptions(**self.options, stop=stop)


class CollectedTurn:
    """A user's turn that is kept until it is answered. See `contract.UserTurn`."""

    def __init__(
        self,
        conversation: ConversationElsewhere,
        text: str | None,
        sample_rate: int | None,
        shown: Mapping[str, Any],
    ) -> None:
        self.conversation, self.text = conversation, (text or "").strip()
        self.sample_rate, self.shown = sample_rate, shown
        self.is_open = True
        self._pieces: list[np.ndarray] = []

    @property
    def seconds_heard(self) -> float:
        """Seconds of speech so far."""
        rate = self.sample_rate or self.conversation.model.sample_rate
        return sum(map(len, self._pieces)) / rate

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that the turn still has room for."""
        return max(0.0, self.conversation.model.max_input_seconds - self.seconds_heard)

    def push(self, samples: torch.Tensor) -> None:
        """Keep the next samples, [n] float32 in -1..1.

        Raises:
            UserError: the turn was over already.
        """
        self._check_open()
        self._pieces.append(samples.numpy().astype(np.float32))

    def finish(self) -> None:
        """The user has finished.

        Raises:
            UserError: the turn holds nothing, which ends it, or it was over already.
        """
        self._check_open()
        if not (self.text or self.shown or self.seconds_heard):
            self.abandon()
            raise UserError("error_nothing_given")

    def abandon(self) -> None:
        """The turn is over, or forgotten."""
        self.is_open, self._pieces = False, []

    def asked(self, options: ReplyOptions) -> AskedTurn:
        """The turn as it goes to who answers.

        Raises:
            UserError: it is over.
        """
        self._check_open()
        names = {field.name for field in dataclasses.fields(options)} - {"stop"}
        return AskedTurn(
            text=self.text,
            sample_rate=self.sample_rate,
            shown=self.shown,
            pieces=tuple(self._pieces),
            options={name: getattr(options, name) for name in names},
        )

    def _check_open(self) -> None:
        if not self.is_open:
            raise UserError("error_turn_over")


class ConversationElsewhere(ABC):
    """A conversation as it is kept here: its columns, not its cache. See `contract.Conversation`.

    Fields:
        state: as of `state_of`.

    Args:
        beginning: as of `beginning_of`.
    """

    def __init__(self, model: ModelElsewhere, state: bytes, beginning: bytes) -> None:
        self.model, self.state, self._beginning = model, state, beginning
        self._turn: CollectedTurn | None = None

    def begin_turn(
        self,
        text: str | None = None,
        sample_rate: int | None = None,
        *,
        image: Any = None,
        video: Any = None,
    ) -> CollectedTurn:
        """A user's turn begins, which ends one that is still open."""
        self._forget_turn()
        shown = {"image": image, "video": video}
        given = {kind: value for kind, value in shown.items() if value is not None}
        self._turn = CollectedTurn(self, text, sample_rate, given)
        return self._turn

    @abstractmethod
    def reply(self, turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]: ...

    def reset(self) -> None:
        """Begin anew."""
        self._forget_turn()
        self.state = self._beginning

    def save(self, path: str | os.PathLike) -> None:
        """Write the conversation to a file that `load_conversation` reads."""
        write_conversation(path, self.state)

    def _forget_turn(self) -> None:
        if self._turn is not None:
            self._turn.abandon()


class ModelElsewhere(ABC):
    """What is known here of the model. See `contract.SpeechModel` for the fields.

    Args:
        known: from `about`.
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
    empty: bytes  # a conversation in which nothing was said

    def __init__(self, known: Mapping[str, Any]) -> None:
        vars(self).update(known)

    @abstractmethod
    def new_conversation(self) -> Conversation: ...

    @abstractmethod
    def load_conversation(self, path: str | os.PathLike) -> Conversation: ...

    @abstractmethod
    def warm_up(self) -> None: ...


def about(model: SpeechModel) -> dict[str, Any]:
    """The fields of `ModelElsewhere`, of a loaded model."""
    names = ModelElsewhere.__annotations__.keys() - {"empty"}
    empty = state_of(model.new_conversation())
    return {name: getattr(model, name) for name in names} | {"empty": empty}
