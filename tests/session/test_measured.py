"""What the figures say of a session's replies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_model import FakeModel
from prometheus_client import REGISTRY
from visiting import say

from page.session import Session


def replies(end: str) -> float:
    return REGISTRY.get_sample_value("westlake_replies_total", {"end": end}) or 0.0


def stopped(session: Session, model: FakeModel) -> None:
    model.on_frame = lambda frame: session.interrupt() if frame == 6 else None
    say(session, "你好")


def left(session: Session, model: FakeModel) -> None:
    turns = session.answer(None, "你好")
    while next(turns).last is None:
        pass
    turns.close()


def whole(session: Session, model: FakeModel) -> None:
    model.num_frames = 6
    say(session, "你好")


def at_its_longest(session: Session, model: FakeModel) -> None:
    say(session, "你好", max_new_tokens=6)


def left_at_its_longest(session: Session, model: FakeModel) -> None:
    turns = session.answer(None, "你好", max_new_tokens=6)
    while next(turns).num_pieces < 6:
        pass
    turns.close()


@pytest.mark.parametrize(
    ("way", "end"),
    [
        (stopped, "left"), (left, "left"), (whole, "whole"), (at_its_longest, "whole"),
        (left_at_its_longest, "whole"),
    ],
)  # fmt: skip
def test_how_a_reply_ended_is_counted(
    session: Session, model: FakeModel, way: Callable[[Session, FakeModel], None], end: str
):
    model.num_frames = 100
    before = {each: replies(each) for each in ("whole", "left", "error")}
    way(session, model)
    more = {each: replies(each) - number for each, number in before.items()}
    assert more == {"whole": 0, "left": 0, "error": 0} | {end: 1}
