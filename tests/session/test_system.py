"""How the model shall be is told at a conversation's beginning, whoever else speaks in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_model import FakeConversation, FakeModel
from visiting import say

from models.errors import UserError
from page.session import Session


class Told(FakeModel):
    """Can be told how it shall be."""

    def new_conversation_with(self, system: str) -> FakeConversation:
        conversation = self.new_conversation()
        conversation.system = system
        return conversation


@pytest.fixture
def model() -> FakeModel:
    return Told()


def call(session: Session, text: str, system: str) -> None:
    """As the API does."""
    list(session.answer_clip(None, text, system=system))


def texts(session: Session) -> list[str]:
    return [text for text, _ in session.conversation.heard]


@pytest.fixture
def crossed(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody's first turn is answered just before the next one has the floor."""
    take_floor = session.hearing.take_floor

    def take_late(seconds: float):
        monkeypatch.setattr(session.hearing, "take_floor", take_floor)
        say(session, "第一句")
        return take_floor(seconds)

    monkeypatch.setattr(session.hearing, "take_floor", take_late)


def test_it_counts_from_the_first_turn_on(session: Session):
    for text, system in (("一", "a pirate"), ("二", ""), ("三", "a pirate")):
        call(session, text, system)
    assert session.conversation.system == "a pirate"
    assert texts(session) == ["一", "二", "三"]


@pytest.mark.parametrize("first", ["", "a pirate"])
def test_another_one_is_refused_later(session: Session, model: FakeModel, first: str):
    call(session, "一", first)
    model.num_frames = 20
    under_way = session.answer(None, "二")
    while (turn := next(under_way)).last is None:
        pass
    with pytest.raises(UserError) as raised:
        call(session, "三", "a nurse")
    assert raised.value.code == "error_system_late"
    assert not list(under_way)[-1].stopped
    assert turn.last.ended and texts(session) == ["一", "二"]
    assert not session.is_busy


def test_a_first_turn_meanwhile_is_kept_from_the_page(session: Session, crossed: None):
    session.direct("a nurse")
    assert texts(session) == ["第一句"] == [turn.text for turn in session.turns]
    assert not session.is_busy


def test_a_first_turn_meanwhile_is_kept_from_another_call(session: Session, crossed: None):
    with pytest.raises(UserError) as raised:
        call(session, "二", "a nurse")
    assert raised.value.code == "error_system_late"
    assert texts(session) == ["第一句"] == [turn.text for turn in session.turns]
    assert not session.is_busy
    call(session, "二", "")
    assert texts(session) == ["第一句", "二"]
