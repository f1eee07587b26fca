"""The sessions of all visitors: made on real input only, capped, and ended in time."""

from __future__ import annotations

import time
from threading import Event, Lock, Thread

from models.contract import SpeechModel
from models.errors import UserError

from .files import Files
from .limiter import Limiter
from .limits import Limits
from .session import Session

MAX_SWEEP_SECONDS = 5.0
SAFE_SECONDS = 60.0  # after its last turn, in which the session of one who is here is not evicted
OPENED_SECONDS = 2.0  # after it is opened, in which it may still wait for its turn
HERE_SECONDS = 150.0  # after a visitor's page was heard of last; it says so each minute
MAX_SEEN = 4096  # visitors whose page is open; beyond, those who have no session are forgotten


class Sessions:
    """A session for each visitor who has said something, and for each conversation of the API,
    whose name stands behind its visitor's and a point.

    One ends when it was not used for too long, sooner if its visitor is away: a page that is open
    says so now and then, so that a short break of the connection ends nothing. When there are too
    many, the one of those away that was idle longest makes room for a new one; if nobody is away,
    the one that was idle longest of all does.

    Args:
        log_content: the log may hold what is said.
    """

    def __init__(
        self, model: SpeechModel, files: Files, limits: Limits, log_content: bool = False
    ) -> None:
        self.model, self.files, self.limits = model, files, limits
        self.limiter = Limiter(limits.max_replies, limits.wait_seconds)
        self.log_content = log_content
        self._sessions: dict[str, Session] = {}
        self._seen: dict[str, float] = {}  # when each page was heard of last; that one last
        self._lock = Lock()
        self._closed = Event()
        Thread(target=self._keep_sweeping, daemon=True).start()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, visitor: str) -> Session | None:
        """The visitor's session, if there is one."""
        return self._sessions.get(visitor)

    def open(self, visitor: str, system: str | None = None) -> Session:
        """The visitor's session, which is made if there is none.

        Args:
            system: see `Session.direct`; None tells nothing.

        Raises:
            UserError: there are too many, all in use; or as `Session.direct`.
        """
        away = None
        with self._lock:
            session = self._sessions.get(visitor)
            if session is None:
                if len(self._sessions) >= self.limits.max_sessions:
                    away = self._least_used()
                    del self._sessions[away.owner]
                session = Session(
                    visitor, self.model, self.files, self.limiter, self.limits, self.log_content
                )
                self._sessions[visitor] = session
            session.opened = session.hearing.last_used = time.monotonic()
        if away:
            away.close()
        if system is not None:
            session.direct(system)
        return session

    def see(self, visitor: str) -> None:
        """A visitor's page is open."""
        with self._lock:
            self._seen.pop(visitor, None)
            self._seen[visitor] = time.monotonic()
            if len(self._seen) > MAX_SEEN:
                known = set(map(_visitor_of, self._sessions))
                del self._seen[next((one for one in self._seen if one not in known), visitor)]

    def sweep(self) -> None:
        """End the sessions, and remove the uploads, whose time is over."""
        now = time.monotonic()
        with self._lock:
            self._seen = {one: at for one, at in self._seen.items() if at > now - HERE_SECONDS}
            over = []
            for visitor, session in self._sessions.items():
                limits = self.limits
                is_here = self._is_here(visitor)
                seconds = limits.idle_seconds if is_here else limits.linger_seconds
                if not session.is_busy and now - session.hearing.last_used > seconds:
                    over.append(session)
            for session in over:
                del self._sessions[session.owner]
        for session in over:
            session.close()
        self.files.remove_expired()

    def close(self) -> None:
        """End all sessions."""
        self._closed.set()
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.interrupt()
        for session in sessions:
            session.close()

    def _is_here(self, owner: str) -> bool:
        seen = self._seen.get(_visitor_of(owner))
        return seen is not None and seen > time.monotonic() - HERE_SECONDS

    def _least_used(self) -> Session:
        """Of those in which nothing is under way: of visitors who are away, else of idle ones."""
        before = time.monotonic() - SAFE_SECONDS
        free = [
            session
            for session in self._sessions.values()
            if not (session.is_busy or _is_awaited(session))
        ]
        away = [session for session in free if not self._is_here(session.owner)]
        ending = away or [session for session in free if session.hearing.last_used < before]
        if not ending:
            raise UserError("error_too_many_users")
        return min(ending, key=lambda session: session.hearing.last_used)

    def _keep_sweeping(self) -> None:
        seconds = min(MAX_SWEEP_SECONDS, self.limits.linger_seconds / 2)
        while not self._closed.wait(seconds):
            self.sweep()


def _visitor_of(owner: str) -> str:
    return owner.partition(".")[0]


def _is_awaited(session: Session) -> bool:
    """Whether it was opened a moment ago, and nothing has happened in it since."""
    return session.hearing.last_used == session.opened > time.monotonic() - OPENED_SECONDS
