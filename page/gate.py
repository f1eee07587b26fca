"""What stands before Gradio's server: only the page's own doors, bounded and checked.

A visitor is told by the `X-Visitor` header, a secret that the page's own script makes for its tab;
other clients by a cookie that they are given with the configuration, or else by their address.
Gradio's session names are moved into the visitor's own space, so that knowing one opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from gradio.route_utils import MultiPartException, upload_fn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from models.errors import UserError

from .calls import Calls, RefusedError, own
from .files import Files
from .limits import Limits
from .messages import (
    API,
    MCP,
    STREAM,
    bounded,
    cookie_of,
    once,
    path_of,
    refusal,
    watched,
    with_closed,
    with_cookie,
    with_json,
    with_place,
    with_script,
)
from .server import network_of
from .words import asset

DRAINED = 4  # times the largest upload: what is read and dropped of one that is refused
VISITOR = "x-visitor"
HERE = "/here"  # asked for by a page now and then, for as long as it is open
NUMBER = re.compile(r"[0-9]{1,16}")  # of a stream of events, as its page counts them
# Everything else of Gradio's is closed: direct calls past the queue, monitoring, proxies and so on.
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\w+)?"
    r"|/here|/(static|assets|svelte)/.+"
    r"|/gradio_api/(info/?|startup-events|theme\.css|app_id/?|login_check/?|user/?|token/?|upload_progress"
    r"|queue/(data|status)|call/(v2/)?\w+/\w+|file=.+)"
)
WRITE = re.compile(r"/gradio_api/(queue/join|call/(v2/)?\w+/?|upload|cancel|reset/?)")
ANSWER = re.compile(r"/gradio_api/call/(?:v2/)?\w+/(\w+)")
NAMED = "call/v2/"  # calls whose body has the arguments by name
FIRST = asset("first.js")
UNCACHED = {"cache-control": "no-store"}
NETWORKS = 4  # whose assistants may fill their share of calls at the same time
PROGRESS = 'data: {"msg": "done"}\n\n'  # of an upload, which nobody keeps an account of


class Open:
    """Requests that are open, by address.

    Args:
        of_one, of_all: how many there may be of one address, and of all.
    """

    def __init__(self, of_one: int, of_all: int) -> None:
        self.of_one, self.of_all = of_one, of_all
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, address: str) -> Iterator[None]:
        """One more is open meanwhile.

        Raises:
            RefusedError: there are too many.
        """
        if self._open[address] >= self.of_one:
            raise RefusedError(429, "error_connections", limit=self.of_one)
        if self._open.total() >= self.of_all:
            raise RefusedError(503, "error_busy")
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


class Gate:
    """ASGI middleware; see the module.

    Args:
        app: Gradio's.
        calls: checks what is called, and knows who reads the answers.
        see: told whose page is open, each time that it says so.
        is_host: whether the page may be asked for under a name.
        assistants: answers the body of a request to `MCP`; None where there is nothing.
    """

    def __init__(
        self,
        app,
        *,
        limits: Limits,
        files: Files,
        calls: Calls,
        see: Callable[[str], None],
        is_host: Callable[[str], bool],
        assistants: Callable[..., Awaitable[None]] | None = None,
    ) -> None:
        self.app, self.assistants, self.see = app, assistants, see
        self.limits, self.files, self.calls, self.is_host = limits, files, calls, is_host
        self._secret = secrets.token_bytes(32)
        self._requests = Open(limits.address_connections, limits.max_connections)
        share = limits.max_replies + limits.max_waiting  # more would be refused in the end
        self._assisted = Open(share, NETWORKS * share)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            with self._requests.one(_network(scope)):
                await self._answer(scope, receive, send)
        except RefusedError as refused:  # too many are open
            await refusal(refused, scope)(scope, receive, send)

    async def _answer(self, scope, receive, send) -> None:
        try:
            await self._pass(scope, receive, send)
        except RefusedError as refused:
            if refused.status in (413, 507):
                await self._drain(receive)
            await refusal(refused, scope)(scope, receive, send)

    async def _pass(self, scope, receive, send) -> None:
        headers, path = Headers(scope=scope), path_of(scope)
        if path != HERE:
            self.calls.last_asked = time.monotonic()
        if not self._is_ours(headers.get("host", "")):
            raise RefusedError(421, "error_host")
        if scope["method"] == "POST" and self._is_cross_site(headers):
            raise RefusedError(403, "error_cross_site")
        if path == MCP and self.assistants is not None:
            await self._assist(self.assistants, scope, receive, send)
            return
        doors = READ if scope["method"] in ("GET", "HEAD") else WRITE
        is_open = scope["method"] in ("GET", "HEAD", "POST") and doors.fullmatch(path)
        if not is_open:
            raise RefusedError(404, "error_no_such_page")
        visitor, send = self._visitor(scope, headers, path, send)
        if scope["method"] == "POST":
            await self._write(scope, receive, send, path, visitor)
        else:
            await self._read(scope, receive, send, path, visitor)

    def _is_ours(self, address: str) -> bool:
        """Whether the page may be asked for at a name, with or without a port."""
        return self.is_host(re.sub(r":\d*$", "", address).strip("[]").lower())

    def _is_cross_site(self, headers: Headers) -> bool:
        """Whether a page of somebody else's sends this from the browser of one who looks at it."""
        if headers.get("sec-fetch-site") == "cross-site":
            return True
        origin = headers.get("origin")
        return origin is not None and not self._is_ours(origin.partition("://")[2])

    async def _drain(self, receive) -> None:
        """Let a client that is still sending finish, so that it reads why it is refused."""

        async def drain() -> None:
            left = DRAINED * self.limits.max_upload_bytes
            more = True
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(drain(), self.limits.receive_seconds)

    def _visitor(self, scope, headers: Headers, path: str, send):
        """The visitor's short name, and `send`, which may give a cookie."""
        key = headers.get(VISITOR) or cookie_of(headers.get("cookie", ""))
        if not key and path.rstrip("/") == "/config":
            key = secrets.token_urlsafe(24)
            send = with_cookie(send, key)
        client = scope.get("client") or ("",)
        told = f"key {key}" if key else f"address {client[0]}"
        digest = hashlib.blake2b(told.encode(), key=self._secret, digest_size=12)
        return digest.hexdigest(), send

    async def _read(self, scope, receive, send, path: str, visitor: str) -> None:
        session, readers = None, self.calls.readers
        if path == f"{API}/upload_progress":
            await Response(PROGRESS, media_type="text/event-stream")(scope, receive, send)
            return
        if path == HERE:
            self.see(visitor)
            await Response(status_code=204, headers=UNCACHED)(scope, receive, send)
            return
        if path == "/":
            send = with_script(send, FIRST)
        elif path.startswith(f"{API}/file="):
            if not self.files.is_served(path.removeprefix(f"{API}/file=")):
                raise RefusedError(404, "error_foreign_file")
        elif path == f"{API}/queue/data":
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            session = own(visitor, query.get("session_hash"))
            if NUMBER.fullmatch(number := Headers(scope=scope).get(STREAM, "")):
                send = watched(send, partial(readers.close, session, number))
            scope = {**scope, "query_string": urlencode({"session_hash": session}).encode()}
        elif found := ANSWER.fullmatch(path):
            session = self.calls.session_of(found[1])
        if session is None:
            await self.app(scope, receive, send)
            return
        with readers.reading(session):
            await self.app(scope, receive, send)
        self.calls.rest(session)

    async def _write(self, scope, receive, send, path: str, visitor: str) -> None:
        if path == f"{API}/upload":
            response = await self._upload(scope, receive, visitor)
            await response(scope, receive, send)
            return
        body = await self._body(scope, receive)
        door = path.removeprefix(API).strip("/")
        if door.startswith(NAMED):
            door = f"call/{door.removeprefix(NAMED)}"
            body = self.calls.in_order(door, body)
            scope = {**scope, "path": scope["path"].replace(f"{API}/{NAMED}", f"{API}/call/")}
        body = self.calls.clean(door, body, visitor)
        raw = json.dumps(body).encode()
        with self.calls.joining(door, body) as place:
            if door.startswith("call/"):
                send = with_place(send, place)
            elif door == "queue/join":
                send = with_closed(send, partial(self.calls.readers.closed, body["session_hash"]))
            await self.app(with_json(scope, raw), once(raw, receive), send)

    async def _assist(self, assistants, scope, receive, send) -> None:
        if scope["method"] != "POST":  # the protocol's streams and sessions are not offered
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
            return
        with self._assisted.one(_network(scope)):
            pieces = self._pieces(scope, receive, self.limits.max_mcp_bytes)
            await assistants(scope, b"".join([each async for each in pieces]), receive, send)

    async def _body(self, scope, receive) -> dict:
        pieces = self._pieces(scope, receive, self.limits.max_request_bytes)
        raw = b"".join([piece async for piece in pieces])
        try:
            body = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError):
            raise RefusedError(400, "error_request") from None
        if not isinstance(body, dict):
            raise RefusedError(400, "error_request")
        return body

    async def _pieces(self, scope, receive, limit: int):
        """The pieces of a body of so many bytes at most, which must come in time."""
        receive = bounded(scope, receive, limit, self.limits.receive_seconds)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "error_request")
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def _upload(self, scope, receive, visitor: str) -> Response:
        """Take a visitor's files, into a folder whose name can't be guessed."""
        limit = self.limits.max_upload_bytes
        receive = bounded(scope, receive, limit + 4096, self.limits.receive_seconds)
        try:
            folder = self.files.new_folder()
        except UserError as error:
            raise RefusedError(507, error.code) from error
        paths = []
        try:
            paths, _, _ = await upload_fn(Request(scope, receive), str(folder), limit, None)
        except (MultiPartException, HTTPException, TypeError, AttributeError):
            raise RefusedError(400, "error_upload") from None
        except ClientDisconnect:
            raise RefusedError(400, "error_request") from None
        except OSError:
            raise RefusedError(507, "error_no_room") from None
        finally:
            if len(paths) != 1:
                shutil.rmtree(folder, ignore_errors=True)
        if len(paths) != 1:
            raise RefusedError(400, "error_upload")
        path = Path(paths[0])
        self.files.add(path, visitor)
        return JSONResponse([str(path)])


def _network(scope) -> str:
    return network_of((scope.get("client") or ("",))[0])
