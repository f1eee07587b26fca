"""A stranger on the network: raw requests to the page's server, for tests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
from gradio import http_server

import app
from models.contract import SpeechModel
from page.limits import Limits

API, MCP = "/gradio_api", "/mcp"
TOLD_SECONDS = 2.0  # in which browsers are told how a call ended
# Where Gradio begins to look for a free port: each process of tests at a place of its own.
http_server.INITIAL_PORT_VALUE += 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@contextmanager
def served(
    model: SpeechModel,
    limits: Limits | None = None,
    data_folder: Path | None = None,
    compare_with: Sequence[str] = (),
    made: Mapping[str, Any] | None = None,
    **options,
) -> Iterator[tuple]:
    """A page and its address; another one that this process serves can go on afterwards.

    Args:
        made, options: further arguments of the page, and of its launch.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        page = app.Page(
            model, limits, data_folder=data_folder, compare_with=compare_with, **(made or {})
        )
        yield page, page.launch(quiet=True, **options)
        # A browser would take it for a fault that it is not told how its last call ended; who has
        # left reads nothing any more.
        pending, is_read = page.demo._queue.pending_event_ids_session, page.calls.readers.is_open
        end = time.monotonic() + TOLD_SECONDS
        while time.monotonic() < end:
            if not any(ids and is_read(session) for session, ids in list(pending.items())):
                break
            time.sleep(0.01)
        page.close()


def function(page: app.Page, name: str) -> int:
    """The number of a private event, by the name of its handler."""
    return next(
        index for index, fn in page.demo.fns.items() if getattr(fn.fn, "__name__", "") == name
    )


@dataclass
class Visitor:
    """One visitor of a page at a URL: with the header of a tab, unless `name` is empty."""

    url: str
    name: str = field(default_factory=lambda: uuid4().hex)
    session: str = field(default_factory=lambda: uuid4().hex)
    timeout: float = 60

    def open(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout)
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if self.name:
            sent = {"X-Visitor": self.name, **sent}
        connection.request(method, path, body, sent)
        return connection.getresponse()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        response = self.open("GET", path, **headers)
        return response.status, response.read().decode(errors="replace")

    def post(self, path: str, body: object, **headers: str) -> tuple[int, str]:
        headers = {"Content_Type": "application/json", **headers}
        response = self.open("POST", path, json.dumps(body), **headers)
        return response.status, response.read().decode(errors="replace")

    def upload(self, content: bytes, name: str = "speech.wav", **headers: str) -> tuple[int, str]:
        boundary = "0123456789abcdef"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: audio/wav\r\n\r\n"
        ).encode() + content
        kind = f"multipart/form-data; boundary={boundary}"
        response = self.open(
            "POST",
            f"{API}/upload",
            body + f"\r\n--{boundary}--\r\n".encode(),
            **{"Content_Type": kind, **headers},
        )
        return response.status, response.read().decode(errors="replace")

    def upload_path(self, content: bytes) -> str:
        status, answer = self.upload(content)
        assert status == 200, answer
        return json.loads(answer)[0]

    def join(self, index: int, data: list) -> tuple[int, str]:
        body = {"data": data, "fn_index": index, "session_hash": self.session}
        return self.post(f"{API}/queue/join", body)

    def events(self) -> Iterator[dict]:
        """The messages of this session's stream, until it ends."""
        query = urlencode({"session_hash": self.session})
        response = self.open("GET", f"{API}/queue/data?{query}")
        assert response.status == 200
        for line in response:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def run(self, index: int, data: list) -> dict:
        """Call a private event and wait for its end; returns its last message."""
        status, answer = self.join(index, data)
        assert status == 200, answer
        event_id = json.loads(answer)["event_id"]
        for message in self.events():
            if message["msg"] == "process_completed" and message["event_id"] == event_id:
                return message
        raise AssertionError("the stream ended before the event")

    def call(self, data: object, name: str = "speak") -> tuple[int, str]:
        """Call the API, and read all of its answer."""
        status, answer = self.post(f"{API}/call/{name}", {"data": data})
        if status != 200:
            return status, answer
        return self.get(f"{API}/call/{name}/{json.loads(answer)['event_id']}")

    def tool(self, name: str, arguments: object, **headers: str) -> tuple[int, dict]:
        """Call one of the tools for assistants; the status, and the answer or its error."""
        body = {
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }  # fmt: skip
        status, answer = self.post(MCP, body, Accept="application/json", **headers)
        answer = json.loads(answer)
        return status, answer.get("result") or answer["error"]


def asked_tool(url: str) -> socket.socket:
    """A connection on which an assistant asks for a reply, to be left."""
    parts = urlsplit(url)
    call = {"name": "speak", "arguments": {"text": "你好"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    head = (
        f"POST {MCP} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client = socket.create_connection((parts.hostname, parts.port), timeout=10)
    client.sendall((head + body).encode())
    return client
