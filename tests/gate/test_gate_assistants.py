"""Strangers at /mcp: what holds for the page's other doors holds there."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
from fake_model import FakeModel, held
from page_client import API, MCP, Visitor, asked_tool, function, served
from strangers import LIMITS, wait_until, wav, written
from test_gate_values import WRONG

import app
from strings import say


class CodecModel(FakeModel):
    def encode(self, samples, sample_rate: int) -> np.ndarray:
        return np.zeros((8, 5), np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.zeros(100, np.float32)


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return CodecModel()


@pytest.fixture(scope="module")
def ours(model: FakeModel) -> Iterator[tuple[app.Page, str]]:
    with served(model, replace(LIMITS, max_mcp_bytes=200_000), made={"mcp": True}) as page:
        yield page


def told(answer: tuple[int, dict]) -> str:
    """The message of a refused call, whichever part of the server refused it."""
    status, said = answer
    if status != 200 or "message" in said:
        return said["message"]
    assert said["isError"], said
    return said["content"][0]["text"]


def speak(url: str, **given: object) -> tuple[int, dict]:
    return Visitor(url).tool("speak", {"text": "你好", **given})


def test_replies_share_the_places_of_the_pages(url: str, page: app.Page, model: FakeModel):
    model.frame_seconds = 0.05
    index = function(page, "answer")

    def ask(number: int) -> object:
        if number % 2:
            return Visitor(url).run(index, written("你好"))["success"]
        return not speak(url)[1]["isError"]

    with ThreadPoolExecutor(LIMITS.max_waiting) as pool:  # at once, before any has begun
        assert list(pool.map(ask, range(8))) == [True] * 8
    assert model.num_replies == 8 and model.most_running <= LIMITS.max_replies


def test_who_came_before_is_answered_before(url: str, page: app.Page, model: FakeModel):
    """Whichever door they came by, and however many wait."""
    order: list[str] = []

    def ask(number: int) -> None:
        if number % 2:
            assert "event: complete" in Visitor(url).call([None, f"{number}"])[1]
        else:
            assert not speak(url, text=f"{number}")[1]["isError"]
        order.append(f"{number}")

    with ThreadPoolExecutor(6) as pool, held(model):
        asked = []
        for number in range(6):
            asked.append(pool.submit(ask, number))
            wait_until(lambda number=number: page.calls.num_replies == number + 1)
        health = json.loads(Visitor(url).get("/healthz")[1])
        assert health["queue_length"] == 4
        model.frame_seconds = 0.05
    for answer in asked:
        answer.result()
    assert sorted(order[:4]) == ["0", "1", "2", "3"]
    assert page.calls.num_replies == 0


def test_no_more_wait_than_allowed(url: str, page: app.Page, model: FakeModel):
    most = LIMITS.max_replies + LIMITS.max_waiting
    with ThreadPoolExecutor(most) as pool, held(model):
        answers = []
        for number in range(1, most + 1):
            ask = (speak, url) if number % 2 else (Visitor(url).call, [None, "你好"])
            answers.append(pool.submit(*ask))
            wait_until(lambda number=number: page.calls.num_replies == number)
        assert told(speak(url)) == say("error_busy", "en")
        assert Visitor(url).call([None, "你好"])[0] == 503
    assert {answer.result()[0] for answer in answers} == {200}
    assert not any(answer.result()[1]["isError"] for answer in answers[::2])


def slow(url: str) -> socket.socket:
    """A connection on which a request's body does not come."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = f"POST {MCP} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 100\r\n"
    client.sendall(f"{head}\r\n{{".encode())
    return client


def test_a_body_that_never_ends_is_dropped(url: str):
    with slow(url) as client:
        assert b" 408 " in client.recv(1000)


def test_one_address_has_a_share():
    limits = replace(LIMITS, receive_seconds=60)
    most = limits.max_replies + limits.max_waiting
    with served(FakeModel(), limits, made={"mcp": True}) as (_, url):
        clients = [slow(url) for _ in range(most)]
        wait_until(lambda: speak(url)[0] == 429)
        assert told(speak(url)) == say("error_connections", "en", limit=most)
        assert "event: complete" in Visitor(url).call([None, "你好"])[1]
        for client in clients:
            client.close()
        wait_until(lambda: speak(url)[0] == 200)


def test_who_leaves_ends_the_reply(url: str, page: app.Page, model: FakeModel):
    """And takes no place any more, nor one for which they waited."""
    model.num_frames, model.frame_seconds = 100, 0.1
    clients = [asked_tool(url) for _ in range(LIMITS.max_replies + 2)]
    wait_until(lambda: page.calls.num_replies == len(clients))
    wait_until(lambda: model.num_running == LIMITS.max_replies)
    for client in reversed(clients):
        client.close()
    wait_until(lambda: page.calls.num_replies == model.num_running == 0)
    assert model.num_replies == LIMITS.max_replies
    assert page.demo._queue.event_queue_per_concurrency_id["model"].current_concurrency == 0


def test_no_call_is_taken_at_the_end(url: str, page: app.Page):
    page.calls.is_ending = True
    try:
        assert told(speak(url)) == say("error_ending", "en")
    finally:
        page.calls.is_ending = False


def test_who_asks_too_often_waits():
    limits = replace(LIMITS, user_requests=3)
    with served(FakeModel(), limits, made={"mcp": True}) as (_, url):
        visitor = Visitor(url)
        assert [visitor.tool("speak", {"text": "好"})[0] for _ in range(4)] == [200] * 3 + [429]


def test_a_conversation_ends(url: str, page: app.Page):
    handle = speak(url)[1]["structuredContent"]["conversation"]
    assert speak(url, conversation=handle)[1]["structuredContent"]["conversation"] == handle
    page.sessions._sessions[f"mcp{handle}.mcp"].hearing.last_used -= LIMITS.linger_seconds
    wait_until(lambda: page.sessions.get(f"mcp{handle}.mcp") is None)
    assert f"there is no conversation {handle}" in told(speak(url, conversation=handle))


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        "", "[", "[]", "5", '"a"', "null", "[" * 100_000, '{"a":' * 5_000, "{}", '{"id": 1}',
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}',
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 5}}',
        '{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}',
        '[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]', "\xff",
    ],
)  # fmt: skip
def test_damaged_requests_are_told(url: str, body: str, modern: bool, capfd):
    headers = {"Content_Type": "application/json", "Accept": "application/json"}
    if modern:
        headers["MCP_Protocol_Version"] = "2026-07-28"
    response = Visitor(url).open("POST", MCP, body.encode("latin-1"), **headers)
    answer = response.read()
    is_taken = response.status == 202 and not answer  # for what asks for no answer
    assert is_taken or response.status < 500 and json.loads(answer)["error"]["message"]
    assert b"/work" not in answer and "Traceback" not in "".join(capfd.readouterr())


def test_bodies_are_bounded(url: str):
    given = {"audio": "A" * 200_000}
    status, said = Visitor(url).tool("speak", given)
    assert status == 413 and said["message"] == say("error_request_large", "en", limit=200_000)
    begun = time.monotonic()
    status, said = Visitor(url).tool("decode", {"codes": [[0]] * 20_000})
    assert status == 400 and "values" in said["message"]
    assert time.monotonic() - begun < LIMITS.receive_seconds


@pytest.mark.parametrize("name", ["audio", "image", "video"])
def test_no_file_of_the_server_is_read(url: str, name: str):
    path = Visitor(url).upload_path(wav())
    for given in (path, {"path": path}, f"file://{path}", f"{url}gradio_api/file={path}"):
        message = told(speak(url, **{name: given}))
        assert re.match(f"{name} came as .*, which is no file|speak takes no {name}", message)


def test_any_value_of_any_argument_is_answered(url: str, page: app.Page):
    internal = say("error_internal", "en")
    tools = page._assistants.__self__.tools
    count = 0
    for tool, schema in tools.items():
        for name in schema.input_schema["properties"]:
            for value in WRONG:
                given = {"text": "好"} if tool == "speak" else {}
                status, said = Visitor(url).tool(tool, {**given, name: value})
                assert status == 200 or said["code"] == -32700, (tool, name, value)  # no UTF-8
                assert internal not in json.dumps(said), (tool, name, value)
                count += 1
    assert count == len(WRONG) * 8


def test_a_fault_of_the_model_is_told_plainly(url: str, model: FakeModel, capfd):
    def fail(frame: int) -> None:
        raise MemoryError("机密 /home/someone")

    model.on_frame = fail
    assert told(speak(url, text="机密")) == say("error_internal", "en")
    assert "机密" not in "".join(capfd.readouterr())
    model.on_frame = lambda frame: None
    sound = base64.b64encode(wav()).decode()
    assert not speak(url, audio=sound)[1]["isError"]


def test_nothing_of_gradios_is_behind_it(url: str):
    for path in (f"{API}/mcp/", f"{API}/mcp/sse", f"{MCP}/", f"{MCP}/sse", f"{MCP}/messages"):
        assert Visitor(url).get(path)[0] == 404
        assert Visitor(url).post(path, {})[0] == 404
