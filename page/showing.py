"""How the talk tab shows what goes on: replies while they grow, faults, and the status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import gradio as gr
from anyio import from_thread
from gradio.context import Context

from . import words
from .asked import Asked
from .calls import visitor_of, withdraw
from .chat import chat_value
from .session import Session
from .sessions import Sessions
from .settings import Settings
from .told import fault_of
from .turn import ShownTurn

SHOWN_KINDS = ("image", "video")
AHEAD_SECONDS = 1.0  # of sound made and not yet heard: then a reply's growth is shown less often
SPARSE_SECONDS = 0.1
MAX_LINES = 24  # of speech that the page is told with a step, or as many as have come since
REPEATED_LINES = 4  # of them that it was told before: it may skip a step

Steps = Generator[dict[Any, Any]]
IsOver = Callable[[], bool]  # whether the page has ended what it asked for


class Showing:
    """What the handlers of the tab's events share.

    Fields:
        asked: the replies under way.
        chat, player, status, taken: components: the conversation, the sound, what goes on, and
            what leaves the composer.

    Args:
        sessions: a session for each visitor who has said something.
        settings: that the replies are made with.
    """

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        *,
        chat: Any,
        player: Any,
        status: Any,
        taken: Any,
    ) -> None:
        self.sessions, self.settings = sessions, settings
        self.asked = Asked(sessions.limits.wait_seconds)
        assert Context.root_block is not None
        self._blocks = Context.root_block  # that the components are made in
        self.chat, self.player, self.status, self.taken = chat, player, status, taken

    def session(self, request: gr.Request) -> Session | None:
        """The visitor's session, if there is one."""
        return self.sessions.get(visitor_of(request.session_hash))

    def files_of(self, given: dict, kinds: Sequence[str], visitor: str) -> dict[str, str]:
        """The paths of what the visitor gave of some kinds.

        Raises:
            UserError: a file that is not the visitor's.
        """
        paths = {kind: path_of(given.get(kind)) for kind in kinds}
        return {
            kind: self.sessions.files.check(path, visitor) for kind, path in paths.items() if path
        }

    def fault(self, error: Exception) -> dict:
        """A fault as the status."""
        return {self.status: words.fault_status(fault_of(error))}

    def told(self, steps: Steps) -> Steps:
        """An event's steps; a fault among them is shown as the status."""
        with closing(steps):
            try:
                yield from steps
            except Exception as error:
                yield self.fault(error)

    def asked_for(
        self, request: gr.Request, given: object, steps: Callable[[IsOver], Steps]
    ) -> Steps:
        """The steps of a reply, as `told`, numbered as the call for it.

        What ends or replaces it tells what goes on then.
        """
        with closing(self.told(self._asked_for(request, given, steps))) as told:
            for step in told:
                keys = [key for key in (self.status, self.taken) if key in step]
                yield step | {key: numbered(step[key], given) for key in keys}

    def _asked_for(
        self, request: gr.Request, given: object, steps: Callable[[IsOver], Steps]
    ) -> Steps:
        name, asked = call_of(request, given)
        nothing = {self.chat: gr.skip()}  # {} would be a fault to Gradio
        with self.asked.reply(name, asked) as is_over:
            with closing(self.told(steps(is_over))) as told:
                for step in told:
                    if not self.asked.is_current(name, asked):
                        step = {key: step[key] for key in (self.chat, self.taken) if key in step}
                    elif self.player in step:
                        step[self.player] = f"{asked} {step[self.player]}"
                    elif not step:
                        step = {self.status: words.status()}
                    yield step or nothing
            if not self.asked.is_current(name, asked):
                yield nothing  # Gradio sends the last step twice

    @contextmanager
    def ended(
        self, request: gr.Request, given: object, *, begun: bool = False
    ) -> Iterator[bool | None]:
        """All replies that the page asked for before have ended; as `Asked.ended`."""

        def interrupt() -> None:
            if session := self.session(request):
                session.interrupt()

        name, asked = call_of(request, given)
        with self.asked.ended(name, asked, interrupt, begun=begun) as are_any:
            num_waited = from_thread.run_sync(
                withdraw, self._blocks, name, lambda call: self.asked.is_over(name, asked_of(call))
            )
            yield are_any if are_any is None else are_any or num_waited > 0

    def reply(
        self,
        session: Session,
        answer: Callable[[], Generator[ShownTurn | None]],
        is_over: IsOver,
    ) -> Steps:
        """The reply while it grows; what the user gave is taken away once it is understood.

        Nothing comes at the end, {}, of one that ended without a turn while nobody speaks.
        """
        if is_over():
            return
        begun = shown_at = time.monotonic()
        first, num_shown, turn = 0, 0, None  # pieces of speech: that begins a step, were told
        with closing(answer()) as turns:
            for turn in turns:
                now = time.monotonic()
                if turn is None:
                    yield {self.status: words.status("busy", "waiting")}
                    continue
                shown = {self.chat: chat_value(session, [turn])}
                if turn.last is None and not turn.ended:
                    begun = now
                    status = words.status("busy", "thinking")
                    taken = {} if turn.again_of else {self.taken: _taken(session, turn)}
                    yield {**shown, **taken, self.status: status}
                elif turn.last and not turn.ended:
                    is_ahead = turn.seconds - (now - begun) > AHEAD_SECONDS
                    if is_ahead and now - shown_at < SPARSE_SECONDS:
                        continue
                    if turn.num_pieces > first + MAX_LINES:
                        first = _repeated(num_shown)
                    shown_at, num_shown = now, turn.num_pieces
                    yield {**shown, self.player: turn.stream(first), self.status: _making(turn)}
                else:
                    end = ("note", "too_long") if turn.cut_off else ()
                    if num_shown or not turn.stopped:
                        shown[self.player] = turn.stream(_repeated(num_shown))  # sent twice
                    yield {**shown, self.status: words.status(*end, goes_on=True)}
        if turn is None and not session.hearing.is_open:
            yield {}


def object_of(given: object) -> dict[str, Any]:
    """What the page sent; empty if it is no object."""
    return given if isinstance(given, dict) else {}


def asked_of(given: object) -> int:
    """The number of a call among those of its page; 0 if it has none."""
    number = object_of(given).get("asked")
    return number if type(number) is int else 0


def call_of(request: gr.Request, given: object) -> tuple[str, int]:
    """The page that calls, and the call's number."""
    return request.session_hash or "", asked_of(given)


def numbered(told: str, given: object) -> str:
    """What the page is told, an object as JSON, with the number of the call that it answers."""
    return json.dumps({**json.loads(told), "asked": asked_of(given)})


def path_of(file: object) -> object:
    """The path of a file that the page sent, if it is one."""
    return file.get("path") if isinstance(file, dict) else file


def _taken(session: Session, turn: ShownTurn) -> str:
    """The files of a turn, and the numbers of the page's calls that have become turns."""
    given = {"audio": turn.audio, "image": turn.image, "video": turn.video}
    asked = [other.asked for other in session.turns]
    taken = [number for page, number in asked if page == turn.asked[0]]
    return json.dumps({**given, "taken": taken})


def _repeated(num_shown: int) -> int:
    """The piece of speech that a step begins with which repeats the last of those before."""
    return max(0, num_shown - REPEATED_LINES)


def _making(turn: ShownTurn) -> str:
    assert turn.last is not None
    longest = turn.last.max_seconds  # 0 of a reply in text alone
    progress = {"done": turn.seconds, "max": longest} if longest else None
    return words.status("busy", "making", progress=progress, goes_on=True)
