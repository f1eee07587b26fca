"""Strangers at the page: whatever value stands in a call, it is answered with a message."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from inspect import isgenerator
from types import SimpleNamespace

import anyio
import pytest
from anyio import to_thread
from fake_model import FakeModel
from page_client import Visitor, function, served
from small_listening import new

import app
from page.calls import SINCE, WHO
from page.limits import Limits
from strings import say

LIMITS = Limits(user_requests=10**6, address_requests=10**6, wait_seconds=2, max_waiting=10**6)
INTERNAL = say("error_internal", "en")
WRONG = (None, True, 5, -1.5, 10**400, "x", "\ud800", "\0", [], [None], {}, {"a": [1]})
FEW = (None, 5, "\ud800", [None], {})  # of these, what is sent over the network
SETTINGS = ["", 5, 0.7, -1]  # style, seconds, temperature, seed
TALK = {
    "answer": {"text": "你好", "audio": None},
    "answer_heard": {},
    "again": {"turn": "a"},
    "stop": {"turn": "a", "seconds": 1},
    "reset": {},
    "load": {"file": {"path": "/a"}},
    "cut": {"turn": "a", "seconds": 1},
    "rate": {"turn": "a", "rating": 1},
    "save": {},
    "prepare": {"audio": None, "alone": True},
    "open_microphone": {"open": True, "number": -1},
    "compare": {
        "turn": "a", "model": "fake:float32", "style": "", "voice": "", "seed": 1,
        "sampling": {"temperature": 1},
    },
    "offer": {"model": "fake:float32"},
    "hear": {"number": 0, "rate": 16_000, "pcm": "AAAA", "echo": False},
}  # fmt: skip
WITH_SETTINGS = ("answer", "answer_heard", "again", "save", "compare")
CONDITION = {
    "name": "a", "source": "reply", "model": "fake:float32", "style": "", "voice": "",
    "sampling": {"temperature": 1}, "seed": 1,
}  # fmt: skip
RATER = {"code": "0", "name": "ann", "key": ""}
TABS = {
    "_tests_build": {
        "kind": "ab", "title": "t", "question": "", "reference": "a", "folder": "",
        "conditions": [CONDITION, {**CONDITION, "name": "b"}], "texts": ["好"], "recordings": [],
    },
    "_tests_settings": {"model": "fake:float32"},
    "_tests_stop": {},
    "_tests_take": RATER,
    "_tests_rate": RATER | {"position": 0, "answer": 1, "seconds": 1},
    "_tests_results": {"key": "a"},
    "_tests_hear": {"key": "a", "digest": "a"},
    "_tests_export": {"key": "a"},
    "_tests_bring": {"package": "/a"},
    "_tests_remove": {"key": "a"},
    "_look": {"path": "/a", "text": "好", "answers": True, "seed": 1},
}  # fmt: skip
PUBLIC = {
    "speak": [None, "好", "", -1, None, "", "", None, None],
    "encode": [None],
    "decode": [[[0]]],
}


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[app.Page, str]]:
    with served(FakeModel(num_frames=1), LIMITS) as page:
        yield page


def variants(value: object) -> Iterator[object]:
    """A value with a part of it, at any depth, replaced by a wrong one or left out."""
    yield from WRONG
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            for wrong in variants(inner):
                yield {**value, key: wrong}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for wrong in variants(inner):
                yield [*value[:index], wrong, *value[index + 1 :]]


@pytest.fixture(scope="module")
def known(ours: tuple[app.Page, str]) -> dict[str, str]:
    """A listening test that is there."""
    code, key = ours[0].store.add(*new())
    return {"code": code, "key": key}


@pytest.fixture
def no_faults(ours: tuple[app.Page, str], capfd: pytest.CaptureFixture) -> Iterator[None]:
    """Nothing that happens meanwhile is a fault of the server itself."""
    before = internal(ours[1])
    yield
    assert internal(ours[1]) == before
    assert "Traceback" not in capfd.readouterr().err


def internal(url: str) -> float:
    lines = Visitor(url).get("/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith('westlake_errors_total{kind="internal"}')]
    return float(found[0].split()[1]) if found else 0.0


def test_every_event_is_tried(ours: tuple[app.Page, str]):
    named = {getattr(fn.fn, "__name__", None) for fn in ours[0].demo.fns.values()}
    assert named - {None, "restore"} == {*TALK, *TABS, *PUBLIC}  # restore takes nothing


def with_settings(name: str) -> list:
    return SETTINGS if name in WITH_SETTINGS else []


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize("name", [*TALK, *TABS])
def test_any_argument_of_an_event_is_answered(ours: tuple[app.Page, str], name: str):
    page, url = ours
    index, visitor = function(page, name), Visitor(url)
    right = [TALK.get(name, "{}"), *with_settings(name)]
    sent = [
        [*right[:place], wrong, *right[place + 1 :]] for place in range(len(right)) for wrong in FEW
    ]
    waiting = {json.loads(visitor.join(index, data)[1])["event_id"]: data for data in sent}
    for message in visitor.events():
        if message["msg"] == "process_completed":
            assert message["success"], (waiting[message["event_id"]], message["output"])
            assert INTERNAL not in json.dumps(message["output"])


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize("name", [*TALK, *TABS])
def test_any_part_of_what_a_script_sends_is_answered(
    ours: tuple[app.Page, str], known: dict[str, str], name: str
):
    page, url = ours
    handler = page.demo.fns[function(page, name)].fn
    session = "visitor_session"
    request = SimpleNamespace(
        session_hash=session,
        state=SimpleNamespace(**{WHO: ("user", "address"), SINCE: time.monotonic()}),
    )
    value = TALK.get(name) or TABS.get(name, {})
    value = {part: known.get(part, inner) for part, inner in value.items()}
    if name in ("_tests_take", "_tests_rate"):
        value["key"] = ""

    def called(handler, given) -> list:  # in a thread of an event loop's, as Gradio calls it
        answer = handler(request, given, *with_settings(name))
        return list(answer) if isgenerator(answer) else [answer]

    with page.readers.reading(session):
        for wrong in variants(value):
            is_text = name in TABS and not isinstance(wrong, str)
            given = json.dumps(wrong) if is_text else wrong
            answers = anyio.run(to_thread.run_sync, partial(called, handler, given))
            assert INTERNAL not in repr(answers), wrong


@pytest.mark.usefixtures("no_faults")
@pytest.mark.parametrize("name", PUBLIC)
def test_any_argument_of_the_api_is_answered(ours: tuple[app.Page, str], name: str):
    right = PUBLIC[name]
    for place in range(len(right)):
        for wrong in FEW:
            data = [*right[:place], wrong, *right[place + 1 :]]
            status, answer = Visitor(ours[1]).call(data, name)
            assert '{"error": null' not in answer and INTERNAL not in answer, data
            assert status == 200 or json.loads(answer)["detail"], data
