"""Strangers at the page's server: limits hold whatever comes at once, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_model import FakeModel, OtherModel, held
from page_client import API, Visitor, function, served
from strangers import LIMITS, SETTINGS, full, shown_faults, wait_until, written

import app
from models.errors import UserError
from page.ears import Heard
from page.limits import Limits
from page.messages import with_place
from page.words import asset
from strings import say


def test_made_up_sessions_cost_nothing(url: str, page: app.Page):
    wait_until(lambda: len(page.sessions) == 0)
    before = threading.active_count()
    for name in ("stop", "reset", "open_microphone", "cut", "rate"):
        for _ in range(10):
            Visitor(url).join(function(page, name), [{}])
            Visitor(url).join(function(page, "restore"), [])
    for _ in range(5):
        Visitor(url).run(function(page, "answer"), written("  "))
        Visitor(url).run(function(page, "answer"), [{"text": "", "audio": None}, *SETTINGS])
    assert len(page.sessions) == 0
    assert threading.active_count() < before + 20  # of the server's pool


def test_the_number_of_conversations_is_capped_and_they_end(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(page.sessions, "sweep", lambda: None)  # so that none ends by itself
        for _ in range(LIMITS.max_sessions + 3):
            assert Visitor(url).run(function(page, "answer"), written("你好"))["success"]
        assert len(page.sessions) == LIMITS.max_sessions
    wait_until(lambda: len(page.sessions) == 0)


def test_no_more_replies_at_once_than_allowed(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 20, 0.05
    index = function(page, "answer")

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
    index = function(page, "answer")
    streams = []
    for visitor in visitors:
        assert visitor.join(index, written("你好"))[0] == 200
        streams.append(visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}"))
        time.sleep(0.05)
    status, answer = Visitor(url).join(index, written("你好"))
    assert (status, json.loads(answer)["detail"]) == (503, say("error_busy", "en"))
    late = Visitor(url)
    assert late.run(function(page, "restore"), [])["success"]  # what costs nothing goes on
    for stream in streams:
        stream.close()
    wait_until(lambda: page.calls.num_waiting == 0 and model.num_running == 0)


def test_replies_that_wait_and_are_stopped_leave_the_queue(
    url: str, page: app.Page, model: FakeModel
):
    answer, stop = function(page, "answer"), function(page, "stop")
    visitor = Visitor(url)
    with full(url, page, model):
        for asked in range(1, 4 * LIMITS.max_waiting, 2):
            wish, *settings = written("你好")
            status, _ = visitor.join(answer, [{**wish, "asked": asked}, *settings])
            assert status == 200
            wait_until(lambda: page.calls.num_waiting == 1)  # it is on no way into it any more
            assert visitor.join(stop, [{"asked": asked + 1}])[0] == 200
            wait_until(lambda: page.calls.num_waiting == 0)
            told = [each for each in visitor.events() if each["msg"] == "process_completed"]
            assert len(told) == 2 and all(each["success"] for each in told)
            assert "Stopped" in json.dumps(told)


def test_a_reply_that_waits_and_is_ended_elsewhere_tells_its_page(
    url: str, page: app.Page, model: FakeModel
):
    begun, given = Visitor(url), written("你好")
    waiting, elsewhere = (Visitor(url, begun.name) for _ in range(2))
    with held(model):
        assert begun.join(function(page, "answer"), given)[0] == 200
        stream = begun.open("GET", f"{API}/queue/data?session_hash={begun.session}")
        wait_until(lambda: model.num_running == 1)
        with ThreadPoolExecutor() as pool:
            told = pool.submit(waiting.run, function(page, "answer"), given)
            wait_until(lambda: page.calls.num_replies == 2 and not page.calls.num_waiting)
            time.sleep(0.2)  # until it waits for the one before
            assert elsewhere.join(function(page, "stop"), [{}])[0] == 200
            assert '"kind": ""' in str(told.result(timeout=10)["output"])
    stream.close()
    wait_until(lambda: model.num_running == 0)


def test_a_listening_test_that_is_stopped_at_the_last_moment_is_not_kept(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    visitor, add, keys = Visitor(url), page.store.add, []

    def add_late(*given, **options):
        code, key = add(*given, **options)
        keys.append(key)
        Visitor(url, visitor.name).run(function(page, "_tests_stop"), ["{}"])
        return code, key

    monkeypatch.setattr(page.store, "add", add_late)
    wish = {
        "kind": "ab", "title": "t", "texts": ["你好"],
        "conditions": [{"name": name, "model": "fake:float32"} for name in "AB"],
    }  # fmt: skip
    (told,) = visitor.run(function(page, "_tests_build"), [json.dumps(wish)])["output"]["data"]
    assert json.loads(told)["stopped"] and "built" not in told
    with pytest.raises(UserError):
        page.store.owned(keys[0])


def test_models_are_loaded_one_by_one_and_keep_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
):
    begun, gate, limits = threading.Event(), threading.Event(), Limits()

    def load(*_) -> OtherModel:
        begun.set()
        assert gate.wait(100)
        return OtherModel()

    monkeypatch.setattr("page.shelf.load_model", load)
    with served(FakeModel(), limits, compare_with=["other:float32"]) as (page, url):

        def ask(name: str) -> int:
            given = {"model": "other:float32"}
            value = given if name == "offer" else json.dumps(given)
            return Visitor(url).join(function(page, name), [value])[0]

        try:
            assert ask("_tests_settings") == 200 and begun.wait(60)
            names = ["offer", "_tests_settings"] * (limits.max_waiting // 2)
            assert [ask(name) for name in names] == [200] * limits.max_waiting
            assert [ask("offer"), ask("_tests_settings")] == [503, 503]
            rater = json.dumps({"code": "0", "name": "ann", "key": ""})
            assert Visitor(url).run(function(page, "_tests_take"), [rater])["success"]
        finally:
            gate.set()


def test_a_comparison_loads_no_model_in_a_place_of_a_reply(monkeypatch: pytest.MonkeyPatch):
    loaded = []
    monkeypatch.setattr("page.shelf.load_model", lambda *_: loaded.append(1) or OtherModel())
    with served(FakeModel(), compare_with=["other:float32"]) as (page, url):
        visitor, given = Visitor(url), {"model": "other:float32"}
        visitor.run(function(page, "answer"), written("你好"))
        (session,) = page.sessions._sessions.values()
        compare = [{**given, "turn": session.turns[0].name}, *SETTINGS]
        told = json.dumps(visitor.run(function(page, "compare"), compare))
        assert "other:float32 is not loaded any more" in told and not loaded
        visitor.run(function(page, "offer"), [given])
        visitor.run(function(page, "compare"), compare)
        assert [turn.model for turn in session.turns] == ["fake:float32", "other:float32"]


def test_an_address_has_its_share_of_the_connections(monkeypatch: pytest.MonkeyPatch):
    limits, end = Limits(max_connections=6, address_connections=3), threading.Event()
    with served(FakeModel(), limits) as (page, url):
        monkeypatch.setattr(page.readers, "is_read", lambda session: end.wait(60) and False)
        visitors = [Visitor(url) for _ in range(9)]
        for visitor in visitors:
            assert visitor.join(function(page, "answer"), written("你好"))[0] == 200

        def stream(address: str, number: int):
            visitor = visitors[number]
            path = f"{API}/queue/data?session_hash={visitor.session}"
            # As a proxy on this machine tells whom it speaks for.
            return visitor.open("GET", path, X_Forwarded_For=address)

        opened = [stream("192.0.2.1", number) for number in range(3)]
        assert [response.status for response in opened] == [200] * 3
        refused = stream("192.0.2.1", 3)
        told = say("error_connections", "en", limit=3)
        assert (refused.status, json.loads(refused.read())["detail"]) == (429, told)
        network = [stream(f"2001:db8::{number}", number) for number in range(4, 8)]
        assert [response.status for response in network] == [200] * 3 + [429]
        assert stream("192.0.2.2", 8).status == 503  # all are taken
        for response in opened:
            response.close()
        wait_until(lambda: stream("192.0.2.1", 8).status == 200)
        end.set()


def test_calls_at_the_same_moment_do_not_pass_the_limit(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    gate, index = threading.Event(), function(page, "answer")
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


def test_a_caller_of_the_api_learns_its_place(url: str, page: app.Page, model: FakeModel):
    places, streams = [], []
    with held(model):
        for number in range(1, LIMITS.max_replies + 3):
            visitor = Visitor(url)
            answer = json.loads(visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[1])
            places.append(answer["place"])
            streams.append(visitor.open("GET", f"{API}/call/speak/{answer['event_id']}"))
            begun = min(number, LIMITS.max_replies)
            wait_until(
                lambda counts=(begun, number - begun): (
                    (model.num_running, page.calls.num_waiting) == counts
                )
            )
    assert places == [0, 0, 0, 1]
    assert all(b"event: complete" in stream.read() for stream in streams)
    wait_until(lambda: page.calls.num_replies == 0)


def test_a_reply_that_nobody_reads_is_not_made(url: str, page: app.Page, model: FakeModel):
    for _ in range(LIMITS.max_waiting // 2):
        visitor = Visitor(url)
        assert visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[0] == 200
        assert visitor.join(function(page, "answer"), written("你好"))[0] == 200
    wait_until(lambda: page.calls.num_replies == 0)
    assert model.num_replies == 0


def test_a_reply_stops_when_its_reader_leaves(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 100, 0.05
    wait_until(lambda: len(page.sessions) == 0)
    visitor = Visitor(url)
    visitor.join(function(page, "answer"), written("你好"))
    stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
    wait_until(lambda: model.num_running == 1)
    stream.close()
    wait_until(lambda: model.num_running == 0)
    (turn,) = page.sessions.get(next(iter(page.sessions._sessions))).turns
    assert not turn.last.ended


def test_no_number_of_waiting_calls_stops_the_server(url: str, page: app.Page, model: FakeModel):
    """A listener has the floor; others want it from everywhere at once."""
    wait_until(lambda: len(page.sessions) == 0)
    visitor = Visitor(url)
    assert visitor.run(function(page, "answer"), written("你好"))["success"]
    session = page.sessions.get(next(iter(page.sessions._sessions)))
    session.listen()
    wait_until(lambda: session.is_busy)
    for name in ("stop", "reset"):
        with ThreadPoolExecutor(30) as pool:
            joined = list(
                pool.map(
                    lambda _: visitor.join(function(page, name), [{}])[0],  # noqa: B023
                    range(60),
                )
            )
        assert set(joined) <= {200, 503}
    other = Visitor(url)
    assert other.run(function(page, "answer"), written("你好"))["success"]


def test_a_reply_made_fast_is_shown_seldom_and_sent_whole(
    url: str, page: app.Page, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("page.showing.AHEAD_SECONDS", -1e9)
    monkeypatch.setattr("page.showing.SPARSE_SECONDS", 1e9)
    model.num_frames = 50
    visitor = Visitor(url)
    visitor.join(function(page, "answer"), written("你好"))
    messages = list(visitor.events())
    assert sum(message["msg"] == "process_generating" for message in messages) < 10
    (end,) = [message for message in messages if message["msg"] == "process_completed"]
    _, *lines, last, _ = end["output"]["data"][1].split("\n")
    assert [line.split()[0] for line in lines] == list(map(str, range(50)))
    assert last == "END 50"


def test_speech_comes_in_steps_that_stay_short_and_lose_nothing(
    url: str, page: app.Page, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("page.showing.SPARSE_SECONDS", 0)
    model.num_frames = 100
    visitor = Visitor(url)
    visitor.join(function(page, "answer"), written("你好"))
    value, steps = "", []
    for message in visitor.events():
        told = message["output"]["data"][1] if message["msg"] == "process_generating" else None
        for kind, _, text in told if isinstance(told, list) else ():
            value = value + text if kind == "append" else text
            if isinstance(value, str):
                steps.append([line.split()[0] for line in value.split("\n")[1:-1]])
    assert len(steps) > 50 and max(map(len, steps)) < 40
    for come in (steps, steps[::2], steps[1::2]):  # a page may skip one
        num_pieces = 0
        for step in come:
            for index in step:
                num_pieces += index == str(num_pieces)
        assert num_pieces == 100
    assert steps[-1][-1] == "END"


def piece(number: int, seconds: float = 0.5) -> dict:
    """A piece of the microphone's sound, which is no speech."""
    pcm = np.zeros(int(seconds * 16_000), "<i2").tobytes()
    return {"number": number, "rate": 16_000, "pcm": base64.b64encode(pcm).decode()}


def test_pieces_of_a_microphone_are_checked(url: str, page: app.Page):
    visitor, hear = Visitor(url), function(page, "hear")
    late = visitor.run(hear, [piece(0)])  # it may follow the microphone's end, which is no fault
    told = json.loads(late["output"]["data"][0])
    assert told == {"number": 0, "closed": True, "fault": "error_microphone_silent"}
    assert shown_faults(late) == []
    opening = [{"open": True, "number": -1}]
    visitor.run(function(page, "open_microphone"), opening)
    told = json.loads(visitor.run(hear, [piece(0)])["output"]["data"][0])
    assert told == {"number": 0, "change": None, "to_end": None}
    for wrong in (
        {"number": "1"},
        {"rate": 16.5},
        {"rate": 10**9},
        {"pcm": "?"},
        {"pcm": "AA=="},
        {"pcm": ""},
        {"pcm": None},
    ):
        visitor.run(function(page, "open_microphone"), opening)
        answer = visitor.run(hear, [{**piece(1), **wrong}])
        assert shown_faults(answer) == [say("error_request", "zh")], wrong
        assert json.loads(answer["output"]["data"][0])["closed"]
    for nothing in (None, [], "x", 5, {}):
        assert shown_faults(visitor.run(hear, [nothing])) == [say("error_request", "zh")]


def test_what_was_heard_for_a_conversation_that_is_over_is_not_thought_about_for_ever(
    url: str, page: app.Page
):
    answer = Visitor(url).run(function(page, "answer_heard"), [{}, *SETTINGS])
    shown = [json.loads(value) for value in answer["output"]["data"] if isinstance(value, str)]
    assert [(one["kind"], one["text"]["en"]) for one in shown] == [
        ("note", say("lost_conversation", "en"))
    ]


def test_an_open_microphone_is_not_refused_for_asking_often():
    (seconds,) = re.findall(r"SEND_SECONDS = ([\d.]+)", asset("hands_free.js"))
    limits = Limits()
    assert 60 / float(seconds) < 0.7 * limits.user_requests
    assert limits.max_microphones * 60 / float(seconds) <= limits.address_requests


@pytest.mark.parametrize(("left", "is_said"), [(9.4, True), (14.9, True), (20.0, False)])
def test_the_end_of_a_turns_room_is_said_in_seconds(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch, left: float, is_said: bool
):
    monkeypatch.setattr("page.ears.Ears.hear", lambda *piece: Heard(0, None, left))
    shown = Visitor(url).run(function(page, "hear"), [piece(0)])["output"]["data"][1]
    expected = say("hearing_left", "en", seconds=round(left))
    assert (expected in json.dumps(shown)) == is_said


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
