"""Strangers end replies at the page's server: what is over is told of no more, and nothing else."""

from __future__ import annotations

import json

import pytest
from fake_model import FakeModel, held
from page_client import Visitor, function
from strangers import full, wait_until, written

import app


def num_under_way(page: app.Page) -> int:
    asked = page.demo.fns[function(page, "answer")].fn.__self__.showing.asked
    return sum(len(each.replies) for each in asked._pages.values())


def ask(visitor: Visitor, page: app.Page, name: str, data: list, asked: int) -> None:
    status, answer = visitor.join(function(page, name), [{**data[0], "asked": asked}, *data[1:]])
    assert status == 200, answer


def ends(messages: list[dict]) -> list[dict]:
    return [each for each in messages if each["msg"] == "process_completed"]


def is_told(value: object) -> bool:
    """Whether a component gets a value, or what of it has changed."""
    return value != [] and "update" not in json.dumps(value)


@pytest.mark.parametrize("end", ["stop", "reset"])
@pytest.mark.parametrize("is_growing", [True, False])
def test_a_reply_that_is_ended_ends_well_and_is_heard_no_more(
    url: str, page: app.Page, model: FakeModel, end: str, is_growing: bool
):
    model.num_frames, model.frame_seconds = 400, 0.01
    visitor = Visitor(url)
    ask(visitor, page, "answer", written("你好"), 1)
    events = visitor.events()
    if is_growing:
        assert any("END" not in str(each) and "16000" in str(each) for each in events)
    ask(visitor, page, end, [{}], 2)
    told = list(events)
    assert len(ends(told)) == 2 and all(each["success"] for each in ends(told))
    assert num_under_way(page) == 0 and "END " not in str(told)


def test_a_reply_that_ends_before_it_begins_is_not_under_way(
    url: str, page: app.Page, model: FakeModel
):
    visitor = Visitor(url)
    assert visitor.run(function(page, "stop"), [{"asked": 2}])["success"]
    wish, *settings = written("你好")
    told = visitor.run(function(page, "answer"), [{**wish, "asked": 1}, *settings])
    assert told["success"] and num_under_way(page) == 0 and model.num_replies == 0


def test_a_sound_that_waits_to_be_looked_at_is_left_by_what_ends_replies(
    url: str, page: app.Page, model: FakeModel
):
    visitor, look = Visitor(url), json.dumps({"text": "你好", "answers": True})
    with full(url, page, model):
        assert visitor.join(function(page, "_look"), [look])[0] == 200
        wait_until(lambda: page.calls.num_waiting == 1)
        events = visitor.events()
        for asked, end in enumerate(("stop", "reset"), 1):
            ask(visitor, page, end, [{}], asked)
            next(each for each in events if each["msg"] == "process_completed")
        assert page.calls.num_waiting == 1
    assert "done" in str(list(events))


def test_a_reply_that_another_replaces_tells_nothing_after_it(
    url: str, page: app.Page, model: FakeModel
):
    model.num_frames, model.frame_seconds = 400, 0.01
    visitor = Visitor(url)
    ask(visitor, page, "answer", written("你好"), 1)
    events = visitor.events()
    first = next(each for each in events if each["msg"] == "process_generating")["event_id"]
    model.num_frames = 5
    with held(model) as is_reached:  # so that none of its steps is on its way to be told
        assert is_reached.wait(10)
        ask(visitor, page, "answer", written("你好"), 2)
        wait_until(lambda: num_under_way(page) == 2)
    told = list(events)
    assert len(ends(told)) == 2 and all(each["success"] for each in ends(told))
    begun = next(
        number
        for number, each in enumerate(told)
        if each["msg"] == "process_generating" and each["event_id"] != first
    )
    late = [each["output"]["data"] for each in told[begun:] if each.get("event_id") == first]
    assert late and not any(is_told(sound) or is_told(status) for _, sound, status, _ in late)
    assert num_under_way(page) == 0


@pytest.mark.parametrize("is_own", [True, False])
def test_what_another_tab_of_the_visitor_hears_is_kept_where_it_is_ended(
    url: str, page: app.Page, model: FakeModel, is_own: bool
):
    model.num_frames, model.frame_seconds = 400, 0.01
    wait_until(lambda: len(page.sessions) == 0)
    first = Visitor(url)
    second = first if is_own else Visitor(url, first.name)
    ask(first, page, "answer", written("你好"), 1)
    events = first.events()
    assert any("16000" in str(each) for each in events)
    ask(second, page, "stop", [{}], 2)
    assert list(events) and is_own or list(second.events())
    (session,) = page.sessions._sessions.values()
    (turn,) = session.turns
    assert turn.stopped and bool(turn.reply) == bool(turn.seconds) == (not is_own)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_stop_keeps_what_was_made_of_a_reply_that_the_page_has_just_replaced(
    url: str, page: app.Page, model: FakeModel, is_own: bool
):
    model.num_frames, model.frame_seconds = 400, 0.01
    wait_until(lambda: len(page.sessions) == 0)
    first = Visitor(url)
    second = first if is_own else Visitor(url, first.name)
    ask(first, page, "answer", written("你好"), 1)
    events = first.events()
    assert any("16000" in str(each) for each in events)
    with held(model) as is_reached:
        assert is_reached.wait(10)
        ask(second, page, "answer", written("再见"), 2)
        wait_until(lambda: num_under_way(page) == 2)
        ask(second, page, "stop", [{}], 3)
        wait_until(lambda: num_under_way(page) == 1)
    assert list(events) and is_own or list(second.events())
    (session,) = page.sessions._sessions.values()
    (turn,) = session.turns
    assert turn.stopped and turn.reply and turn.seconds
