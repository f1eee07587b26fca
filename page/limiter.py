"""One limit on the work of the model, whatever the way in; no wait is without end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore, Condition, Event

from models.errors import UserError

READER_SECONDS = 3.0  # from a call to the connection that reads its answer
PATIENT_SECONDS = 120.0  # that what was said live waits for a slot, as nobody wants to repeat it
LOOK_SECONDS = 0.05  # between two looks at whether one who waits was stopped
NOTICE_SECONDS = 2.0  # after which one who waits is told, again and again
MAX_KNOWN = 1000  # sessions whose last call is remembered, and whose last stream


class Limiter:
    """Slots for the model: some for replies, as many for listening.

    Args:
        max_replies: slots of each kind.
        wait_seconds: after which a wait for one ends in an error.
    """

    def __init__(self, max_replies: int, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        self._replies = BoundedSemaphore(max_replies)
        self._listening = BoundedSemaphore(max_replies)

    @contextmanager
    def reply(self, seconds: float | None = None) -> Iterator[None]:
        """Hold a slot while a reply is made.

        Args:
            seconds: the longest wait for it; None for `wait_seconds`.

        Raises:
            UserError: none became free in time.
        """
        with _held(self._replies, self.wait_seconds if seconds is None else seconds):
            yield

    def reply_when_free(
        self, slot: ExitStack, stop: Event, patient: bool
    ) -> Generator[None, None, bool]:
        """Enter a slot for a reply, held as long as `slot` is open.

        Args:
            stop: set once another turn has begun.
            patient: wait long; None comes while it waits.

        Returns:
            Whether it was entered: False after a stop.

        Raises:
            UserError: none became free in time.
        """
        noticed = time.monotonic()
        end = noticed + (PATIENT_SECONDS if patient else self.wait_seconds)
        while not stop.is_set():
            try:
                slot.enter_context(self.reply(LOOK_SECONDS))
                return True
            except UserError:
                now = time.monotonic()
                if now > end:
                    raise
            if patient and now > noticed + NOTICE_SECONDS:
                noticed = now
                yield None
        return False

    @contextmanager
    def listening(self, seconds: float) -> Iterator[None]:
        """Hold a slot while a piece of speech is read; as `reply`."""
        with _held(self._listening, seconds):
            yield


@contextmanager
def _held(slots: BoundedSemaphore, seconds: float) -> Iterator[None]:
    if not slots.acquire(timeout=seconds):
        raise UserError("error_busy")
    try:
        yield
    finally:
        slots.release()


class Readers:
    """Who reads the answers of which session: a reply that nobody reads is not made."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._open: Counter[str] = Counter()  # event streams by session
        self._called: dict[str, float] = {}  # when each session last called
        self._closed: dict[str, str] = {}  # each session's stream that was closed last

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """An event stream of a session is open."""
        with self._changed:
            self._open[session] += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._open[session] -= 1
                if not self._open[session]:
                    del self._open[session]

    def call(self, session: str) -> None:
        """A session has asked for something."""
        with self._changed:
            self._called.pop(session, None)  # a stream that is open may be closed before it begins
            self._called[session] = time.monotonic()
            _forget_oldest(self._called)

    def close(self, session: str, stream: str) -> None:
        """A session's stream brings no more events, whatever is called from now on."""
        self._closed.pop(session, None)
        self._closed[session] = stream
        _forget_oldest(self._closed)

    def closed(self, session: str) -> str:
        """Which of a session's streams was closed last; empty if it isn't known."""
        return self._closed.get(session, "")

    def is_open(self, session: str) -> bool:
        """Whether an event stream of a session is open."""
        return session in self._open

    def is_read(self, session: str) -> bool:
        """Whether somebody reads a session's answers, now or within a few seconds of the call."""
        with self._changed:
            left = self._called.get(session, 0.0) + READER_SECONDS - time.monotonic()
            return self._changed.wait_for(lambda: session in self._open, max(0.0, left))


def _forget_oldest(known: dict) -> None:
    if len(known) > MAX_KNOWN:
        del known[next(iter(known))]
