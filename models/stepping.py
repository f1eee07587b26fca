"""Stepping: replies shared between the threads of many users, whatever a step makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Condition
from traceback import extract_tb
from typing import Generic, TypeVar

from loguru import logger
from torch import Tensor

Reply = TypeVar("Reply")
Step = Callable[[Sequence[Reply]], list[Tensor | None]]
Restore = Callable[[], None]


class Stepper(Generic[Reply]):
    """Steps the replies of several threads together; each thread asks for its own ones' frames.

    Whoever asks while a step is under way waits for it, and then all who wait are stepped at once.
    If that fails, each is stepped alone, so that only those whose fault it is are told. If none of
    them fails then, a warning tells the fault, once.

    Args:
        step: makes the next frame of each of some replies of one model.
        snapshot: gives what brings a reply back to where it is now, whatever a step has done to it;
            without it a fault is everybody's.
    """

    GRACE_SECONDS = 0.003  # that a step waits for replies which are between two frames

    def __init__(
        self, step: Step[Reply], snapshot: Callable[[Reply], Restore] | None = None
    ) -> None:
        self.step, self.snapshot = step, snapshot
        self._waiting: dict[Reply, Future] = {}
        self._going: set[Reply] = set()
        self._stepping = self._has_warned = False
        self._changed = Condition()

    def next_frames(self, replies: Sequence[Reply]) -> list[Tensor | None]:
        """The replies' next frames, as `step` makes them; `leave` when no more are wanted."""
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
            self._step_all(batch)
        except Exception as error:  # raised again where the frames are asked for
            fault = error
        finally:
            for future in batch.values():
                if not future.done():
                    future.set_exception(fault)
            with self._changed:
                self._stepping = False
                self._changed.notify_all()

    def _step_all(self, batch: Mapping[Reply, Future]) -> None:
        restores = []
        if self.snapshot and len(batch) > 1:
            restores = [self.snapshot(reply) for reply in batch]
        try:
            frames = self.step(list(batch))
        except Exception as fault:  # whatever a step may raise
            if not restores:
                raise
            for restore in restores:
                restore()
            for reply, future in batch.items():
                try:
                    future.set_result(*self.step([reply]))
                except Exception as error:  # raised again where the frames are asked for
                    future.set_exception(error)
            if not any(future.exception() for future in batch.values()):
                self._warn(len(batch), fault)
            return
        for future, frame in zip(batch.values(), frames, strict=True):
            future.set_result(frame)

    def _warn(self, num_replies: int, fault: Exception) -> None:
        """Tell once that replies can't be stepped together, which makes them slow."""
        if not self._has_warned:
            *_, place = extract_tb(fault.__traceback__)
            logger.warning(
                f"{num_replies} replies are stepped one by one, as together they fail: "
                f"{type(fault).__name__} at {place.filename}:{place.lineno}"
            )
        self._has_warned = True

    def leave(self, reply: Reply) -> None:
        """No step waits for this reply any more."""
        with self._changed:
            self._going.discard(reply)
            self._waiting.pop(reply, None)
            self._changed.notify_all()


def _all_done(asked: Mapping[Reply, Future]) -> bool:
    return all(future.done() for future in asked.values())
