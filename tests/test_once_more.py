"""A turn answered once more to compare the replies: the conversation goes on as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import soundfile
from fake_model import FakeModel, OtherModel

from models.errors import UserError
from page.chat import chat_value
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.once_more import again, beside
from page.session import Session

LIMITS = Limits(wait_seconds=2)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session("v", FakeModel(), Files(tmp_path, LIMITS), Limiter(1, 1), LIMITS)
    yield session
    session.close()


def test_the_conversation_goes_on_as_if_nothing_was_compared(session: Session):
    list(session.answer(None, "第一句"))
    *_, second = session.answer(None, "第二句")
    conversation, state = session.conversation, session.transcript.state
    other = OtherModel(num_frames=7)
    *_, compared = beside(session, second.name, other, "other:float32", voice="Bob")
    assert session.conversation is conversation and session.transcript.state == state
    assert (compared.beside, compared.model) == (second.name, "other:float32")
    assert compared.settings["voice"] == "Bob" and compared.sample_rate == 24_000
    assert soundfile.info(compared.reply_audio).samplerate == 24_000
    list(session.answer(None, "第三句"))
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句", "第三句"]
    assert [turn.beside for turn in session.turns] == [None, None, second.name, None]


def test_who_knew_what_was_said_before_is_told(session: Session):
    *_, first = session.answer(None, "第一句")
    *_, second = session.answer(None, "第二句")
    known = [
        turn.knows_before
        for name, model in (
            (first.name, OtherModel()),
            (second.name, OtherModel()),
            (second.name, FakeModel()),
        )
        for turn in [*beside(session, name, model, "x")][-1:]
    ]
    assert known == [True, False, True]  # nothing was said before the first turn
    assert '"knows_before": false' in chat_value(session, session.turns)


def test_what_no_turn_begins_with_is_not_kept(session: Session):
    files = session.files
    *_, first = session.answer(None, "第一句")
    for _ in range(5):
        list(again(session, first.name))
    assert len(list(files.folder.glob("*/conversation"))) == 1
    *_, second = session.answer(None, "第二句")
    for _ in range(5):
        list(again(session, second.name))
    assert len(list(files.folder.glob("*/conversation"))) == 2  # before the second, and after it
    list(again(session, first.name))
    list(session.answer(None, "第三句"))
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句", "第三句"]
    session.reset()
    assert files.num_bytes == 0 and list(files.folder.iterdir()) == []


@pytest.mark.parametrize("way", [again, partial(beside, model=OtherModel(), label="other")])
def test_a_new_conversation_that_comes_first_is_told(
    session: Session, monkeypatch: pytest.MonkeyPatch, way: Callable
):
    *_, turn = session.answer(None, "第一句")
    take_floor = session.hearing.take_floor

    def take_late(seconds: float):
        monkeypatch.undo()
        session.reset()
        return take_floor(seconds)

    monkeypatch.setattr(session.hearing, "take_floor", take_late)
    with pytest.raises(UserError) as told:
        list(way(session, turn.name))
    assert told.value.code == "error_no_such_turn"
    assert not session.is_busy and session.turns == []


def test_a_turn_that_is_not_kept_is_told(session: Session):
    with pytest.raises(UserError) as told:
        list(beside(session, "nobody", OtherModel(), "other"))
    assert told.value.code == "error_no_such_turn"
    *_, turn = session.answer(None, "第一句")
    turn.can_repeat = False
    with pytest.raises(UserError) as told:
        list(beside(session, turn.name, OtherModel(), "other"))
    assert told.value.code == "error_cannot_repeat" and not session.is_busy
