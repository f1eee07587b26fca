"""A model whose replicas are elsewhere, as the page's own: the contract, over Ray Serve.

The page keeps of each conversation what `Conversation.save` writes; its cache is at a replica. When
that one is lost, another gets the same turn, and what was heard already is passed over.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from ray.exceptions import RayError, RayTaskError
from ray.serve.handle import DeploymentHandle

from models.contract import ReplyChunk, ReplyOptions, UserTurn
from models.conversations import drawn_seed
from models.elsewhere import AskedTurn, CollectedTurn, ConversationElsewhere, ModelElsewhere
from models.errors import UserError

TRIES, PAUSE = 60, 1.0  # seconds between two tries of a turn whose replica is gone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn to be answered, with all that any replica needs for it.

    Fields:
        before, after: names of the conversation's state before and after it.
        state: the conversation before it, as `Conversation.save` writes it.
        num_given: of its chunks, heard already from a replica that was lost.
    """

    conversation: str
    before: str
    after: str
    state: bytes
    turn: AskedTurn
    num_given: int = 0


class RemoteConversation(ConversationElsewhere):
    """A conversation whose cache is at a replica."""

    model: RemoteModel

    def __init__(self, model: RemoteModel, state: bytes, beginning: bytes) -> None:
        super().__init__(model, state, beginning)
        self._conversation, self._name = uuid4().hex, uuid4().hex

    def reply(self, turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
        assert isinstance(turn, CollectedTurn), f"a {type(turn).__name__} is no turn of this model"
        asked = self._asked(turn, options)
        pieces = self.model.answer(asked)
        try:
            for piece in pieces:
                if isinstance(piece, bytes):
                    self._keep(turn, piece, asked.after)
                    return
                yield piece
                if options.stop.is_set() or not turn.is_open:
                    self.model.stop(asked.after)
        except GeneratorExit:  # nobody wants the rest; what was said is kept
            self.model.stop(asked.after)
            for piece in pieces:
                if isinstance(piece, bytes):
                    self._keep(turn, piece, asked.after)
            raise
        finally:
            turn.abandon()

    def _keep(self, turn: CollectedTurn, state: bytes, name: str) -> None:
        if turn.is_open:
            self.state, self._name = state, name

    def _asked(self, turn: CollectedTurn, options: ReplyOptions) -> Asked:
        sampling = options.sampling or self.model.sampling
        # One seed for all replicas that may have to try.
        sampling = dataclasses.replace(sampling, seed=drawn_seed(sampling.seed))
        return Asked(
            conversation=self._conversation, before=self._name, after=uuid4().hex,
            state=self.state, turn=turn.asked(dataclasses.replace(options, sampling=sampling)),
        )  # fmt: skip

    def reset(self) -> None:
        super().reset()
        self._conversation, self._name = uuid4().hex, uuid4().hex


class RemoteModel(ModelElsewhere):
    """The replicas' model, as the page's own. See `contract.SpeechModel`."""

    def __init__(self, replicas: DeploymentHandle, stopped: Any, about: dict[str, Any]) -> None:
        super().__init__(about | {"accepts": frozenset({"audio", "text"})})  # files are here
        self._replicas, self._stopped = replicas, stopped

    def new_conversation(self) -> RemoteConversation:
        return RemoteConversation(self, self.empty, self.empty)

    def load_conversation(self, path: str | os.PathLike) -> RemoteConversation:
        name = Path(path).name
        try:
            state = Path(path).read_bytes()
        except OSError as error:
            raise UserError("error_no_conversation", name=name) from error
        return RemoteConversation(self, state, self._call("check", state, name))

    def warm_up(self) -> None:
        """Replicas are ready when they are there."""

    def stop(self, turn: str) -> None:
        self._stopped.add.remote(turn)

    def answer(self, asked: Asked) -> Iterator[ReplyChunk | bytes]:
        """A turn's chunks and its state, each once, whatever replicas die meanwhile."""
        replicas = self._replicas.options(stream=True, multiplexed_model_id=asked.conversation)
        num_given = 0
        for _ in range(TRIES):
            asked = dataclasses.replace(asked, num_given=num_given)
            try:
                for number, piece in enumerate(replicas.reply.remote(asked)):
                    if number >= num_given or isinstance(piece, bytes):
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
