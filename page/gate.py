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
from collections.abc import Callable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from gradio.route_utils import MultiPartException, upload_fn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from strings import say

from .calls import Calls, RefusedError, own
from .files import Files
from .limits import Limits

DRAINED = 4  # times the largest upload: what is read and dropped of one that is refused
VISITOR = "x-visitor"
COOKIE = "visitor"
API = "/gradio_api"
# Everything else of Gradio's is closed: direct calls past the queue, monitoring, proxies and so on.
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\w+)?"
    r"|/(static|assets|svelte)/.+"
    r"|/gradio_api/(info/?|startup-events|theme\.css|app_id/?|login_check/?|user/?|token/?|upload_progress"
    r"|queue/(data|status)|heartbeat/[\w-]+|call/(v2/)?\w+/\w+|file=.+)"
)
WRITE = re.compile(
    r"/gradio_api/(queue/join|call/(v2/)?\w+/?|upload|cancel|reset/?|stream/\w+(/close)?)"
)
HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([\w-]+)")
ANSWER = re.compile(r"/gradio_api/call/(?:v2/)?\w+/(\w+)")
NAMED = "call/v2/"  # calls whose body has the arguments by name
PROGRESS = 'data: {"msg": "done"}\n\n'  # of an upload, which nobody keeps an account of


class Gate:
    """ASGI middleware; see the module.

    Args:
        app: Gradio's.
        calls: checks what is called, and knows who reads the answers.
        is_host: whether the page may be asked for under a name.
    """

    def __init__(
        self, app, *, limits: Limits, files: Files, calls: Calls, is_host: Callable[[str], bool]
    ) -> None:
        self.app = app
        self.limits, self.files, self.calls, self.is_host = limits, files, calls, is_host
        self._secret = secrets.token_bytes(32)
        self._num_open = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        self._num_open += 1
        try:
            if self._num_open > self.limits.max_connections:
                raise RefusedError(503, "error_busy")
            await self._pass(scope, receive, send)
        except RefusedError as refused:
            if refused.status == 413:
                await self._drain(receive)
            await refusal(refused, scope)(scope, receive, send)
        finally:
            self._num_open -= 1

    async def _pass(self, scope, receive, send) -> None:
        headers, path = Headers(scope=scope), path_of(scope)
        if not self._is_ours(headers.get("host", "")):
            raise RefusedError(421, "error_host")
        if scope["method"] == "POST" and self._is_cross_site(headers):
            raise RefusedError(403, "error_cross_site")
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
            send = _with_cookie(send, key)
        client = scope.get("client") or ("",)
        told = f"key {key}" if key else f"address {client[0]}"
        digest = hashlib.blake2b(told.encode(), key=self._secret, digest_size=12)
        return digest.hexdigest(), send

    async def _read(self, scope, receive, send, path: str, visitor: str) -> None:
        session = None
        if path == f"{API}/upload_progress":
            await Response(PROGRESS, media_type="text/event-stream")(scope, receive, send)
            return
        if path.startswith(f"{API}/file="):
            if not self.files.is_served(path.removeprefix(f"{API}/file=")):
                raise RefusedError(404, "error_foreign_file")
        elif path == f"{API}/queue/data":
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            session = own(visitor, query.get("session_hash"))
            scope = {**scope, "query_string": urlencode({"session_hash": session}).encode()}
        elif found := HEARTBEAT.fullmatch(path):
            session = own(visitor, found[1])
            scope = {**scope, "path": scope["path"].removesuffix(found[1]) + session}
            with self.calls.connected(visitor):
                await self.app(scope, receive, send)
            return
        elif found := ANSWER.fullmatch(path):
            session = self.calls.session_of(found[1])
        if session is None:
            await self.app(scope, receive, send)
            return
        with self.calls.readers.reading(session):
            await self.app(scope, receive, send)

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
                send = _with_place(send, place)
            await self.app(_with_json(scope, raw), _once(raw, receive), send)

    async def _body(self, scope, receive) -> dict:
        raw = b"".join([piece async for piece in self._pieces(scope, receive)])
        try:
            body = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError):
            raise RefusedError(400, "error_request") from None
        if not isinstance(body, dict):
            raise RefusedError(400, "error_request")
        return body

    async def _pieces(self, scope, receive):
        """The pieces of a small body, which must come in time."""
        receive = _bounded(
            scope, receive, self.limits.max_request_bytes, self.limits.receive_seconds
        )
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
        receive = _bounded(scope, receive, limit + 4096, self.limits.receive_seconds)
        folder = self.files.new_folder()
        paths = []
        try:
            paths, _, _ = await upload_fn(Request(scope, receive), str(folder), limit, None)
        except (MultiPartException, HTTPException, TypeError, AttributeError):
            raise RefusedError(400, "error_upload") from None
        except ClientDisconnect:
            raise RefusedError(400, "error_request") from None
        finally:
            if len(paths) != 1:
                shutil.rmtree(folder, ignore_errors=True)
        if len(paths) != 1:
            raise RefusedError(400, "error_upload")
        path = Path(paths[0])
        self.files.add(path, visitor)
        return JSONResponse([str(path)])


def path_of(scope) -> str:
    """The path below the root at which a proxy serves the page."""
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if root.startswith("/") and path.startswith(f"{root}/"):
        return path[len(root) :]
    return path


def _with_json(scope, raw: bytes) -> dict:
    """A request's scope with another body."""
    dropped = (b"content-length", b"content-type", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(raw)).encode()),
    ]
    return {**scope, "headers": headers}


def cookie_of(header: str) -> str | None:
    try:
        cookie = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie else None


def _with_cookie(send, value: str):
    async def send_with_cookie(message) -> None:
        if message["type"] == "http.response.start":
            cookie = f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax".encode()
            message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie)]}
        await send(message)

    return send_with_cookie


def _with_place(send, place: int):
    """`send`, which adds to the answer how many replies wait before this one."""
    start, pieces = [], []

    async def send_with_place(message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            start.append(message)
        elif not start:
            await send(message)
        else:
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = json.dumps({**json.loads(b"".join(pieces)), "place": place}).encode()
                await send(_with_length(start[0], len(body)))
                await send({**message, "body": body})

    return send_with_place


def _is_json(start) -> bool:
    """Whether an answer that starts like this is what Gradio says of a call in its queue."""
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] == 200 and kind.startswith("application/json")


def _with_length(start, length: int) -> dict:
    """An answer's start for a body of another length."""
    headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
    return {**start, "headers": [*headers, (b"content-length", str(length).encode())]}


def _bounded(scope, receive, limit: int, seconds: float):
    """`receive`, up to so many bytes and seconds."""
    promised = Headers(scope=scope).get("content-length", "0")
    if not promised.isdigit() or int(promised) > limit:
        raise RefusedError(413, "error_request_large", limit=limit)
    end = asyncio.get_running_loop().time() + seconds
    num_bytes = 0

    async def receive_bounded():
        nonlocal num_bytes
        left = end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, left))
        except TimeoutError:
            raise RefusedError(408, "error_request_slow", seconds=seconds) from None
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise RefusedError(413, "error_request_large", limit=limit)
        return message

    return receive_bounded


def _once(body: bytes, receive):
    """A `receive` that gives a body, then what comes from the client."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_once():
        return messages.pop() if messages else await receive()

    return receive_once


def refusal(refused: RefusedError, scope) -> Response:
    wanted = Headers(scope=scope).get("accept-language", "").lower()
    language = "zh" if wanted.startswith("zh") else "en"
    message = say(refused.code, language, **refused.values)
    if path_of(scope) == f"{API}/upload":  # whose client shows the body as it is
        return PlainTextResponse(message, refused.status, {"connection": "close"})
    return JSONResponse({"detail": message}, refused.status, {"connection": "close"})
