"""A visitor's conversation on the page, without a browser and with a model that costs nothing."""

from __future__ import annotations

import base64
import dataclasses
import errno
import gc
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_model import FakeModel, FakeTurn

from models.audio import AudioClip
from models.errors import UserError
from page.chat import chat_value
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.listener import Listener
from page.session import Session
from page.sessions import Sessions
from page.turn import ShownTurn

LIMITS = Limits(
    wait_seconds=2,
    silent_seconds=2,
    linger_seconds=0.2,
    idle_seconds=0.6,
    max_sessions=3,
    max_reply_seconds=30,
    max_audio_seconds=30,
)
RATE = 16_000
NewSession = Callable[[], Session]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, LIMITS)


@pytest.fixture
def new_session(model: FakeModel, files: Files) -> Iterator[NewSession]:
    sessions = []

    def new_session() -> Session:
        limiter = Limiter(LIMITS.max_replies, LIMITS.wait_seconds)
        sessions.append(Session(f"v{len(sessions)}", model, files, limiter, LIMITS))
        return sessions[-1]

    yield new_session
    for session in sessions:
        session.close()
    assert list(files.folder.iterdir()) == []


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session()


def speech(seconds: float, amplitude: float = 0.2) -> torch.Tensor:
    noise = torch.rand(int(seconds * RATE), generator=torch.Generator().manual_seed(0)) * 2 - 1
    pauses = torch.arange(len(noise)) % 4000 > 2500
    return noise.masked_fill(pauses, 0) * amplitude


def recording(session: Session, seconds: float = 1.0, amplitude: float = 0.2) -> str:
    """An upload of the session's visitor."""
    path = session.files.new_folder() / "speech.wav"
    soundfile.write(path, speech(seconds, amplitude).numpy(), RATE)
    session.files.add(path, session.owner)
    return str(path)


def listen(session: Session, *seconds: float, amplitude: float = 0.2) -> None:
    session.hearing.listen()
    for piece in speech(sum(seconds), amplitude).split([int(RATE * each) for each in seconds]):
        session.hearing.hear(AudioClip(piece, RATE))


def say(session: Session, text: str, **options) -> ShownTurn:
    *_, turn = session.answer(None, text, **options)
    return turn


def read_stream(turn: ShownTurn, value: str) -> tuple[np.ndarray, bool]:
    """What the page's player makes of a value: the samples, and whether they are all."""
    name, *lines = value.splitlines()
    assert name == f"{turn.name} {turn.sample_rate}"
    pieces = [line.split() for line in lines if not line.startswith("END")]
    raw = b"".join(base64.b64decode(data) for _, data in pieces)
    return np.frombuffer(raw, "<i2"), lines[-1].startswith("END")


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_the_players_samples_are_those_of_the_wav(session: Session, model: FakeModel):
    model.num_frames = 14
    values = []
    for turn in session.answer(None, "你好"):
        values.append(turn.stream)
        ending = turn.stream_end(turn.num_pieces)
    wave = soundfile.read(turn.reply_audio, dtype="int16")[0]
    np.testing.assert_array_equal(read_stream(turn, values[-1])[0], wave)
    tail, ended = read_stream(turn, ending)
    np.testing.assert_array_equal(tail, wave[-len(tail) :])
    assert ended
    for before, after in zip(values, values[1:]):
        assert after.startswith(before)  # so only what is new travels


def test_sounds_that_a_file_holds_leave_the_memory(session: Session):
    say(session, "你好")
    (turn,) = session.turns
    assert not turn.has_sound and turn.stream == ""
    assert Path(turn.reply_audio).is_file()


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
    model.on_frame = lambda frame: None
    say(session, "你好")


def test_it_listens_while_the_user_speaks(session: Session):
    listen(session, 0.5, 0.5, 0.25, 0.75)
    *_, turn = session.answer_heard()
    heard, rate = soundfile.read(turn.audio)
    np.testing.assert_allclose(heard, speech(2), atol=1e-4)
    assert (rate, turn.audio_seconds) == (RATE, pytest.approx(2, abs=0.05))
    assert session.conversation.heard[0][1] == pytest.approx(2, abs=0.05)


def test_a_microphone_that_gave_nothing(session: Session):
    assert list(session.answer_heard()) == []  # it was never opened
    session.hearing.listen()
    with pytest.raises(UserError) as told:
        list(session.answer_heard())
    assert told.value.code == "error_nothing_heard"
    assert session.hearing.hear(AudioClip(speech(1), RATE)) is None  # late: nobody listens
    say(session, "你好")


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
    session.hearing.listen()
    left: list[float] = []

    def is_full() -> bool:
        left.append(session.hearing.hear(AudioClip(speech(1), RATE)))
        return left[-1] < 1

    wait_until(is_full)  # the model has room for 20 s
    for _ in range(3):  # said beyond it, before the page has heard of the end
        session.hearing.hear(AudioClip(speech(1), RATE))
    *_, turn = session.answer_heard()
    assert turn.reply and 19 <= turn.audio_seconds <= 20
    assert sorted(left, reverse=True) == left


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


def test_a_cancelled_listener_reads_no_more(session: Session, model: FakeModel):
    gate, pushed = threading.Event(), []

    def hold(turn: FakeTurn) -> None:
        pushed.append(turn)
        gate.wait(5)

    model.on_push = hold
    session.prepare(recording(session, 20))
    listen_later = [speech(1)] * 5
    wait_until(lambda: len(pushed) == 1)
    session.hearing.listen()
    for piece in listen_later:
        session.hearing.hear(AudioClip(piece, RATE))
    session.interrupt()
    gate.set()
    assert session.wait()
    assert len(pushed) == 1
    assert not pushed[0].is_open
    assert session.conversation.heard == []


def test_listening_that_is_interrupted_is_forgotten(session: Session):
    listen(session, 1)
    say(session, "你好")
    assert [text for text, _ in session.conversation.heard] == ["你好"]
    assert list(session.answer_heard()) == []


def test_a_microphone_left_open_is_closed(session: Session):
    listen(session, 1)
    wait_until(lambda: session.is_busy)
    wait_until(lambda: not session.is_busy)
    with pytest.raises(UserError) as told:
        list(session.answer_heard())
    assert told.value.code == "error_microphone_silent"


def test_a_turn_that_does_not_end_makes_no_other_wait_for_ever(session: Session, model: FakeModel):
    stuck = threading.Event()
    model.on_frame = lambda frame: stuck.wait(20)
    with ThreadPoolExecutor(1) as pool:
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
    with pytest.raises(UserError) as told:
        say(sessions[1], "你好")
    assert told.value.code == "error_busy"
    turns.close()
    say(sessions[1], "你好")


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
    monkeypatch.setattr("page.session.PATIENT_SECONDS", 0.5)
    monkeypatch.setattr("page.session.NOTICE_SECONDS", 0.2)
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


def test_a_closed_session_is_freed(model: FakeModel, files: Files):
    session = Session("v", model, files, Limiter(1, 1), LIMITS)
    say(session, "你好")
    listen(session, 1)
    session.close()
    conversation = weakref.ref(session.conversation)
    del session
    wait_until(lambda: gc.collect() >= 0 and conversation() is None)
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


class TestSessions:
    @pytest.fixture
    def sessions(self, model: FakeModel, files: Files) -> Iterator[Sessions]:
        sessions = Sessions(model, files, LIMITS)
        yield sessions
        sessions.close()

    def test_the_one_away_longest_makes_room(self, sessions: Sessions):
        for visitor in "abc":
            sessions.open(visitor)
        sessions.connect("a", True)
        sessions.open("b")
        sessions.open("d")
        assert [bool(sessions.get(visitor)) for visitor in "abcd"] == [True, True, False, True]

    def test_too_many_in_use_are_told(self, sessions: Sessions):
        for visitor in "abc":
            sessions.open(visitor)
            sessions.connect(visitor, True)
        with pytest.raises(UserError) as told:
            sessions.open("d")
        assert told.value.code == "error_too_many_users"
        sessions.connect("a", False)
        sessions.open("d")

    def test_the_idle_longest_makes_room_if_nobody_is_away(self, model: FakeModel, files: Files):
        sessions = Sessions(model, files, dataclasses.replace(LIMITS, idle_seconds=1800))
        for visitor, idle in (("a", 70), ("b", 80), ("c", 90)):
            sessions.connect(visitor, True)
            sessions.open(visitor).hearing.last_used -= idle
        sessions.get("c")._floor.take(threading.Event(), 1)  # it speaks
        sessions.open("d")
        assert [bool(sessions.get(visitor)) for visitor in "abcd"] == [True, False, True, True]
        sessions.get("c")._floor.give()
        sessions.close()

    def test_who_leaves_is_interrupted_and_ends_later(self, sessions: Sessions, model: FakeModel):
        model.num_frames, model.frame_seconds = 1000, 0.01
        for _ in range(2):
            sessions.connect("a", True)
        session = sessions.open("a")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: list(session.answer(None, "你好")))
            wait_until(lambda: bool(session.turns and session.turns[0].last))
            sessions.connect("a", False)
            time.sleep(0.1)
            assert session.is_busy  # another tab's stream is still open
            sessions.connect("a", False)
            running.result(5)
        assert session.turns[0].stopped and sessions.get("a") is session
        wait_until(lambda: sessions.get("a") is None)

    def test_an_idle_one_ends_though_connected(self, sessions: Sessions):
        sessions.connect("a", True)
        sessions.open("a")
        time.sleep(0.3)
        assert sessions.get("a")
        wait_until(lambda: sessions.get("a") is None)
