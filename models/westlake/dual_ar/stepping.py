"""Stepping: replies made to their ends, shared between the threads of many users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from threading import Condition

from torch import Tensor

from .engines import EagerEngine
from .generation import Reply, next_frames


class Stepper:
    """Steps the replies of several threads together; each thread asks for its own ones' frames.

    Whoever asks while a step is under way waits for it, and then all who wait are stepped at once.

    Args:
        engine: of all the replies' model.
    """

    GRACE_SECONDS = 0.003  # that a step waits for replies which are between two frames

    def __init__(self, engine: EagerEngine):
        self.engine = engine
        self._waiting: dict[Reply, Future] = {}
        self._going: set[Reply] = set()
        self._stepping = False
        self._changed = Condition()

    def next_frames(self, replies: Sequence[Reply]) -> list[Tensor | None]:
        """The replies' next frames, as from `next_frames`; `leave` when no more are wanted."""
        asked: dict[Reply, Future] = {reply: Future() for reply in replies}
        with self._changed:
            self._waiting |= asked
            self._going |= asked.keys()
            self._changed.notify_all()
            self._changed.wait_for(lambda: _all_done(asked) or not self._stepping)
            is_done = _all_done(asked)
            self._stepping |= not is_done
        if not is_done:
            self._step()
        return [future.result() for future in asked.values()]

    def _step(self) -> None:
        """Step all who wait; whatever happens, they are told, and the next step can begin."""
        batch: dict[Reply, Future] = {}
        fault: Exception = RuntimeError("the step was interrupted: ask again")
        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._going <= self._waiting.keys(), timeout=self.GRACE_SECONDS
                )
                batch, self._waiting = self._waiting, {}
            frames = next_frames(self.engine, list(batch))
            for future, frame in zip(batch.values(), frames, strict=True):
                future.set_result(frame)
        except Exception as error:
            fault = error
        finally:
            for future in batch.values():
                if not future.done():
                    future.set_exception(fault)
            with self._changed:
                self._stepping = False
                self._changed.notify_all()

    def leave(self, reply: Reply) -> None:
        """No step waits for this reply any more."""
        with self._changed:
            self._going.discard(reply)
            self._waiting.pop(reply, None)
            self._changed.notify_all()


def _all_done(asked: Mapping[Reply, Future]) -> bool:
    return all(future.done() for future in asked.values())


Step = Callable[[Sequence[Reply]], list[Tensor | None]]


def make_frames(step: Step, replies: Sequence[Reply]) -> Iterator[tuple[Reply, Tensor | None]]:
    """Make replies to their ends, side by side: the one loop in which frames are made.

    Args:
        step: `partial(next_frames, engine)`, or `Stepper.next_frames` to share steps with other
            threads.
        replies: of one model; those that have not ended yet are stepped together.

    Yields:
        A reply and its next frame [1+K] long, or None where its end token came.
    """
    while going := [reply for reply in replies if not reply.ended]:
        yield from zip(going, step(going), strict=True)
