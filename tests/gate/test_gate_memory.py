"""What visitors who have left leave in the page's memory."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from page_client import API, Visitor, function
from strangers import wait_until, written

import app


@pytest.mark.usefixtures("no_collector")
def test_conversations_that_are_over_are_freed(url: str, page: app.Page):
    """Neither the page nor Gradio holds them, by a cycle or otherwise."""
    kept = []
    for number in range(6):
        visitor = Visitor(url)
        assert visitor.get("/config")[0] == 200
        with visitor.open("GET", f"{API}/heartbeat/{visitor.session}"):
            assert visitor.run(function(page, "answer"), written("你好"))["success"]
        assert "event: complete" in visitor.call([None, "你好", "", number, None, "talk"])[1]
        for session in list(page.sessions._sessions.values()):
            kept += [weakref.ref(session), weakref.ref(session.conversation)]
    del session
    wait_until(lambda: len(page.sessions) == 0)
    wait_until(lambda: all(one() is None for one in kept))


def test_calls_one_after_another_take_one_session_of_gradios(url: str, page: app.Page):
    """Which is dear to make; calls at once have one each, as each reads what is its own."""
    visitor, queue = Visitor(url), page.demo._queue
    made = page.demo.state_holder.session_data
    before = set(made)

    def say(text: str) -> None:
        assert "event: complete" in visitor.call([None, text])[1]
        wait_until(lambda: not queue.event_ids_to_events)

    for _ in range(3):
        say("你好")
        assert visitor.call("nothing")[0] == 422
    (session,) = set(made) - before
    with page.calls.readers.reading(session):  # somebody still waits for more in it
        say("你好")
    say("你好")
    assert len(set(made) - before) == 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(say, ("你好", "再见")))
    assert len(set(made) - before) == 3
