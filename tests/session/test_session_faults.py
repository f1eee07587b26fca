"""Whatever fails in a turn, and wherever: floor, slots and files are as they must be."""

from __future__ import annotations

import dataclasses
import errno
import os
import wave
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import enumerate as enumerate_threads

import pytest
import soundfile
from fake_model import FakeConversation, FakeModel, FakeTurn
from visiting import LIMITS, listen, recording, say, wait_until

from models.errors import UserError
from page.files import Files
from page.limiter import Limiter
from page.once_more import again
from page.session import Session

SHORT = dataclasses.replace(LIMITS, wait_seconds=0.5, silent_seconds=0.5, max_audio_seconds=3)
PLACES: list[tuple[type | object, str]] = [
    (FakeConversation, "begin_turn"), (FakeConversation, "save"), (FakeConversation, "reset"),
    (FakeTurn, "push"), (FakeTurn, "finish"), (FakeModel, "chunk"),
    (FakeModel, "load_conversation"), (Path, "mkdir"), (Path, "write_text"),
    (wave.Wave_write, "writeframes"), (os, "replace"), (soundfile, "read"),
]  # fmt: skip


def typed(session: Session) -> None:
    say(session, "你好")
    say(session, "再来")


def recorded(session: Session) -> None:
    list(session.answer(recording(session), ""))


def spoken(session: Session) -> None:
    listen(session, 1.0)
    list(session.answer_heard())


def left(session: Session) -> None:
    turns = session.answer(None, "你好")
    next(turns), next(turns)
    turns.close()


def answered_again(session: Session) -> None:
    say(session, "你好")
    list(again(session, session.turns[0].name))


def cut(session: Session) -> None:
    session.transcript.cut(say(session, "你好").name, 0.1)


def begun_anew(session: Session) -> None:
    say(session, "你好")
    session.reset()


class Fault:
    """The n-th call of any of the places raises; a file that it should write is half written."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, error: Exception) -> None:
        self.number, self.error, self.calls = number, error, count(1)
        self.has_come = False
        for owner, name in PLACES:
            patch.setattr(owner, name, self.rigged(getattr(owner, name)))

    def rigged(self, right: Callable) -> Callable:
        def call(*given: object, **options: object) -> object:
            if next(self.calls) != self.number:
                return right(*given, **options)
            self.has_come = True
            if right is Path.write_text:
                right(given[0], "half")
            raise self.error

        return call


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), RuntimeError("broken")], ids=["full", "broken"]
)
@pytest.mark.parametrize("scene", [typed, recorded, spoken, left, answered_again, cut, begun_anew])
def test_a_fault_leaves_a_session_that_goes_on(
    scene: Callable[[Session], None],
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def fails_at(number: int) -> bool:
        limiter, files = Limiter(1, 0.5), Files(tmp_path, SHORT)
        session = Session("v", FakeModel(num_frames=4), files, limiter, SHORT)
        with monkeypatch.context() as patch, suppress(OSError, RuntimeError, UserError):
            fault = Fault(patch, number, error)
            scene(session)
        wait_until(lambda: not session.is_busy)
        for slots in (limiter.reply, limiter.listening):
            with slots(0):
                pass
        assert {str(path) for path in tmp_path.rglob("*") if path.is_file()} == set(files._entries)
        assert all(list(folder.iterdir()) for folder in tmp_path.iterdir())
        for turn in session.turns:
            assert turn.ended and not turn.has_sound
            assert all(Path(path).is_file() for path in turn.paths)
        say(session, "继续")
        session.close()
        assert list(tmp_path.iterdir()) == []
        return fault.has_come

    assert next(number for number in count(1) if not fails_at(number)) > 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_spoken", [True, False])
def test_a_turn_that_can_not_be_forgotten_gives_the_floor(
    session: Session, model: FakeModel, monkeypatch: pytest.MonkeyPatch, is_spoken: bool
):
    def fail(*given: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(FakeTurn, "abandon", fail)
        if is_spoken:
            patch.setattr(Files, "make", fail)  # what was heard can't be kept
            listen(session, 1.0)
            with pytest.raises(RuntimeError):
                list(session.answer_heard())
        else:
            model.on_push = fail  # so it is forgotten at once
            session.prepare(recording(session))
            (listener,) = (thread for thread in enumerate_threads() if "_run" in thread.name)
            listener.join(10)
            model.on_push = lambda turn: None
    assert not session.is_busy
    say(session, "继续")


def test_a_turn_behind_an_unwritten_conversation_is_not_answered_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    def save(conversation: FakeConversation, path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(FakeConversation, "save", save)
        unwritten = say(session, "你好")
    assert session.transcript.state is None
    behind = say(session, "再来")
    assert [turn.can_repeat for turn in (unwritten, behind)] == [True, False]
    assert session.transcript.state is not None and say(session, "继续").can_repeat


def test_a_session_that_is_closed_while_it_is_saved_keeps_nothing(
    session: Session, files: Files, monkeypatch: pytest.MonkeyPatch
):
    def save(conversation: FakeConversation, path: Path) -> None:
        monkeypatch.setattr("page.session.CLOSE_SECONDS", 0.0)
        session.close()
        raise RuntimeError("broken")

    monkeypatch.setattr(FakeConversation, "save", save)
    with pytest.raises(RuntimeError):
        say(session, "你好")
    assert session.turns == [] and list(files.folder.iterdir()) == []


def test_a_turn_that_fails_before_its_reply_is_forgotten(session: Session, model: FakeModel):
    heard: list[FakeTurn] = []

    def fail(turn: FakeTurn) -> None:
        heard.append(turn)
        raise RuntimeError("broken")

    model.on_push = fail
    with pytest.raises(RuntimeError):
        list(session.answer(recording(session), ""))
    assert not heard[0].is_open


def test_a_reply_whose_file_is_gone_is_cut_all_the_same(session: Session):
    turn = say(session, "你好")
    session.files.remove(turn.reply_audio or "")
    session.transcript.cut(turn.name, 0.1)
    assert turn.reply == "好好" and turn.reply_audio is None and turn.stopped


def test_a_reply_in_writing_is_never_cut(session: Session, monkeypatch: pytest.MonkeyPatch):
    right = FakeModel.chunk

    def chunk(self: FakeModel, *given: object) -> object:
        return dataclasses.replace(right(self, *given), new_audio=[], total_seconds=0.0)

    monkeypatch.setattr(FakeModel, "chunk", chunk)
    turn = say(session, "你好")
    session.transcript.cut(turn.name, 0.0)
    assert turn.reply == "好" * 5 and not turn.stopped
