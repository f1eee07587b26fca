"""The sessions of all visitors: who makes room, and when one ends."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_model import FakeModel, held
from visiting import (
    LIMITS,
    recording,
    say,
    wait_until,
)

from models.errors import UserError
from page.files import Files
from page.once_more import again
from page.sessions import HERE_SECONDS, OPENED_SECONDS, Sessions

# Where no session ends by itself while a test runs.
LASTING = dataclasses.replace(LIMITS, linger_seconds=60, idle_seconds=60)


def open_before(sessions: Sessions, visitor: str) -> None:
    """A session that was opened some time ago."""
    sessions.open(visitor).hearing.last_used -= OPENED_SECONDS


class TestSessions:
    @pytest.fixture
    def sessions(self, model: FakeModel, files: Files) -> Iterator[Sessions]:
        sessions = Sessions(model, files, LASTING)
        yield sessions
        sessions.close()

    def test_the_one_away_longest_makes_room(self, sessions: Sessions):
        for visitor in "abc":
            open_before(sessions, visitor)
        sessions.see("a")
        sessions.open("b")
        sessions.open("d")
        assert [bool(sessions.get(visitor)) for visitor in "abcd"] == [True, True, False, True]

    def test_too_many_in_use_are_told(self, sessions: Sessions):
        for visitor in "abc":
            open_before(sessions, visitor)
            sessions.see(visitor)
        with pytest.raises(UserError) as told:
            sessions.open("d")
        assert told.value.code == "error_too_many_users"
        sessions._seen["a"] -= HERE_SECONDS
        sessions.open("d")
        assert [bool(sessions.get(visitor)) for visitor in "abcd"] == [False, True, True, True]

    def test_the_idle_longest_makes_room_if_nobody_is_away(self, model: FakeModel, files: Files):
        sessions = Sessions(model, files, dataclasses.replace(LASTING, idle_seconds=1800))
        for visitor, idle in (("a", 70), ("b", 80), ("c", 90)):
            sessions.see(visitor)
            sessions.open(visitor).hearing.last_used -= idle
        sessions.get("c").floor.take(threading.Event(), 1)  # it speaks
        sessions.open("d")
        assert [bool(sessions.get(visitor)) for visitor in "abcd"] == [True, False, True, True]
        sessions.get("c").floor.give()
        sessions.close()

    def test_who_leaves_is_not_interrupted_and_ends_later(self, model: FakeModel, files: Files):
        sessions = Sessions(model, files, dataclasses.replace(LASTING, idle_seconds=1800))
        session = sessions.open("a")
        sessions.see("a")
        session.hearing.last_used -= LASTING.linger_seconds
        sessions.sweep()
        assert sessions.get("a") is session
        sessions._seen["a"] -= HERE_SECONDS - 30  # it was asleep
        sessions.see("a")
        sessions._seen["a"] -= HERE_SECONDS
        session.floor.take(threading.Event(), 1)  # it speaks
        sessions.sweep()
        assert sessions.get("a") is session and not sessions._seen
        session.floor.give()
        session.hearing.last_used -= LASTING.linger_seconds
        sessions.sweep()
        assert sessions.get("a") is None
        sessions.close()

    def test_a_page_keeps_all_conversations_of_its_visitor(self, sessions: Sessions):
        for name in ("a", "a.x", "b.x"):
            open_before(sessions, name)
        sessions.see("a")
        sessions.open("d")
        assert sessions.get("a") and sessions.get("a.x") and not sessions.get("b.x")

    def test_made_up_visitors_take_no_memory_and_nobodys_place(
        self, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("page.sessions.MAX_SEEN", 3)
        open_before(sessions, "a.x")
        for visitor in ("a", *map(str, range(10))):
            sessions.see(visitor)
        assert list(sessions._seen) == ["a", "8", "9"]

    def test_an_idle_one_ends_though_its_page_is_open(self, model: FakeModel, files: Files):
        sessions = Sessions(model, files, dataclasses.replace(LIMITS, idle_seconds=60))
        sessions.see("a")
        session = sessions.open("a")
        session.hearing.last_used -= LIMITS.linger_seconds
        sessions.sweep()
        assert sessions.get("a")
        session.hearing.last_used -= 60
        wait_until(lambda: sessions.get("a") is None)
        sessions.close()

    def test_one_that_was_just_opened_makes_no_room(self, model: FakeModel, files: Files):
        sessions = Sessions(model, files, dataclasses.replace(LASTING, max_sessions=1))
        first = sessions.open("a.x")
        with pytest.raises(UserError) as told:
            sessions.open("b.x")
        assert told.value.code == "error_too_many_users"
        say(first, "你好")
        say(sessions.open("b.x"), "你好")
        sessions.close()
        assert list(files.folder.iterdir()) == []

    def test_no_turn_begins_in_one_that_has_ended(self, sessions: Sessions, files: Files):
        session = sessions.open("v")
        turn = say(session, "你好")
        session.hearing.last_used -= LASTING.linger_seconds
        sessions.sweep()
        assert sessions.get("v") is None
        wait_until(lambda: not files.num_bytes)  # the sweeper may be the one that ends it
        for ask, code in (
            (lambda: list(again(session, turn.name)), "error_no_such_turn"),
            (lambda: say(session, "你好"), "error_busy"),
            (lambda: list(session.answer_clip(None, "你好", system="")), "error_busy"),
            (session.reset, "error_busy"),
        ):
            with pytest.raises(UserError) as told:
                ask()
            assert told.value.code == code
        session.prepare(recording(session))
        session.listen()
        session.hearing.end_speech()
        with pytest.raises(UserError):
            list(session.answer_heard())
        files.remove_all("v")  # the recording
        assert list(files.folder.iterdir()) == [] and not session.is_busy

    def test_a_turn_that_outlasts_its_session_leaves_nothing(
        self, sessions: Sessions, model: FakeModel, files: Files, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("page.session.CLOSE_SECONDS", 0.1)
        session = sessions.open("v")
        say(session, "你好")
        with ThreadPoolExecutor(1) as pool:
            with held(model):
                running = pool.submit(say, session, "再来")
                wait_until(lambda: session.is_busy)
                sessions.close()
            running.result(5)
        assert list(files.folder.iterdir()) == [] and files.num_bytes == 0
