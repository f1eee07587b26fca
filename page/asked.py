"""Replies that a page has asked for, and what ends them: Stop, a new conversation, a loaded one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from .transcript import CLOSE_SECONDS

MAX_KNOWN = 1000  # pages, those that asked last
LOOK_SECONDS = 0.01  # from one interruption to the next


@dataclass
class _Page:
    """What one page has asked for.

    Fields:
        replies: the numbers of the calls for those under way.
        ended: the number of the last call that ended those before it.
        is_ending: such a call is under way.
    """

    replies: list[int] = field(default_factory=list)
    ended: int = 0
    is_ending: bool = False

    def has_before(self, asked: int) -> bool:
        """Whether a reply is under way that was asked for before."""
        return any(reply < asked for reply in self.replies)


class Asked:
    """The replies under way of each page, and which of them nobody waits for any more.

    A page numbers its calls, as one may overtake another: what ends replies ends those asked for
    before it, wherever they are on their way.

    Args:
        wait_seconds: the longest wait for another call of the page that ends replies.
    """

    def __init__(self, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        self._changed = Condition()
        self._pages: dict[str, _Page] = {}

    @contextmanager
    def reply(self, name: str, asked: int) -> Iterator[Callable[[], bool]]:
        """A reply is made meanwhile; gives whether the page has ended it.

        Args:
            name: of the page, Gradio's session.
            asked: the number of the call for it.
        """
        with self._changed:
            page = self._quiet_page(name)
            page.replies.append(asked)
        try:
            yield lambda: asked < page.ended
        finally:
            with self._changed:
                page.replies.remove(asked)

    @contextmanager
    def ended(self, name: str, asked: int, interrupt: Callable[[], None]) -> Iterator[bool]:
        """What was asked for before has ended, and nothing begins meanwhile.

        Gives whether there was anything. What does not end in time goes on.

        Args:
            interrupt: ends the turn under way; called again, as one may be about to begin.
        """
        with self._changed:
            page = self._quiet_page(name)
            page.ended, page.is_ending = max(page.ended, asked), True
        try:
            are_any, end = page.has_before(asked), time.monotonic() + CLOSE_SECONDS
            interrupt()
            while page.has_before(asked) and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
                interrupt()
            yield are_any
        finally:
            with self._changed:
                page.is_ending = False
                self._changed.notify_all()

    def _quiet_page(self, name: str) -> _Page:
        """A page, once no call of it ends replies; holds `_changed`."""
        page = self._pages.pop(name, None) or _Page()
        self._pages[name] = page
        if len(self._pages) > MAX_KNOWN:
            del self._pages[next(iter(self._pages))]
        self._changed.wait_for(lambda: not page.is_ending, self.wait_seconds)
        return page
