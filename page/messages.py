"""Requests and answers on their way through the gate: their paths, bodies, cookies and lengths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response

from strings import say

from .calls import RefusedError

COOKIE = "visitor"
API = "/gradio_api"
MCP = "/mcp"  # where assistants call, if they may
STREAM = "x-stream"  # the number of a stream of events, as the page that reads it counts them
CLOSED = b'data: {"msg":"close_stream"'  # the last of its events
INVALID_REQUEST = -32600  # of JSON-RPC


def path_of(scope) -> str:
    """The path below the root at which a proxy serves the page."""
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if root.startswith("/") and path.startswith(f"{root}/"):
        return path[len(root) :]
    return path


def with_json(scope, raw: bytes) -> dict:
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


def with_cookie(send, value: str):
    """`send`, which gives a browser its cookie."""
    return _with_header(
        send, "set-cookie", lambda: f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax"
    )


def with_closed(send, closed: Callable[[], str]):
    """`send`, which adds to the answer which of a session's streams of events was closed last."""
    return _with_header(send, STREAM, closed)


def _with_header(send, name: str, value: Callable[[], str]):
    async def send_with_header(message) -> None:
        if message["type"] == "http.response.start":
            header = (name.encode(), value().encode())
            message = {**message, "headers": [*message["headers"], header]}
        await send(message)

    return send_with_header


def watched(send, close: Callable[[], None]):
    """`send`, which tells when a stream of events is being closed: no later call's come in it."""

    async def send_watched(message) -> None:
        if message.get("body", b"").startswith(CLOSED):
            close()
        await send(message)

    return send_watched


def with_place(send, place: int):
    """`send`, which adds to the answer how many replies wait before this one."""
    return _changed(
        send,
        "application/json",  # what Gradio says of a call in its queue
        lambda body: json.dumps({**json.loads(body), "place": place}).encode(),
    )


def with_script(send, script: str):
    """`send`, which lets a script run before all others of a page."""
    added = f"<head><script>{script}</script>".encode()
    return _changed(send, "text/html", lambda body: body.replace(b"<head>", added, 1))


def _changed(send, kind: str, change: Callable[[bytes], bytes]):
    """`send`, which changes the whole body of an answer that is of a kind, and no refusal."""
    start, pieces = [], []

    async def send_changed(message) -> None:
        if message["type"] == "http.response.start" and _is(message, kind):
            start.append(message)
        elif not start:
            await send(message)
        else:
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = change(b"".join(pieces))
                await send(_with_length(start[0], len(body)))
                await send({**message, "body": body})

    return send_changed


def _is(start, kind: str) -> bool:
    """Whether an answer that starts like this is of a kind, and no refusal."""
    found = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] == 200 and found.startswith(kind)


def _with_length(start, length: int) -> dict:
    """An answer's start for a body of another length."""
    headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
    return {**start, "headers": [*headers, (b"content-length", str(length).encode())]}


def bounded(scope, receive, limit: int, seconds: float):
    """`receive`, up to so many bytes and seconds."""
    promised = Headers(scope=scope).get("content-length", "0")
    if not (promised.isascii() and promised.isdigit()) or int(promised) > limit:
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


def once(body: bytes, receive):
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
    content: dict[str, Any] = {"detail": message}
    if path_of(scope) == MCP:  # whose clients show what is told in their own way only
        error = {"code": INVALID_REQUEST, "message": message}
        content = {"jsonrpc": "2.0", "id": None, "error": error}
    return JSONResponse(content, refused.status, {"connection": "close"})
