"""Strangers at the page's server: limits hold whatever comes at once, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_model import FakeModel
from page_client import API, Visitor, function, served
from strangers import LIMITS, SETTINGS, file_of, wait_until, wav, written

import app
from page.messages import with_place
from strings import say


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="module")
def ours(model: FakeModel) -> Iterator[tuple[app.Page, str]]:
    with served(model, LIMITS) as page:
        yield page


@pytest.fixture
def page(ours: tuple[app.Page, str], model: FakeModel) -> Iterator[app.Page]:
    yield ours[0]
    model.__init__()  # hooks and pace as they were


@pytest.fixture
def url(page: app.Page, ours: tuple[app.Page, str]) -> str:
    return ours[1]


def test_made_up_sessions_cost_nothing(url: str, page: app.Page):
    wait_until(lambda: len(page.sessions) == 0)
    before = threading.active_count()
    for name in ("_stop", "_reset", "_listen", "_restore"):
        for _ in range(10):
            Visitor(url).join(function(page, name), [])
    for _ in range(5):
        Visitor(url).run(function(page, "_answer"), written("  "))
        Visitor(url).run(function(page, "_answer"), ["speech", None, "", *SETTINGS])
    assert len(page.sessions) == 0
    assert threading.active_count() < before + 20  # of the server's pool


def test_the_number_of_conversations_is_capped_and_they_end(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(page.sessions, "sweep", lambda: None)  # so that none ends by itself
        for _ in range(LIMITS.max_sessions + 3):
            assert Visitor(url).run(function(page, "_answer"), written("你好"))["success"]
        assert len(page.sessions) == LIMITS.max_sessions
    wait_until(lambda: len(page.sessions) == 0)


def test_no_more_replies_at_once_than_allowed(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 20, 0.05
    index = function(page, "_answer")

    def ask(number: int) -> bool:
        visitor = Visitor(url)
        if number % 2:
            return visitor.call([None, "你好"])[0] == 200
        return visitor.join(index, written("你好"))[0] == 200 and bool(list(visitor.events()))

    with ThreadPoolExecutor(20) as pool:
        answered = list(pool.map(ask, range(20)))
    assert model.most_running <= LIMITS.max_replies
    assert 0 < sum(answered) < 20  # the others were told that the server is busy


def test_a_full_queue_is_told(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 40, 0.05
    visitors = [Visitor(url) for _ in range(LIMITS.max_replies + LIMITS.max_waiting)]
    index = function(page, "_answer")
    streams = []
    for visitor in visitors:
        assert visitor.join(index, written("你好"))[0] == 200
        streams.append(visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}"))
        time.sleep(0.05)
    status, answer = Visitor(url).join(index, written("你好"))
    assert (status, json.loads(answer)["detail"]) == (503, say("error_busy", "en"))
    late = Visitor(url)
    assert late.run(function(page, "_restore"), [])["success"]  # what costs nothing goes on
    for stream in streams:
        stream.close()
    wait_until(lambda: page.calls.num_waiting == 0 and model.num_running == 0)


def test_calls_at_the_same_moment_do_not_pass_the_limit(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    gate, index = threading.Event(), function(page, "_answer")
    monkeypatch.setattr(page.readers, "is_read", lambda session: gate.wait(60) and False)
    together = threading.Barrier(40)

    def ask(number: int) -> int:
        visitor = Visitor(url)
        together.wait(60)
        if number % 2:
            return visitor.join(index, written("你好"))[0]
        return visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[0]

    try:
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        assert set(answers) == {200, 503}
        assert answers.count(200) <= LIMITS.max_replies + LIMITS.max_waiting
    finally:
        gate.set()
    wait_until(lambda: page.calls.num_waiting == 0)


def test_microphones_at_the_same_moment_do_not_pass_the_limit(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    opened = []

    def open_microphone(_: int) -> int:
        visitor, piece = Visitor(url), [None]
        together.wait(60)
        status, answer = visitor.join(function(page, "_hear"), piece)
        if status == 200:
            opened.append((visitor, json.loads(answer)["event_id"]))
        return status

    together = threading.Barrier(40)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(open_microphone, range(40)))
    for visitor, event in opened:
        visitor.post(f"{API}/stream/{event}/close", {})
    assert set(answers) == {200, 503}
    assert answers.count(200) <= LIMITS.max_microphones


def test_a_caller_of_the_api_learns_its_place(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 20, 0.05
    places, streams = [], []
    for _ in range(LIMITS.max_replies + 2):
        visitor = Visitor(url)
        answer = json.loads(visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[1])
        places.append(answer["place"])
        streams.append(visitor.open("GET", f"{API}/call/speak/{answer['event_id']}"))
        time.sleep(0.2)
    assert places == [0, 0, 0, 1]
    for stream in streams:
        stream.close()
    wait_until(lambda: page.calls.num_waiting == 0 and model.num_running == 0)


def test_a_reply_that_nobody_reads_is_not_made(url: str, page: app.Page, model: FakeModel):
    for _ in range(3):
        visitor = Visitor(url)
        assert visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[0] == 200
        assert visitor.join(function(page, "_answer"), written("你好"))[0] == 200
    wait_until(lambda: page.calls.num_waiting == 0)
    time.sleep(0.5)
    assert model.num_replies == 0


def test_a_reply_stops_when_its_reader_leaves(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 400, 0.02
    visitor = Visitor(url)
    visitor.join(function(page, "_answer"), written("你好"))
    stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
    wait_until(lambda: model.num_running == 1)
    stream.close()
    wait_until(lambda: model.num_running == 0)


def test_no_number_of_waiting_calls_stops_the_server(url: str, page: app.Page, model: FakeModel):
    """An open microphone has the floor; others want it from everywhere at once."""
    visitor = Visitor(url)
    hear, listen = function(page, "_hear"), function(page, "_listen")
    visitor.run(listen, [])
    path = visitor.upload_path(wav())
    visitor.join(hear, [file_of(path)])
    wait_until(lambda: len(page.sessions) == 1)
    for name in ("_stop", "_reset"):
        with ThreadPoolExecutor(30) as pool:
            joined = list(
                pool.map(
                    lambda _: visitor.join(function(page, name), [])[0],  # noqa: B023
                    range(60),
                )
            )
        assert set(joined) <= {200, 503}
    other = Visitor(url)
    assert other.run(function(page, "_answer"), written("你好"))["success"]


def test_a_silent_microphone_gives_the_floor_back(url: str, page: app.Page):
    wait_until(lambda: len(page.sessions) == 0)
    visitor = Visitor(url)
    visitor.run(function(page, "_listen"), [])
    visitor.join(function(page, "_hear"), [file_of(visitor.upload_path(wav()))])
    wait_until(lambda: len(page.sessions) == 1)
    (session,) = page.sessions._sessions.values()
    wait_until(lambda: session.is_busy)
    wait_until(lambda: not session.is_busy)


def test_the_end_of_a_microphones_room_is_said_and_what_was_heard_is_answered(
    url: str, page: app.Page, model: FakeModel
):
    model.max_input_seconds = 8
    visitor = Visitor(url)
    visitor.run(function(page, "_listen"), [])
    hear = function(page, "_hear")
    piece = [file_of(visitor.upload_path(wav(2)))]
    event = json.loads(visitor.join(hear, piece)[1])["event_id"]
    with ThreadPoolExecutor(1) as pool:
        messages = pool.submit(lambda: json.dumps(list(visitor.events()), ensure_ascii=False))
        for _ in range(10):
            piece = [file_of(visitor.upload_path(wav(2)))]
            assert visitor.post(f"{API}/stream/{event}", {"data": piece})[0] == 200
            time.sleep(0.3)
        visitor.post(f"{API}/stream/{event}/close", {})
        said = messages.result(20)
    assert re.search(r"还剩 \d 秒", said) and "它会回答已经听到的内容" in said
    assert visitor.run(function(page, "_answer_heard"), SETTINGS)["success"]
    restored = visitor.run(function(page, "_restore"), [])["output"]["data"][0]
    (turn,) = json.loads(restored)["turns"]
    assert 6 < turn["user"]["seconds"] <= 8 and turn["reply"]["sound"]


def test_who_comes_too_late_for_an_answer_is_told(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page.readers, "is_read", lambda session: False)
    told = Visitor(url).call([None, "你好"])[1]
    assert "event: error" in told and "call again and read it at once" in told


@pytest.mark.parametrize(
    ("status", "kind", "pieces", "sent"),
    [
        (200, b"application/json", [b'{"event_id"', b': "a"}'], b'{"event_id": "a", "place": 3}'),
        (200, b"text/plain", [b"a", b"b"], b"ab"),
        (503, b"application/json", [b'["full"]'], b'["full"]'),
    ],
)
def test_only_an_answer_to_a_call_gets_a_place(
    status: int, kind: bytes, pieces: list[bytes], sent: bytes
):
    messages = []

    async def send(message: dict) -> None:
        messages.append(message)

    async def answer() -> None:
        to = with_place(send, 3)
        headers = [(b"content-type", kind), (b"content-length", b"0")]
        await to({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            await to({"type": "http.response.body", "body": piece, "more_body": more})

    asyncio.run(answer())
    assert messages[0]["status"] == status
    assert b"".join(message["body"] for message in messages[1:]) == sent
