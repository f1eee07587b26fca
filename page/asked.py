"""Replies that a page has asked for, and what ends them: Stop, a new conversation, a loaded one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from models.errors import UserError

from .transcript import CLOSE_SECONDS

MAX_KNOWN = 1000  # pages, those that asked last
LOOK_SECONDS = 0.01  # from one interruption to the next


@dataclass
class _Page:
    """What one page has asked for.

    Fields:
        replies: the numbers of the calls for those under way.
        ended: the number of the last call that ended those before it.
        num_ending: such calls that are under way.
    """

    replies: list[int] = field(default_factory=list)
    ended: int = 0
    num_ending: int = 0

    def has_before(self, asked: int) -> bool:
        """Whether a reply is under way that was asked for before."""
        return any(reply < asked for reply in self.replies)

    def has_after(self, asked: int) -> bool:
        """Whether a reply is under way that was asked for later."""
        return any(reply > asked for reply in self.replies)


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

        Raises:
            UserError: a call that ends replies does not end in time.
        """
        with self._changed:
            page = self._page(name)
            if not self._is_quiet(page):
                raise UserError("error_busy")
            page.replies.append(asked)
        try:
            yield lambda: asked < page.ended
        finally:
            with self._changed:
                page.replies.remove(asked)

    def is_over(self, name: str, asked: int) -> bool:
        """Whether a page has ended a reply that it asked for, begun or not.

        Args:
            asked: the number of the call; 0, of one that has none, is of no reply.
        """
        page = self._pages.get(name)
        return page is not None and 0 < asked < page.ended

    def last_before(self, name: str, asked: int) -> int:
        """The number of the last call of a page's before for a reply under way; 0 if none is."""
        page = self._pages.get(name)
        return max((reply for reply in page.replies if reply < asked), default=0) if page else 0

    def is_current(self, name: str, asked: int) -> bool:
        """Whether a page has neither ended a reply, nor asked for a later one that is under way."""
        page = self._pages.get(name)
        return page is None or not (asked < page.ended or page.has_after(asked))

    @contextmanager
    def ended(
        self, name: str, asked: int, interrupt: Callable[[], None], *, begun: bool = False
    ) -> Iterator[bool | None]:
        """What was asked for before has ended, and nothing begins meanwhile.

        Gives whether there was anything; None where a later reply, before which all that was asked
        for earlier ends, is under way and goes on. What does not end in time goes on.

        Args:
            interrupt: ends the turn under way; called again, as one may be about to begin.
            begun: end all that has begun, also what was asked for later.
        """
        with self._changed:
            page = self._page(name)
            self._is_quiet(page)
            if begun:
                asked = max([asked, *(reply + 1 for reply in page.replies)])
            page.ended = max(page.ended, asked)
            page.num_ending += 1
        try:
            if page.has_after(asked):
                yield None
                return
            are_any, end = page.has_before(asked), time.monotonic() + CLOSE_SECONDS
            interrupt()
            while page.has_before(asked) and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
                interrupt()
            yield are_any
        finally:
            with self._changed:
                page.num_ending -= 1
                self._changed.notify_all()

    def _page(self, name: str) -> _Page:
        """A page, which has asked last; holds `_changed`."""
        page = self._pages.pop(name, None) or _Page()
        self._pages[name] = page
        if len(self._pages) > MAX_KNOWN:
            del self._pages[next(iter(self._pages))]
        return page

    def _is_quiet(self, page: _Page) -> bool:
        """Wait until no call of a page ends replies; False if one still does. Holds `_changed`."""
        return self._changed.wait_for(lambda: not page.num_ending, self.wait_seconds)
