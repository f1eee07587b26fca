"""What a session hears: a microphone, recordings, silence, and what ends it."""

from __future__ import annotations

import dataclasses
import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_model import FakeModel, FakeTurn
from visiting import (
    LIMITS,
    RATE,
    listen,
    recording,
    say,
    speech,
    wait_until,
)

from models.audio import AudioClip
from models.errors import UserError
from page.files import Files
from page.hearing import Hearing
from page.limiter import Limiter
from page.listener import Listener
from page.once_more import again
from page.session import Session


def test_it_listens_while_the_user_speaks(session: Session):
    listen(session, 0.5, 0.5, 0.25, 0.75)
    *_, turn = session.answer_heard()
    heard, rate = soundfile.read(turn.audio)
    np.testing.assert_allclose(heard, speech(2), atol=1e-4)
    assert (rate, turn.audio_seconds) == (RATE, pytest.approx(2, abs=0.05))
    assert session.conversation.heard[0][1] == pytest.approx(2, abs=0.05)


def test_a_microphone_that_gave_nothing(session: Session):
    assert list(session.answer_heard()) == []  # it was never opened
    listen(session)
    with pytest.raises(UserError) as told:
        list(session.answer_heard())
    assert told.value.code == "error_nothing_heard"
    assert session.hearing.hear(AudioClip(speech(1), RATE)) is None  # late: nobody listens
    say(session, "你好")


def test_less_than_half_a_second_is_told_and_no_turn_is_kept(session: Session):
    path = recording(session, 0.1)
    for prepare in (lambda: None, lambda: session.prepare(path), lambda: listen(session, 0.1)):
        prepare()
        heard = session.hearing.is_open
        with pytest.raises(UserError) as told:
            list(session.answer_heard() if heard else session.answer(path, ""))
        assert told.value.code == "error_nothing_heard"
    assert session.turns == [] and not session.is_busy
    assert len(list(session.answer(recording(session, 0.5), ""))) > 1


@pytest.mark.parametrize("amplitude", [0, 1e-5])
def test_silence_is_told_and_no_turn_is_kept(session: Session, amplitude: float):
    path = recording(session, amplitude=amplitude)
    with pytest.raises(UserError) as told:
        list(session.answer(path, ""))
    assert told.value.code == "error_silent"
    session.prepare(path)
    wait_until(lambda: not session.is_busy)
    with pytest.raises(UserError) as told:
        list(session.answer(path, ""))
    assert told.value.code == "error_silent"
    listen(session, 1, amplitude=amplitude)
    with pytest.raises(UserError) as told:
        list(session.answer_heard())
    assert told.value.code == "error_silent"
    assert session.turns == session.conversation.heard == []
    say(session, "你好")


def test_quiet_speech_is_raised_whatever_the_way_in(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    peaks: list[float] = []
    push = FakeTurn.push

    def watch(turn: FakeTurn, samples: torch.Tensor) -> None:
        peaks.append(float(samples.abs().max()) if len(samples) else 0)
        push(turn, samples)

    def live(amplitude: float) -> None:
        listen(session, 1, 1, amplitude=amplitude)
        list(session.answer_heard())

    monkeypatch.setattr(FakeTurn, "push", watch)
    for amplitude, low, high in ((0.002, 0.008, 1.0), (0.2, 0.196, 0.204)):
        path, other = (recording(session, 2, amplitude) for _ in range(2))
        for way in (
            lambda path=path: list(session.answer(path, "")),
            lambda amplitude=amplitude: live(amplitude),
            lambda path=other: session.prepare(path),
        ):
            peaks.clear()
            way()
            wait_until(lambda low=low: max(peaks, default=0) > low)
            assert max(peaks) <= high


def test_live_talk_is_answered_when_its_room_ends(session: Session):
    session.listen()
    left: list[float] = []

    def is_full() -> bool:
        left.append(session.hearing.hear(AudioClip(speech(1), RATE)))
        return left[-1] < 1

    wait_until(is_full)  # the model has room for 20 s
    for _ in range(3):  # said beyond it, before the page has heard of the end
        session.hearing.hear(AudioClip(speech(1), RATE))
    session.hearing.end_speech()
    *_, turn = session.answer_heard()
    assert turn.reply and 19 <= turn.audio_seconds <= 20
    assert sorted(left, reverse=True) == left


def test_a_recording_is_not_read_before_it_is_sent_if_its_file_is_too_large(
    model: FakeModel, files: Files
):
    limits, pushed = dataclasses.replace(LIMITS, max_upload_bytes=1000), []
    session, model.on_push = Session("v", model, files, Limiter(1, 1), limits), pushed.append
    path = recording(session)
    session.prepare(path)
    wait_until(lambda: not session.is_prepared(path))
    assert pushed == []
    session.close()


def test_a_recording_is_read_before_it_is_sent(session: Session, model: FakeModel):
    pushed = []
    model.on_push = pushed.append
    session.prepare(recording(session))
    path = recording(session, 2)
    session.prepare(path)
    wait_until(lambda: any(turn.seconds_heard == pytest.approx(2) for turn in pushed))
    assert session.is_prepared(path, "") and not session.is_prepared(path, "你好")
    num_pushed = len(pushed)
    list(session.answer(path, ""))
    assert len(pushed) == num_pushed
    session.prepare(path)  # it was sent already
    assert not session.is_prepared(path, "")
    session.prepare(recording(session))
    say(session, "你好")  # not the recording
    assert [text for text, _ in session.conversation.heard] == ["", "你好"]


@pytest.mark.parametrize("cause", ["it was sent late", "a long reply was under way"])
def test_a_recording_that_waited_too_long_is_read_again(model: FakeModel, files: Files, cause: str):
    limits = dataclasses.replace(LIMITS, upload_seconds=0.2, wait_seconds=0.1, max_reply_seconds=1)
    session = Session("v", model, files, Limiter(1, 1), limits)
    path = recording(session)
    is_under_way = cause == "a long reply was under way"
    if is_under_way:
        session.floor.take(threading.Event(), 1)
    session.prepare(path)
    wait_until(lambda: not session.is_prepared(path))
    if is_under_way:
        session.floor.give()
    *_, turn = session.answer(path, "")
    assert turn.reply and session.conversation.heard[0][1] == pytest.approx(1, abs=0.05)
    session.close()


@pytest.mark.parametrize("way", ["prepare", "listen"])
def test_what_is_said_during_another_reply_is_heard_where_that_leads(session: Session, way: str):
    turn, path = say(session, "你好"), recording(session)
    replies = again(session, turn.name)
    next(replies), next(replies)
    if way == "prepare":
        session.prepare(path)
    else:
        listen(session, 1)
    list(replies)
    list(session.answer(path, "") if way == "prepare" else session.answer_heard())
    assert [text for text, _ in session.conversation.heard] == ["你好", ""]
    assert [bool(each.again_of) for each in session.turns] == [False, True, False]


def test_a_cancelled_listener_reads_no_more(session: Session, model: FakeModel):
    gate, pushed = threading.Event(), []

    def hold(turn: FakeTurn) -> None:
        pushed.append(turn)
        gate.wait(5)

    model.on_push = hold
    session.prepare(recording(session, 20))
    listen_later = [speech(1)] * 5
    wait_until(lambda: len(pushed) == 1)
    session.listen()
    for piece in listen_later:
        session.hearing.hear(AudioClip(piece, RATE))
    session.interrupt()
    gate.set()
    assert session.wait()
    assert len(pushed) == 1
    assert not pushed[0].is_open
    assert session.conversation.heard == []


@pytest.mark.parametrize("way", ["prepare", "listen"])
def test_of_two_that_begin_at_once_none_is_lost(
    session: Session, monkeypatch: pytest.MonkeyPatch, way: str
):
    """They meet where each ends the one before it."""
    listeners: list[Listener] = []
    together = threading.Barrier(2)
    new_listener, cancel = Hearing._new_listener, Listener.cancel

    def watched(*given: object) -> Listener:
        listeners.append(new_listener(*given))
        return listeners[-1]

    def cancel_together(listener: Listener) -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait(5)
        cancel(listener)

    def begin(path: str) -> None:
        if way == "prepare":
            session.prepare(path)
        else:
            session.listen()

    monkeypatch.setattr(Hearing, "_new_listener", watched)
    first, *others = (recording(session) for _ in range(3))
    begin(first)
    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(Listener, "cancel", cancel_together)
        list(pool.map(begin, others))
    session.interrupt()
    assert [listener.stop.is_set() for listener in listeners] == [True] * 3
    say(session, "你好")


def test_listening_that_is_interrupted_is_forgotten(session: Session):
    listen(session, 1)
    say(session, "你好")
    assert [text for text, _ in session.conversation.heard] == ["你好"]
    assert list(session.answer_heard()) == []


def test_who_goes_on_speaking_is_answered_once(session: Session, monkeypatch: pytest.MonkeyPatch):
    """Just before the answer begins: all is one turn. As it begins: they are two."""
    settle, finish = Hearing.settle, FakeTurn.finish

    def go_on() -> None:
        monkeypatch.undo()
        listen(session, 2)

    def settle_late(hearing: Hearing, stop: threading.Event) -> bool:
        go_on()
        return settle(hearing, stop)

    def finish_late(turn: FakeTurn) -> None:
        go_on()
        finish(turn)

    for where, late, told in (
        (Hearing, settle_late, [3]),
        (FakeTurn, finish_late, [3, 1, 2]),
    ):
        monkeypatch.setattr(where, late.__name__.removesuffix("_late"), late)
        listen(session, 1)
        list(session.answer_heard())
        list(session.answer_heard())
        assert [turn.audio_seconds for turn in session.turns] == pytest.approx(told, abs=0.05)


@pytest.mark.parametrize("end", ["silence", "it is closed", "it sends nothing", "a written turn"])
def test_what_was_said_and_is_over_is_not_said_again(session: Session, end: str):
    if end == "silence":
        listen(session, 1, amplitude=0)
        with pytest.raises(UserError):
            list(session.answer_heard())
    else:
        session.listen()
        session.hearing.hear(AudioClip(speech(1), RATE))
    if end == "it is closed":
        session.hearing.stop_listening()
    if end == "it sends nothing":
        wait_until(lambda: session.is_busy)
        wait_until(lambda: not session.is_busy)
    if end == "a written turn":
        say(session, "你好")
    listen(session, 2)
    *_, turn = session.answer_heard()
    assert turn.audio_seconds == pytest.approx(2, abs=0.05)


def test_what_waits_for_an_answer_takes_no_memory_without_end(model: FakeModel, files: Files):
    limits = dataclasses.replace(LIMITS, max_audio_seconds=3)
    session = Session("v", model, files, Limiter(1, 1), limits)
    for _ in range(4):
        listen(session, 1, 1)
    assert sum(clip.seconds for clip in session.hearing._said) <= 4
    *_, turn = session.answer_heard()
    assert turn.audio_seconds == pytest.approx(3, abs=0.05)
    session.close()


def test_a_microphone_left_open_is_closed(session: Session):
    session.listen()
    session.hearing.hear(AudioClip(speech(1), RATE))
    wait_until(lambda: session.is_busy)
    wait_until(lambda: not session.is_busy)
    session.hearing.end_speech()
    with pytest.raises(UserError) as told:
        list(session.answer_heard())
    assert told.value.code == "error_microphone_silent"


def _full(listener: Listener, path: Path) -> None:
    path.write_bytes(b"RIFF")
    raise OSError(errno.ENOSPC, "no space")


def test_a_full_disk_does_not_keep_the_floor(
    session: Session, model: FakeModel, monkeypatch: pytest.MonkeyPatch
):
    heard = []
    model.on_push = heard.append
    listen(session, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Listener, "write", _full)
        with pytest.raises(UserError, match="no room") as refusal:
            list(session.answer_heard())
    assert refusal.value.code == "error_no_room"
    assert not session.is_busy and not heard[-1].is_open
    assert list(session.files.folder.iterdir()) == []
    say(session, "你好")


def test_speech_that_a_busy_server_does_not_answer_is_forgotten(
    model: FakeModel, files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("page.limiter.PATIENT_SECONDS", 0.5)
    monkeypatch.setattr("page.limiter.NOTICE_SECONDS", 0.2)
    limiter, heard = Limiter(1, 0.2), []
    model.on_push = heard.append
    sessions = [Session(f"v{i}", model, files, limiter, LIMITS) for i in range(2)]
    turns = sessions[0].answer(None, "你好")
    next(turns)
    for live in (True, False):
        path = recording(sessions[1])
        before = set(files.folder.iterdir())
        if live:
            listen(sessions[1], 1)
        else:
            sessions[1].prepare(path)
        with pytest.raises(UserError) as told:
            list(sessions[1].answer_heard() if live else sessions[1].answer(path, ""))
        assert told.value.code == "error_busy"
        assert not heard[-1].is_open and not sessions[1].is_busy
        assert set(files.folder.iterdir()) == before
    turns.close()
    say(sessions[1], "你好")
    assert len(sessions[1].conversation.heard) == 1


def test_a_reply_that_waits_for_its_slot_ends_at_once_when_it_is_stopped(
    model: FakeModel, files: Files
):
    limiter = Limiter(1, 5)
    waiting = Session("waiting", model, files, limiter, LIMITS)
    with limiter.reply(), ThreadPoolExecutor() as pool:
        answer = pool.submit(lambda: list(waiting.answer(None, "你好")))
        wait_until(lambda: waiting.is_busy)
        waiting.interrupt()
        assert answer.result(timeout=1) == []
    waiting.close()
