"""`spaces.GPU` as ZeroGPU has it: a generator runs in a forked process, in a thread of its own.

What goes in and comes out is pickled, it runs ahead of who reads it, and only its yields come back:
of an error no more than its class's name, as what is shown to a user.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from threading import Event, Thread
from typing import Any

CONTEXT = multiprocessing.get_context("fork")
ASKER = ContextVar("asker", default="nobody")  # as Gradio has the request whose quota is used


class ShownError(Exception):
    """Has what gradio.Error has."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class FakeSpaces:
    """The package.

    Fields:
        asked: seconds that calls have asked for.
        asked_by: who was the `ASKER` of each.
        refusal: why no GPU is lent; None lends one.
        num_pieces: after which a call is broken off; None lets it end.
        free: set while there is a GPU to lend; a call waits a minute for one.
        num_left: calls of which not all was taken; what `spaces` sets for them ends whatever call
            the process may be at by then.
    """

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.asked_by: list[str] = []
        self.refusal: str | None = None
        self.num_pieces: int | None = None
        self.free = Event()
        self.free.set()
        self.num_left = 0

    def GPU(self, *, duration: Callable[..., float]) -> Callable:  # noqa: N802
        def decorated(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            @wraps(task)
            def call(*arguments: Any) -> Iterator[Any]:
                self.asked.append(duration(*arguments))
                self.asked_by.append(ASKER.get())
                if self.refusal is not None:
                    raise ShownError(self.refusal)
                self.free.wait(60)
                given, (taken, giving) = CONTEXT.SimpleQueue(), CONTEXT.Pipe(duplex=False)
                process = CONTEXT.Process(target=_work, args=(task, given, giving), daemon=True)
                process.start()
                giving.close()  # now it ends with the process
                given.put(arguments)
                num_given = 0
                while (kind := _next(taken))[0] == "piece":
                    if num_given == self.num_pieces:
                        process.kill()
                        continue
                    num_given += 1
                    try:
                        yield kind[1]
                    except GeneratorExit:
                        self.num_left += 1
                        raise
                process.join()
                if kind[0] == "error":
                    raise ShownError(kind[1])

            return call

        return decorated


def _next(taken: Any) -> tuple:
    try:
        return taken.recv()
    except (EOFError, OSError):  # between two pieces, or within one
        return "error", "GPU task aborted"


def _work(task: Callable, given: Any, giving: Any) -> None:
    def iterate() -> None:
        try:
            for piece in task(*given.get()):
                giving.send(("piece", piece))
        except Exception as error:
            giving.send(("error", type(error).__name__))
        else:
            giving.send(("end",))

    thread = Thread(target=iterate)
    thread.start()
    thread.join()
