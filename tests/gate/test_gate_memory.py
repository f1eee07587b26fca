"""What visitors who have left leave in the page's memory."""

from __future__ import annotations

import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from fake_model import FakeModel
from page_client import API, Visitor, function
from strangers import wait_until, written

import app


@pytest.mark.usefixtures("no_collector")
def test_conversations_that_are_over_are_freed(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    """Neither the page nor Gradio holds them, by a cycle or otherwise."""
    monkeypatch.setattr("page.sessions.HERE_SECONDS", 0.1)
    kept = []
    for number in range(6):
        visitor = Visitor(url)
        assert visitor.get("/config")[0] == 200
        assert visitor.get("/here")[0] == 204
        assert visitor.run(function(page, "answer"), written("你好"))["success"]
        assert "event: complete" in visitor.call([None, "你好", "", number, None, "talk"])[1]
        for session in list(page.sessions._sessions.values()):
            kept += [weakref.ref(session), weakref.ref(session.conversation)]
    del session
    wait_until(lambda: len(page.sessions) == 0)
    wait_until(lambda: all(one() is None for one in kept))


def test_calls_one_after_another_take_one_session_of_gradios(
    url: str, page: app.Page, model: FakeModel
):
    """Which is dear to make; calls at once have one each, as each reads what is its own."""
    visitor, both = Visitor(url), Barrier(2)
    made = page.demo.state_holder.session_data
    before = set(made)

    def say(text: str) -> None:
        assert "event: complete" in visitor.call([None, text])[1]
        wait_until(lambda: all(page.calls._api_sessions.values()))  # they rest

    for _ in range(3):
        say("你好")
        assert visitor.call("nothing")[0] == 422
    (session,) = set(made) - before
    with page.calls.readers.reading(session):  # somebody still waits for more in it
        say("你好")
        say("你好")
        assert len(set(made) - before) == 2
        model.on_frame = lambda frame: both.wait(60) if frame == 1 else None
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(say, ("你好", "再见")))
    assert len(set(made) - before) == 3


def test_a_session_that_a_client_has_named_is_nobody_elses(url: str, page: app.Page):
    """Two programs at one address, without a secret, are one visitor."""
    spy, other = Visitor(url, name="", session="api-spy"), Visitor(url, name="")
    made = page.demo.state_holder.session_data
    before = set(made)
    body = {"data": [None, "你好"], "session_hash": spy.session}
    status, answer = spy.post(f"{API}/call/speak", body)
    assert status == 200, answer
    event_id = json.loads(answer)["event_id"]
    assert "event: complete" in spy.get(f"{API}/call/speak/{event_id}")[1]
    (named,) = set(made) - before
    wait_until(lambda: not page.calls.readers.is_open(named))
    assert "event: complete" in other.call([None, "再见"])[1]
    assert len(set(made) - before) == 2
