"""A visitor's conversation on the page, without a browser and with a model that costs nothing."""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from visiting import (
    LIMITS,
    listen,
    read_stream,
    recording,
    say,
    wait_until,
)

from models.errors import UserError
from page.chat import chat_value
from page.files import Files
from page.limiter import Limiter
from page.session import Session


def test_the_players_samples_are_those_of_the_wav(session: Session, model: FakeModel):
    model.num_frames = 14
    values = []
    for turn in session.answer(None, "你好"):
        values.append(turn.stream())
        tail = turn.stream(turn.num_pieces - 2)
    wave = soundfile.read(turn.reply_audio, dtype="int16")[0]
    whole, ended = read_stream(turn, values[-1])
    np.testing.assert_array_equal(whole, wave)
    np.testing.assert_array_equal(read_stream(turn, tail)[0], wave[-2 * 800 :])
    assert ended
    for before, after in zip(values, values[1:]):
        assert after.startswith(before)  # so only what is new travels


def test_sounds_that_a_file_holds_leave_the_memory(session: Session):
    say(session, "你好")
    (turn,) = session.turns
    assert not turn.has_sound
    assert Path(turn.reply_audio).is_file()


def test_sounds_of_a_reply_that_is_left_leave_the_memory(session: Session, model: FakeModel):
    model.num_frames = 100
    turns = session.answer(None, "你好")
    while (turn := next(turns)).num_pieces < 3:
        pass
    turns.close()
    assert not turn.has_sound
    assert len(soundfile.read(turn.reply_audio)[0]) == 800 * turn.last.total_frames


def test_a_conversation_goes_on_and_begins_anew(session: Session, files: Files):
    say(session, "你好")
    say(session, "我不喜欢现在的工作")
    name = session.transcript.name
    assert [text for text, _ in session.conversation.heard] == ["你好", "我不喜欢现在的工作"]
    session.reset()
    assert session.turns == session.conversation.heard == list(files.folder.iterdir()) == []
    assert session.transcript.name != name


def test_a_stopped_reply_stays_as_far_as_it_was_said(session: Session, model: FakeModel):
    model.num_frames = 50
    turns = session.answer(None, "你好")
    while (turn := next(turns)).last is None:
        pass
    session.interrupt()
    turns.close()
    assert session.wait()
    assert turn.ended and turn.stopped
    wave = soundfile.read(turn.reply_audio, dtype="int16")[0]
    assert len(wave) == 800 * turn.last.total_frames < 800 * 5
    assert not say(session, "继续").stopped


@pytest.mark.parametrize("num_frames", range(6))
def test_a_reply_whose_page_is_closed_before_its_end_is_stopped(
    session: Session, model: FakeModel, num_frames: int
):
    turns = session.answer(None, "你好")
    for _ in range(1 + num_frames):
        turn = next(turns)
    turns.close()
    assert turn.ended and turn.stopped == (num_frames < model.num_frames)
    assert turn in session.turns and Path(turn.reply_audio).is_file()


def test_a_reply_at_its_longest_is_not_stopped_by_what_comes_then(session: Session):
    turns = session.answer(None, "你好", max_new_tokens=3)
    while (turn := next(turns)).num_pieces < 3:
        pass
    session.interrupt()
    turns.close()
    assert turn.cut_off and not turn.stopped


def test_a_new_turn_ends_the_reply_before_it(session: Session, model: FakeModel):
    model.num_frames, model.frame_seconds = 1000, 0.01
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: list(session.answer(None, "你好")))
        wait_until(lambda: bool(session.turns and session.turns[0].last))
        model.num_frames = 3
        say(session, "等一下")
        running.result(5)
    assert [turn.stopped for turn in session.turns] == [True, False]


def test_an_exception_in_the_first_step_leaves_no_turn(session: Session, model: FakeModel):
    def fail(frame: int) -> None:
        raise MemoryError

    model.on_frame = fail
    with pytest.raises(MemoryError):
        say(session, "你好")
    assert session.turns == [] and not session.is_busy
    turns = session.answer(None, "你好")
    turn = next(turns)
    with pytest.raises(MemoryError):
        turns.close()  # by a page that left: the first step comes now
    assert turn.ended and session.turns == [] and not session.is_busy
    model.on_frame = lambda frame: None
    say(session, "你好")


@contextmanager
def at_last(free: Callable[[], object]) -> Iterator[None]:
    """Frees what is waited for after a minute: who waits without end fails, and does not hang."""
    timer = threading.Timer(60, free)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_a_turn_that_does_not_end_makes_no_other_wait_for_ever(
    session: Session, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("page.session.CLOSE_SECONDS", 0.2)
    stuck = threading.Event()
    model.on_frame = lambda frame: stuck.wait(20)
    with ThreadPoolExecutor(1) as pool, at_last(stuck.set):
        running = pool.submit(lambda: list(session.answer(None, "你好")))
        wait_until(lambda: session.is_busy)
        assert not session.wait()
        for ask in (lambda: say(session, "再来"), session.reset):
            with pytest.raises(UserError) as told:
                ask()
            assert told.value.code == "error_busy"
        session.prepare(recording(session))
        stuck.set()
        running.result(10)
    say(session, "再来")


def test_no_order_of_calls_orphans_the_floor(session: Session, model: FakeModel):
    """Recordings, microphones, replies and stops from many threads at once."""
    model.num_frames, model.frame_seconds = 3, 0.001
    path = recording(session)
    steps: list[Callable[[], object]] = [
        lambda: session.prepare(path),
        lambda: session.prepare(None),
        session.interrupt,
        lambda: list(session.answer(path, "")),
        lambda: list(session.answer(None, "你好")),
        lambda: listen(session, 0.3),
        lambda: list(session.answer_heard()),
    ]

    def run(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(60):
            try:
                draw.choice(steps)()
            except UserError as error:
                assert error.code in ("error_nothing_heard", "error_busy", "error_silent")
            session.turns.clear()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    session.interrupt()
    assert session.wait()
    wait_until(lambda: sum(t.name.endswith("(_run)") for t in threading.enumerate()) == 0)
    say(session, "你好")


def test_replies_wait_for_a_slot_and_not_for_ever(model: FakeModel, files: Files):
    limiter = Limiter(1, 0.2)
    sessions = [Session(f"v{i}", model, files, limiter, LIMITS) for i in range(2)]
    turns = sessions[0].answer(None, "你好")
    next(turns)
    with at_last(turns.close), pytest.raises(UserError) as told:
        say(sessions[1], "你好")
    assert told.value.code == "error_busy"
    turns.close()
    say(sessions[1], "你好")


@pytest.mark.usefixtures("no_collector")
def test_a_closed_session_is_freed(model: FakeModel, files: Files):
    session = Session("v", model, files, Limiter(1, 1), LIMITS)
    say(session, "你好")
    listen(session, 1)
    session.close()
    conversation = weakref.ref(session.conversation)
    del session
    wait_until(lambda: conversation() is None)
    assert list(files.folder.iterdir()) == []


def test_the_work_of_a_turn_does_not_grow_with_the_conversation(session: Session):
    sizes, calls = [], []
    for _ in range(60):
        with counted_calls() as counted:
            for _ in session.answer(None, "你好"):
                size = len(chat_value(session, session.turns[-1:]))
        sizes.append(size)
        calls.append(counted[0])
    assert max(sizes[2:]) - min(sizes[2:]) < 20
    assert calls[-1] <= calls[5] + 20, "one call a past turn would be 55 more"


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """How many functions this thread calls, and generators it resumes, in a list of one."""
    counted = [0]

    def count(_frame, event: str, _argument) -> None:
        counted[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)
