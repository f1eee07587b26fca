"""What visitors who have left leave in the page's memory."""

from __future__ import annotations

import weakref

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
