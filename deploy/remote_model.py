"""A model whose replicas are elsewhere, as the page's own: the contract, over Ray Serve.

The page keeps of each conversation what `Conversation.save` writes; its cache is at a replica. When
that one is lost, another gets the same turn, and what was heard already is passed over.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from ray.exceptions import RayError, RayTaskError
from ray.serve.handle import DeploymentHandle

from models.contract import ReplyChunk, ReplyOptions, SamplingField, UserTurn
from models.errors import UserError

TRIES, PAUSE = 60, 1.0  # seconds between two tries of a turn whose replica is gone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn to be answered, with all that any replica needs for it.

    Fields:
        before, after: names of the conversation's state before and after it.
        state: the conversation before it, as `Conversation.save` writes it; None for a new one.
        options: of `ReplyOptions`, but for `stop`.
    """

    conversation: str
    before: str
    after: str
    state: bytes | None
    text: str | None
    samples: np.ndarray
    sample_rate: int | None
    options: dict[str, Any]


class RemoteTurn:
    """A user's turn; replicas read it when it has ended. See `contract.UserTurn`."""

    def __init__(self, conversation: RemoteConversation, text: str | None, rate: int | None):
        self.conversation, self.text = conversation, (text or "").strip()
        self.sample_rate = rate
        self.pieces = [np.zeros(0, np.float32)]

    @property
    def seconds_heard(self) -> float:
        rate = self.sample_rate or self.conversation.model.sample_rate
        return sum(map(len, self.pieces)) / rate

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.conversation.model.max_input_seconds - self.seconds_heard)

    def push(self, samples: torch.Tensor) -> None:
        self.pieces.append(samples.numpy().astype(np.float32))

    def finish(self) -> None:
        if not self.text and not self.seconds_heard:
            raise UserError("error_nothing_given")

    def abandon(self) -> None:
        self.pieces = []


class RemoteConversation:
    """A conversation as the page holds it: its columns, not its cache. See `contract`."""

    def __init__(self, model: RemoteModel, state: bytes | None = None) -> None:
        self.model, self._state = model, state
        self._conversation, self._name = uuid4().hex, uuid4().hex

    def begin_turn(self, text=None, sample_rate=None, *, image=None, video=None) -> RemoteTurn:
        return RemoteTurn(self, text, sample_rate)

    def reply(self, turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
        assert isinstance(turn, RemoteTurn), f"a {type(turn).__name__} is no turn of this model"
        asked = self._asked(turn, options)
        pieces = self.model.answer(asked)
        try:
            for piece in pieces:
                if isinstance(piece, bytes):
                    self._state, self._name = piece, asked.after
                    return
                yield piece
                if options.stop.is_set():
                    self.model.stop(asked.after)
        except GeneratorExit:  # nobody wants the rest; what was said is kept
            self.model.stop(asked.after)
            for piece in pieces:
                if isinstance(piece, bytes):
                    self._state, self._name = piece, asked.after
            raise

    def _asked(self, turn: RemoteTurn, options: ReplyOptions) -> Asked:
        given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        del given["stop"]
        sampling = options.sampling or self.model.sampling
        if sampling.seed is None:  # one for all replicas that may have to try
            sampling = dataclasses.replace(sampling, seed=secrets.randbits(31))
        return Asked(
            conversation=self._conversation, before=self._name, after=uuid4().hex,
            state=self._state, text=turn.text or None, samples=np.concatenate(turn.pieces),
            sample_rate=turn.sample_rate, options=given | {"sampling": sampling},
        )  # fmt: skip

    def reset(self) -> None:
        self._state, self._conversation, self._name = None, uuid4().hex, uuid4().hex

    def save(self, path: str | os.PathLike) -> None:
        Path(path).write_bytes(self.model.empty if self._state is None else self._state)


class RemoteModel:
    """The replicas' model, as the page's own. See `contract.SpeechModel`.

    Fields:
        empty: a new conversation as it is saved.
        (all others: see there.)
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
    sampling: Any
    sampling_fields: tuple[SamplingField, ...]
    empty: bytes
    accepts = frozenset({"audio", "text"})

    def __init__(self, replicas: DeploymentHandle, stopped: Any, about: dict[str, Any]) -> None:
        vars(self).update(about)
        self._replicas, self._stopped = replicas, stopped

    def new_conversation(self) -> RemoteConversation:
        return RemoteConversation(self)

    def load_conversation(self, path: str | os.PathLike) -> RemoteConversation:
        state = Path(path).read_bytes()
        self._call("check", state)
        return RemoteConversation(self, state)

    def warm_up(self) -> None:
        pass

    def stop(self, turn: str) -> None:
        self._stopped.add.remote(turn)

    def answer(self, asked: Asked) -> Iterator[ReplyChunk | bytes]:
        """A turn's chunks and its state, each once, whatever replicas die meanwhile."""
        replicas = self._replicas.options(stream=True, multiplexed_model_id=asked.conversation)
        num_given = 0
        for _ in range(TRIES):
            try:
                for number, piece in enumerate(replicas.reply.remote(asked)):
                    if number >= num_given:
                        num_given += 1
                        yield piece
                return
            except RayError as error:
                _check_lost(error)
            time.sleep(PAUSE)
        raise UserError("error_busy")

    def _call(self, name: str, *arguments: object) -> Any:
        for _ in range(TRIES):
            try:
                return getattr(self._replicas, name).remote(*arguments).result()
            except RayError as error:
                _check_lost(error)
            time.sleep(PAUSE)
        raise UserError("error_busy")


FIELDS = tuple(name for name in RemoteModel.__annotations__ if name != "empty")


class RemoteCodecModel(RemoteModel):
    """The same, of a model that offers its codec. See `contract.SpeechCodec`."""

    def encode(self, samples: torch.Tensor, sample_rate: int) -> np.ndarray:
        return self._call("encode", samples.numpy(), sample_rate)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self._call("decode", codes)


def _check_lost(error: RayError) -> None:
    """Raise the fault of a turn; one of the cluster, such as a replica's end, is passed over."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        raise error.cause from None
