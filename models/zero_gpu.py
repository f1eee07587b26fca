"""A model on Hugging Face's ZeroGPU, which lends a GPU for one call at a time.

A call runs in a process that is forked for it: what goes there and comes back is pickled, and what
it changes in memory is lost. So a conversation goes to each reply as it is saved, is read there
anew, and comes back as it is saved. Nothing is read before: a turn is kept until it is answered.

Weights are loaded by this process, where `spaces` pretends that there is a GPU, and moved by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import copy_context
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np
import torch

from .contract import ReplyChunk, ReplyOptions, SpeechCodec, SpeechModel, SystemPrompts, UserTurn
from .elsewhere import (
    AskedTurn,
    CollectedTurn,
    ConversationElsewhere,
    ModelElsewhere,
    about,
    beginning_of,
    conversation_of,
    state_of,
)
from .errors import UserError
from .load import load_model
from .transformer.graphs import SWITCH

VARIABLE = "SPACES_ZERO_GPU"  # set by Hugging Face
YES = ("1", "t", "true")  # as `spaces` reads it
GO, STOP, LEAVE = b"g", b"s", b"l"  # what a reply is told before each chunk
START_SECONDS = 15.0  # that a GPU is asked for besides a reply: weights are moved, all is read
LONGEST_SECONDS = 60.0  # of a reply without a longest length
PATIENCE_SECONDS = 30.0  # until a reply is asked to go on, or it ends
LEAVE_SECONDS = 1.5  # in which the wait for a GPU ends after a stop

Gpu = Callable[..., Callable[[Callable], Callable[..., Generator]]]  # spaces.GPU


def is_lent(device: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is ZeroGPU, and a device is asked for that it has."""
    return device != "cpu" and environment.get(VARIABLE, "").lower() in YES


def load_on_zero_gpu(
    name_or_path: str, device: str = "auto", dtype: str = "auto", revision: str | None = None
) -> ZeroGpuModel:
    """Load a checkpoint whose replies are made on ZeroGPU; call it before the page is served.

    Args: as of `models.load.load_model`.

    Raises:
        ValueError, RuntimeError: as it raises them, or `spaces` is not installed.
    """
    try:
        import spaces  # from now on PyTorch pretends to this thread that there is a GPU
    except ImportError as error:
        raise ValueError(
            f"{VARIABLE} says that this is ZeroGPU, but the package spaces, which lends its GPUs, "
            "can't be imported: pip install spaces, or choose --device cpu"
        ) from error
    os.environ.setdefault(SWITCH, "0")  # there is nothing to record graphs on
    return ZeroGpuModel(load_model(name_or_path, device, dtype, revision), spaces.GPU)


class ZeroGpuModel(ModelElsewhere):
    """A loaded model whose work is done in calls of ZeroGPU. See `contract.SpeechModel`.

    Args:
        model: that does it.
        gpu: `spaces.GPU`, which makes a call of a generator function.
    """

    def __init__(self, model: SpeechModel, gpu: Gpu) -> None:
        super().__init__(about(model))
        self._run = gpu(duration=partial(_seconds, model.frame_rate))(_Worker(model).run)
        if isinstance(model, SpeechCodec):
            self.encode, self.decode = self._encode, partial(self._one, "decode")
        if isinstance(model, SystemPrompts):
            self.new_conversation_with = self._new_conversation_with

    def new_conversation(self) -> ZeroGpuConversation:
        """A conversation in which nothing was said yet."""
        return ZeroGpuConversation(self, self.empty, self.empty)

    def load_conversation(self, path: str | os.PathLike) -> ZeroGpuConversation:
        """Restore a saved conversation, which a call of its own has checked.

        Raises:
            UserError: as of the model.
        """
        return ZeroGpuConversation(self, *self._one("check", str(path)))

    def warm_up(self) -> None:
        """Nothing can be made ready before a GPU is lent."""

    def call(self, task: str, *arguments: Any) -> Iterator[Any]:
        """What one of `_Worker`'s tasks yields.

        Raises:
            UserError: as it raises it, or ZeroGPU lends no GPU, or not for so long.
        """
        fault: UserError | None = None
        try:
            # Read to the end: a call left early may end its process's next one.
            for piece in self._run(task, *arguments):
                if isinstance(piece, UserError):
                    fault = piece
                else:
                    yield piece
        except Exception as error:
            reason = getattr(error, "message", None)  # of a gradio.Error, as which ZeroGPU says it
            if reason is None:
                raise
            raise UserError("error_zero_gpu", reason=str(reason)) from error
        if fault:
            raise fault

    def _one(self, task: str, *arguments: Any) -> Any:
        (answer,) = self.call(task, *arguments)
        return answer

    def _encode(self, samples: torch.Tensor, sample_rate: int) -> np.ndarray:
        return self._one("encode", samples.numpy(), sample_rate)

    def _new_conversation_with(self, system: str) -> ZeroGpuConversation:
        state = self._one("begin", system)
        return ZeroGpuConversation(self, state, state)


class ZeroGpuConversation(ConversationElsewhere):
    """A conversation with such a model, which is here between the calls."""

    model: ZeroGpuModel

    def reply(self, turn: UserTurn, options: ReplyOptions) -> Generator[ReplyChunk, None, None]:
        """Answer a finished turn; see `contract.Conversation.reply`.

        `options.stop` ends the reply behind the chunk that is being made, or the wait for a GPU.
        What ZeroGPU itself breaks off, or hasn't begun then, is lost: the conversation is as it was
        before the turn.
        """
        assert isinstance(turn, CollectedTurn), f"a {type(turn).__name__} is no turn of this model"
        asked = turn.asked(options)
        with _orders() as (path, tell):

            def is_stopped() -> bool:
                return options.stop.is_set() or not turn.is_open

            def go_on() -> None:
                tell(STOP if is_stopped() else GO)

            pieces = self.model.call("reply", self.state, asked, path)
            chunks = self._kept(turn, _taken(pieces, is_stopped))

            try:
                go_on()
                for chunk in chunks:
                    yield chunk
                    go_on()
            finally:
                tell(LEAVE)
                for _ in chunks:  # none: the state comes
                    pass
                turn.abandon()

    def _kept(self, turn: CollectedTurn, pieces: Iterator[ReplyChunk | bytes]) -> Iterator:
        """A reply's chunks; the state that comes behind them is kept, unless they are forgotten."""
        for piece in pieces:
            if not isinstance(piece, bytes):
                yield piece
            elif turn.is_open:
                self.state = piece


class _Worker:
    """What is done in the other process: tasks by name, of which each yields its answers."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def run(self, task: str, *arguments: Any) -> Iterator[Any]:
        """Do a task; a UserError is one of its answers, since ZeroGPU tells errors' names only."""
        try:
            yield from getattr(self, task)(*arguments)
        except UserError as error:
            yield error

    def reply(self, state: bytes, asked: AskedTurn, orders: str) -> Iterator[ReplyChunk | bytes]:
        """Answer a turn as `orders` say, a file; yields chunks, and the conversation's new state.

        A chunk is begun when it is asked for: what was said is what the caller has got. When
        nothing is asked for `PATIENCE_SECONDS`, the reply ends; without the file, none is wanted.
        """
        if not os.path.exists(orders):
            return
        conversation, stop = conversation_of(self.model, state), Event()
        try:
            chunks = conversation.reply(asked.read(conversation), asked.reply_options(stop))
            with closing(chunks), open(orders, "rb", buffering=0) as told:
                while (order := _next_order(told.fileno())) in (GO, STOP):
                    if order == STOP:
                        stop.set()
                    if (chunk := next(chunks, None)) is None:
                        break
                    yield chunk
        except Exception:
            yield state_of(conversation)
            raise
        yield state_of(conversation)

    def check(self, path: str) -> Iterator[tuple[bytes, bytes]]:
        """Yields a saved conversation if it is one, and its beginning."""
        conversation = self.model.load_conversation(path)
        yield state_of(conversation), beginning_of(conversation)

    def begin(self, system: str) -> Iterator[bytes]:
        """Yields a new conversation with a system prompt."""
        yield state_of(self.model.new_conversation_with(system))

    def encode(self, samples: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
        yield self.model.encode(torch.from_numpy(samples), sample_rate)

    def decode(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        yield self.model.decode(codes)


@contextmanager
def _orders() -> Iterator[tuple[str, Callable[[bytes], object]]]:
    """A file by which a process can be told something, and what writes into it.

    It has a name, as that process may have been forked long before.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "orders"
        os.mkfifo(path)
        file = os.open(path, os.O_RDWR)  # so that neither side waits for the other one to open it
        try:
            yield str(path), partial(os.write, file)
        finally:
            path.unlink(missing_ok=True)  # first: who opens it without a writer waits for one
            os.close(file)


def _taken(pieces: Iterator[Any], is_stopped: Callable[[], bool]) -> Iterator[Any]:
    """What a call yields, taken by a thread: it may be left while it waits for a GPU.

    The thread takes all that comes later, see `ZeroGpuModel.call`.
    """
    taken: SimpleQueue[tuple[str, Any]] = SimpleQueue()

    def take() -> None:
        try:
            for piece in pieces:
                taken.put(("piece", piece))
            taken.put(("end", None))
        except BaseException as error:
            taken.put(("error", error))

    context = copy_context()  # by which ZeroGPU knows who asks
    Thread(target=context.run, args=(take,), daemon=True).start()
    seconds: float | None = LEAVE_SECONDS
    while True:
        try:
            kind, piece = taken.get(timeout=seconds)
        except Empty:
            if is_stopped():
                return
            continue
        if kind == "error":
            raise piece
        if kind == "end":
            return
        seconds = None
        yield piece


def _next_order(file: int) -> bytes:
    """What a reply is told next; LEAVE if nothing comes.

    The wait has an end, as a page that ends in the middle of a reply waits for its process.
    """
    return os.read(file, 1) if wait([file], PATIENCE_SECONDS) else LEAVE


def _seconds(frame_rate: float, task: str, *arguments: Any) -> float:
    """For how long a GPU is asked for; a reply comes faster than it is spoken."""
    if task != "reply":
        return START_SECONDS
    frames = arguments[1].options["max_frames"]
    return START_SECONDS + (LONGEST_SECONDS if frames is None else frames / frame_rate)
