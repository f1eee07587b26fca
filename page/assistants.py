"""The page's API as tools for assistants, by the Model Context Protocol over HTTP.

Every request is answered by itself, in JSON: there are no sessions and no streams of the protocol's
own. A conversation is told by its handle, which can't be guessed and which only who began it gets;
who calls, and from where, plays no part. So each is a visitor of its own to the page.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import gradio as gr
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INVALID_PARAMS, AudioContent, CallToolResult, ListToolsResult, TextContent

from models.errors import UserError, shown
from strings import say

from .api import FILES, Api
from .calls import Calls, RefusedError, own, visitor_of
from .messages import once
from .told import fault_of, told
from .tools import tools_of

NAME = "mcp"  # of the conversation that each of these visitors has
WAV = "audio/wav"
MAX_VALUES = 32_768  # in a request; more would take seconds to read, in which nobody is served


class Assistants:
    """The tools, and who answers the protocol's requests.

    Args:
        api: whose functions the tools call.
        calls: in which they have their turns.
    """

    def __init__(self, api: Api, calls: Calls) -> None:
        self.api, self.calls = api, calls
        self.sessions, self.files = api.sessions, api.sessions.files
        self.tools = tools_of(self.sessions.model, self.sessions.limits)
        self._server: Server = Server(
            "westlake-omni", on_list_tools=self._list, on_call_tool=self._call
        )

    async def answer(self, scope, body: bytes, receive, send) -> None:
        """Answer an ASGI request whose body has come; who leaves before ends what it asked for.

        Raises:
            RefusedError: there is too much in the body.
        """
        if (count := sum(map(body.count, (b",", b"[", b"{")))) > MAX_VALUES:
            raise RefusedError(400, "error_request_values", count=count, limit=MAX_VALUES)
        manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=self.sessions.limits.max_mcp_bytes,
        )
        async with anyio.create_task_group() as tasks, manager.run():
            tasks.start_soon(_leave, receive, tasks.cancel_scope)
            await manager.handle_request(scope, once(body, anyio.sleep_forever), send)
            tasks.cancel_scope.cancel()

    async def _list(self, context, params) -> ListToolsResult:
        return ListToolsResult(tools=list(self.tools.values()))

    async def _call(self, context, params) -> CallToolResult:
        if params.name not in self.tools:
            allowed = ", ".join(self.tools)
            raise MCPError(
                INVALID_PARAMS, say("error_no_tool", "en", name=shown(params.name), allowed=allowed)
            )
        left, since = Event(), time.monotonic()
        try:
            given = self._given(params.name, params.arguments or {})
            async with self.calls.turn(params.name):
                run = partial(getattr(self, f"_{params.name}"), given, left, since)
                return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
        except RefusedError as refused:
            message = say(refused.code, "en", **refused.values)
        except gr.Error as error:
            message = error.message
        except Exception as error:
            message = str(fault_of(error))
        finally:
            left.set()
        return CallToolResult(content=[TextContent(text=message)], is_error=True)

    def _given(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a tool is called with, and its endpoint's defaults for what was left out.

        Raises:
            UserError: an argument that there is not, or none where there must be one.
        """
        schema = self.tools[tool].input_schema
        allowed = schema["properties"]
        for name in arguments:
            if name not in allowed:
                raise UserError(
                    "error_no_argument", name=shown(name), tool=tool, allowed=", ".join(allowed)
                )
        for name in schema["required"]:
            if arguments.get(name) in (None, ""):
                raise UserError("error_argument_missing", name=name, tool=tool)
        parameters = inspect.signature(getattr(self.api, tool)).parameters
        defaults = {
            name: None if each.default is each.empty else each.default
            for name, each in parameters.items()
            if name != "request"
        }
        return {**defaults, **arguments}

    def _speak(self, given: dict[str, Any], left: Event, since: float) -> CallToolResult | None:
        handle = self._handle(given["conversation"])
        with self._visit(f"{NAME}{handle}", given) as request:
            given = {**given, "conversation": NAME}
            turn = sound = None
            with closing(told(self.api.turns(request, given, since))) as turns:
                for turn in turns:
                    if left.is_set():
                        return None
                    if turn.ended:
                        sound = self.api.write(turn, visitor_of(request.session_hash))
            if turn is None:  # a later turn of the same conversation came before
                raise UserError("error_busy")
        facts = {
            "text": turn.reply,
            "emotion": turn.emotion,
            "style": turn.style,
            "heard": turn.heard,
            "seconds": round(turn.seconds, 3),
            "whole": not (turn.stopped or turn.cut_off),
            "seed": turn.seed,
            "conversation": handle,
        }
        return _result(facts, self._taken(sound) if sound else None)

    def _encode(self, given: dict[str, Any], left: Event, since: float) -> CallToolResult:
        with self._visit(f"{NAME}{secrets.token_hex(16)}", given) as request:
            return _result({"codes": self.api.encode(request, given["audio"])})

    def _decode(self, given: dict[str, Any], left: Event, since: float) -> CallToolResult:
        with self._visit(f"{NAME}{secrets.token_hex(16)}", given) as request:
            return _result(None, self._taken(self.api.decode(request, given["codes"])))

    def _handle(self, given: object) -> str:
        """That of a conversation that goes on, or a new one.

        Raises:
            UserError: there is no such conversation.
        """
        if not given:
            return secrets.token_hex(16)
        if not isinstance(given, str) or self.sessions.get(f"{NAME}{given}.{NAME}") is None:
            raise UserError("error_no_handle", name=shown(given))
        return given

    @contextmanager
    def _visit(self, visitor: str, given: dict[str, Any]) -> Iterator[gr.Request]:
        """A request of a visitor who reads its answer; the files in `given` become its own."""
        session, paths = own(visitor, NAME), []
        try:
            for name in FILES:
                if given.get(name):
                    content = _content(name, given[name])
                    paths.append(self.files.make(name, partial(_write, content), visitor))
                    given[name] = {"path": paths[-1]}
                elif name in given:
                    given[name] = None
            with self.api.readers.reading(session):
                yield gr.Request(session_hash=session)
        finally:
            for path in paths:
                self.files.remove(path)

    def _taken(self, file: Any) -> bytes:
        """The bytes of a file that an endpoint answered with, which goes."""
        path = file["path"]
        try:
            return Path(path).read_bytes()
        finally:
            self.files.remove(path)


async def _leave(receive, scope: anyio.CancelScope) -> None:
    """End what is done for a request when its sender has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _content(name: str, given: object) -> bytes:
    """A file that came as text.

    Raises:
        UserError: it is no base64.
    """
    try:
        if not isinstance(given, str):
            raise ValueError
        head, comma, data = given.rpartition(",")
        if comma and not re.fullmatch(r"data:[^,]*;base64", head.strip()):
            raise ValueError
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError:
        raise UserError("error_not_base64", name=name, value=shown(given)) from None


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _result(facts: dict[str, Any] | None, wav: bytes | None = None) -> CallToolResult:
    """Facts, also as text for those who read nothing else, and a sound."""
    content: list[Any] = []
    if facts is not None:
        content.append(TextContent(text=json.dumps(facts, ensure_ascii=False)))
    if wav is not None:
        content.append(AudioContent(data=base64.b64encode(wav).decode(), mime_type=WAV))
    return CallToolResult(content=content, structured_content=facts)
