"""Calls of the page's events and of its API, checked before Gradio sees them."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import gradio as gr
from gradio import Blocks
from gradio.block_function import BlockFunction
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import get_function_params

from models.errors import UserError

from .files import Files
from .limiter import Readers
from .limits import Limits
from .places import Places

MODEL = "model"  # the concurrency_id of all events that make a reply
BUILD = "build"  # and of those that make many, a listening test's
LOAD = "load"  # and of those that load a model, one at a time: more would wait for its lock
LOADING: dict[str, Any] = {"concurrency_id": LOAD, "concurrency_limit": 1}
QUICK: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": 16}
LONG = (MODEL, BUILD, LOAD)
WHO = "who"  # in a request's state: (user, address) that limits are counted for
SINCE = "since"  # likewise: when it came, by time.monotonic
MAX_WAITING_EVENTS = 256  # of all others
LOOK_SECONDS = 0.005  # between Gradio's looks for a call; its 0.001 keep a core busy, by 6 % of it
MAX_DEPTH = 6  # of what is nested in a call
API_SESSION = "api-"  # begins the names of sessions that are made for calls of the API
MAX_API_SESSIONS = 256  # of these, known so that they can be used again
NAME = re.compile(r"[\w-]{1,64}", re.ASCII)  # of a session, and of a conversation of the API


class RefusedError(Exception):
    """A request that goes no further.

    Args:
        status: of HTTP.
        code, values: the message, as of `UserError`.
    """

    def __init__(self, status: int, code: str, **values: object) -> None:
        super().__init__(code)
        self.status, self.code, self.values = status, code, values


def own(visitor: str, session: object) -> str:
    """A session's name in a visitor's own space.

    Raises:
        RefusedError: it is no name.
    """
    if not isinstance(session, str) or not NAME.fullmatch(session):
        raise RefusedError(400, "error_request")
    return f"{visitor}_{session}"


def visitor_of(session: str | None) -> str:
    """The visitor in whose space a session's name lies."""
    return (session or "").partition("_")[0]


def called_at(request: gr.Request) -> float:
    """When a call came, by time.monotonic, before its wait for a place."""
    return getattr(request.state, SINCE)


def withdraw(blocks: Blocks, session: str, is_over: Callable[[object], bool]) -> int:
    """Take a page's replies that wait, and nobody waits for, out of Gradio's queue.

    Each is told as complete, with nothing changed. Gradio's event loop alone may call this: its
    queue has no lock against threads.

    Args:
        session: the page's.
        is_over: whether nobody waits for what was asked with such a first argument.

    Returns:
        How many there were.
    """
    queue = blocks._queue
    queues = queue.event_queue_per_concurrency_id
    waiting = queues[MODEL].queue if MODEL in queues else []
    over = [
        event
        for event in waiting
        if event.session_hash == session and event.fn.api_visibility == "private"
        if event.data and is_over(event.data.data[0])
    ]
    for event in over:
        waiting.remove(event)
        queue.event_ids_to_events.pop(event._id, None)
        output = {"data": [gr.skip() for _ in event.fn.outputs], "is_generating": False}
        queue.send_message(event, ProcessCompletedMessage(output=output, success=True))
    return len(over)


class Calls:
    """What is asked of Gradio's queue."""

    def __init__(self, blocks: Blocks, limits: Limits, files: Files, readers: Readers) -> None:
        self.blocks, self.limits, self.files, self.readers = blocks, limits, files, readers
        blocks._queue.sleep_when_free = LOOK_SECONDS
        self._joining: list[BlockFunction] = []  # of calls on their way into the queue
        self._direct = Places()  # of calls that do not come through the queue
        self._api_sessions: dict[str, bool] = {}  # that were made here: whether they rest
        self.is_ending = False  # no more calls are taken
        self.last_asked = 0.0  # when anything of use was asked for, by time.monotonic

    @contextmanager
    def joining(self, door: str, body: dict) -> Iterator[int]:
        """A call's way into the queue, on which it takes room already; gives its place there.

        Args:
            door, body: what is asked for, and what `clean` made of it; only calls need room.

        Raises:
            RefusedError: too many wait.
        """
        function = self._called(door, body)
        if function is None:
            yield 0
            return
        try:
            self._check_room(function)
        except RefusedError:
            self.rest(body["session_hash"])
            raise
        self.readers.call(body["session_hash"])
        place = self.num_waiting
        with self._waiting_with(function):
            yield place

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """A place of Gradio's queue for a call of the API that does not come through it.

        It counts as a call that waits, behind those that came before it, then as one under way.

        Args:
            name: of the call.

        Raises:
            RefusedError: too many wait.
        """
        function = self._called(f"call/{name}", {})
        assert function is not None, name
        self._check_room(function)
        with ExitStack() as waiting:
            waiting.enter_context(self._waiting_with(function))
            async with self._direct.one(self.blocks._queue, function):
                waiting.close()
                yield

    def session_of(self, event_id: str) -> str | None:
        """The session that an event was called in."""
        queue = self.blocks._queue
        if event := queue.event_ids_to_events.get(event_id):
            return event.session_hash
        pending = list(queue.pending_event_ids_session.items())
        return next((session for session, ids in pending if event_id in ids), None)

    def rest(self, session: str) -> None:
        """Let the next call of the API have a session of it, if nothing is asked in it any more.

        To make a new one for each call takes Gradio longer than all else that it does for it.
        """
        is_over = self.blocks._queue.pending_event_ids_session.get(session) == set()
        if session in self._api_sessions and is_over and not self.readers.is_open(session):
            self._api_sessions[session] = True

    def _api_session(self, visitor: str) -> str:
        """A session for a call of the API that names none; never one that a client has named."""
        for session, rests in self._api_sessions.items():
            if rests and visitor_of(session) == visitor and not self.readers.is_open(session):
                break
        else:
            session = own(visitor, API_SESSION + secrets.token_hex(8))
        self._api_sessions[session] = False
        if len(self._api_sessions) > MAX_API_SESSIONS:
            del self._api_sessions[next(iter(self._api_sessions))]
        return session

    @property
    def num_waiting(self) -> int:
        """Replies that wait for their turn."""
        return sum(function.concurrency_id == MODEL for function in self._waiting())

    @property
    def num_replies(self) -> int:
        """Replies that are made or wait."""
        begun = sum(function.concurrency_id == MODEL for function in self._begun())
        return begun + self._direct.num_taken + self.num_waiting

    @contextmanager
    def _waiting_with(self, function: BlockFunction) -> Iterator[None]:
        """One more call waits meanwhile, which Gradio does not know of."""
        self._joining.append(function)
        try:
            yield
        finally:
            self._joining.remove(function)

    def _begun(self) -> list[BlockFunction]:
        jobs = [job for job in self.blocks._queue.active_jobs if job]
        return [event.fn for job in jobs for event in job]

    def _waiting(self) -> list[BlockFunction]:
        """What was called and has not begun."""
        queues = list(self.blocks._queue.event_queue_per_concurrency_id.values())
        return [event.fn for queue in queues for event in list(queue.queue)] + self._joining

    def in_order(self, door: str, body: dict) -> dict[str, Any]:
        """The body of a call of the API whose arguments came by name.

        Raises:
            RefusedError: there is no such call, or it has other arguments.
        """
        function = self._called(door, body)
        if function is None:
            raise RefusedError(404, "error_no_such_call")
        parameters = _parameters(function)
        values = {name: default for name, has_default, default, _ in parameters if has_default}
        values |= body
        if set(values) != {name for name, *_ in parameters}:
            raise _wrong_data(function)
        return {"data": [values[name] for name, *_ in parameters]}

    def clean(self, door: str, body: dict, visitor: str) -> dict[str, Any]:
        """A request's body with nothing in it that the page itself would not send.

        Args:
            door: what is asked for, "queue/join" and so on.

        Raises:
            RefusedError: something is wrong with it, or it names a foreign file.
        """
        kind = door.partition("/")[0]
        if door == "queue/join":
            session = own(visitor, body.get("session_hash"))
            call = self._call(self._called(door, body), body, session, visitor)
            return call | {"fn_index": body["fn_index"]}
        if kind == "call":
            given = body.get("session_hash")
            session = own(visitor, given) if given else ""
            call = self._call(self._called(door, body), body, session, visitor)
            return call | {"session_hash": session or self._api_session(visitor)}
        if kind == "cancel":
            session, event_id = own(visitor, body.get("session_hash")), body.get("event_id")
            if type(body.get("fn_index")) is not int or not isinstance(event_id, str):
                raise RefusedError(400, "error_request")
            self._check_event(event_id, visitor)
            return {"session_hash": session, "fn_index": body["fn_index"], "event_id": event_id}
        return {"event_id": ""}  # reset, which does nothing

    def _called(self, door: str, body: dict) -> BlockFunction | None:
        """The function that is called, through the queue or the API, if there is one."""
        kind, _, name = door.partition("/")
        if door == "queue/join":
            index = body.get("fn_index")
            return self.blocks.fns.get(index) if type(index) is int else None
        for function in self.blocks.fns.values() if kind == "call" else ():
            if function.api_name == name and function.api_visibility == "public":
                return function
        return None

    def _check_event(self, event_id: str, visitor: str) -> None:
        event = self.blocks._queue.event_ids_to_events.get(event_id)
        if event is not None and visitor_of(event.session_hash) != visitor:
            raise RefusedError(404, "error_request")

    def _call(self, function, body: dict, session: str, visitor: str) -> dict[str, Any]:
        if function is None:
            raise RefusedError(404, "error_no_such_call")
        return {"session_hash": session, "data": self._data(function, body.get("data"), visitor)}

    def _check_room(self, function: BlockFunction) -> None:
        if self.is_ending:
            raise RefusedError(503, "error_ending")
        waiting = self._waiting()
        long = [other.concurrency_id for other in waiting if other.concurrency_id in LONG]
        if function.concurrency_id in LONG:
            if long.count(function.concurrency_id) >= self.limits.max_waiting:
                raise RefusedError(503, "error_busy")
        elif len(waiting) - len(long) >= MAX_WAITING_EVENTS:
            raise RefusedError(503, "error_busy")

    def _data(self, function, data: object, visitor: str) -> list:
        if not isinstance(data, list):
            raise _wrong_data(function)
        if function.api_visibility == "public":  # the last ones may be left out
            rest = _parameters(function)[len(data) :]
            data = data + [default for _, has_default, default, _ in rest if has_default]
        if len(data) != len(function.inputs):
            raise _wrong_data(function)
        try:
            return self._checked(data, visitor, 0)
        except UserError as error:
            raise RefusedError(403, error.code, **error.values) from error

    def _checked(self, value: object, visitor: str, depth: int):
        """A value without any file but the visitor's own."""
        if depth > MAX_DEPTH:
            raise RefusedError(400, "error_request")
        if isinstance(value, dict):
            if "path" in value or "url" in value:
                path = self.files.check(value.get("path"), visitor)
                return {"path": path, "meta": {"_type": "gradio.FileData"}}
            return {key: self._checked(item, visitor, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._checked(item, visitor, depth + 1) for item in value]
        return value


def _parameters(function: BlockFunction) -> list[tuple]:
    """(name, has a default, the default, type) of each; none of what only the browser runs."""
    return list(get_function_params(function.fn)) if function.fn else []


def _wrong_data(function: BlockFunction) -> RefusedError:
    expected = ", ".join(name for name, *_ in _parameters(function))
    return RefusedError(422, "error_call_data", expected=expected)
