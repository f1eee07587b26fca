"""Hands-free talk on the server: begin and end of speech, and what is handed to the listener."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FakeConversation, FakeModel
from strangers import wait_until

from models.audio import AudioClip, load_audio, resample
from models.errors import UserError
from models.voice_activity import SILENCE_SECONDS, SpeechDetector
from page.ears import Ears, Heard, read_piece
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.once_more import again
from page.session import Session
from page.sessions import Sessions

EXAMPLES = Path(__file__).parent.parent / "examples"
RATE = 24_000
LIMITS = Limits(wait_seconds=0.3, silent_seconds=30, max_microphones=3)


def silence(seconds: float) -> torch.Tensor:
    return torch.zeros(int(seconds * RATE))


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return resample(load_audio(EXAMPLES / "2-job.wav"), RATE).flatten()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    monkeypatch.setattr("page.limiter.NOTICE_SECONDS", 0.2)
    return FakeModel()


@pytest.fixture
def sessions(model: FakeModel, tmp_path: Path) -> Iterator[Sessions]:
    sessions = Sessions(model, Files(tmp_path, LIMITS), LIMITS)
    yield sessions
    sessions.close()


@pytest.fixture
def ears(sessions: Sessions) -> Ears:
    ears = Ears(sessions, LIMITS)
    ears.open("v")
    return ears


def say(ears: Ears, wave: torch.Tensor, first: int = 0, echo: bool = False) -> list[Heard]:
    pieces = wave.split(RATE // 10)
    return [
        ears.hear("v", first + number, AudioClip(piece, RATE), echo)
        for number, piece in enumerate(pieces)
    ]


def changes(heard: list[Heard]) -> list[str]:
    return [each.change for each in heard if each.change]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_speech_begins_and_ends_once(rate: int, speech: torch.Tensor):
    wave = torch.cat([silence(1), speech, silence(1.5)])
    wave = resample(AudioClip(wave, RATE), rate).flatten()
    detector, told = SpeechDetector(rate), []
    for number, piece in enumerate(wave.split(rate // 10)):
        told += [(change, number / 10) for change in detector.push(piece)]
    ((begun, first), (ended, last)) = told
    assert begun and not ended
    assert 1 <= first < 1.6
    end = 1 + len(speech) / RATE
    assert end - 0.6 < last - SILENCE_SECONDS < end + 0.3


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_it_is_known_how_long_a_silence_will_end_speech(rate: int, speech: torch.Tensor):
    wave = resample(AudioClip(torch.cat([silence(0.5), speech]), RATE), rate).flatten()
    detector = SpeechDetector(rate)
    assert detector.seconds_to_end is None
    detector.push(wave)
    detector.push(torch.zeros(rate // 4))  # its last speech is judged
    left = round(detector.seconds_to_end * rate)
    assert 0.1 * rate < left < SILENCE_SECONDS * rate
    assert detector.push(torch.zeros(left - 1)) == []
    assert detector.push(torch.zeros(1)) == [False]
    assert detector.seconds_to_end is None


def test_how_a_stream_is_cut_does_not_matter(speech: torch.Tensor):
    wave = torch.cat([silence(0.5), speech, silence(1)])
    told = []
    for size in (RATE // 50, RATE // 3, len(wave)):
        detector = SpeechDetector(RATE)
        told.append([change for piece in wave.split(size) for change in detector.push(piece)])
    assert told[0] == told[1] == told[2] == [True, False]


@pytest.mark.parametrize("kind", ["silence", "noise", "hum"])
def test_what_is_no_speech_begins_nothing(kind: str):
    random, time_axis = np.random.default_rng(0), np.arange(3 * RATE) / RATE
    wave = {
        "silence": np.zeros(3 * RATE),
        "noise": 0.05 * random.standard_normal(3 * RATE),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time_axis),
    }[kind]
    assert SpeechDetector(RATE).push(torch.from_numpy(wave).float()) == []


def test_a_short_sound_does_not_end_a_reply_that_is_heard(speech: torch.Tensor):
    short = torch.cat([silence(1), speech[RATE // 2 : RATE // 2 + RATE // 5], silence(1)])
    assert SpeechDetector(RATE).push(short, echo=True) == []
    assert SpeechDetector(RATE).push(torch.cat([silence(1), speech]), echo=True) == [True]


def test_loading_leaves_the_number_of_threads_as_it_was():
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    try:
        SpeechDetector(RATE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_two_turns_are_heard_each_with_its_beginning(
    ears: Ears, sessions: Sessions, speech: torch.Tensor
):
    wave = torch.cat([silence(1), speech, silence(1)])
    number = 0
    for turn in range(2):
        heard = say(ears, wave, number)
        number += len(heard)
        assert changes(heard) == ["speech", "ended"]
        session = sessions.get("v")
        *_, shown = session.answer_heard()
        assert shown.reply and len(session.turns) == turn + 1
        seconds = len(speech) / RATE
        assert seconds < shown.audio_seconds < seconds + 1 + SILENCE_SECONDS
    heard = [length for _, length in session.conversation.heard]
    assert len(heard) == 2
    assert all(seconds <= s < seconds + 1 + SILENCE_SECONDS for s in heard)


def test_what_is_shown_goes_with_what_is_said(
    ears: Ears, sessions: Sessions, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    begun, begin_turn = [], FakeConversation.begin_turn

    def begin(self, text=None, sample_rate=None, **shown):
        begun.append(shown)
        return begin_turn(self, text, sample_rate, **shown)

    monkeypatch.setattr(FakeConversation, "begin_turn", begin)
    picture = sessions.files.make("a.png", lambda path: path.write_bytes(b"png"), "v")
    wave = torch.cat([silence(0.5), speech, silence(1)])
    pieces, number = wave.split(RATE // 10), 0
    for shown in ({"image": picture}, {}):
        for piece in pieces:
            ears.hear("v", number, AudioClip(piece, RATE), False, shown)
            number += 1
        list(sessions.get("v").answer_heard())
    first, second = sessions.get("v").turns
    assert begun == [{"image": picture}, {}]
    assert (first.image, second.image) == (picture, None)
    *_, repeated = again(sessions.get("v"), second.name)
    assert repeated.reply and repeated.image is None


def test_silence_makes_no_session(ears: Ears, sessions: Sessions):
    assert changes(say(ears, silence(3))) == []
    assert len(sessions) == 0


def test_a_piece_that_comes_twice_is_heard_once(ears: Ears, speech: torch.Tensor):
    clip = AudioClip(torch.cat([silence(0.5), speech[:RATE]]), RATE)
    assert ears.hear("v", 0, clip, False).change == "speech"
    assert ears.hear("v", 0, clip, False).change == "speech"
    heard = ears.hear("v", 1, AudioClip(silence(0.1), RATE), False)
    assert heard.change is None and 0.4 < heard.seconds_to_end < 0.7
    left = silence(heard.seconds_to_end + 1 / RATE)
    assert ears.hear("v", 2, AudioClip(left, RATE), False).change == "ended"


def test_speaking_over_a_reply_ends_it(
    ears: Ears, sessions: Sessions, model: FakeModel, speech: torch.Tensor
):
    model.num_frames, model.frame_seconds = 1000, 0.01
    session = sessions.open("v")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: list(session.answer(None, "你好")))
        wait_until(lambda: session.turns and session.turns[0].last)
        say(ears, torch.cat([silence(0.5), speech, silence(1)]), echo=True)
        running.result(10)
    assert session.turns[0].stopped
    model.num_frames = 3
    *_, turn = session.answer_heard()
    assert turn.reply and turn.audio_seconds > len(speech) / RATE


def test_a_long_turn_is_answered_when_its_room_ends(
    ears: Ears, sessions: Sessions, model: FakeModel, speech: torch.Tensor
):
    model.max_input_seconds = 8
    session = sessions.open("v")
    told = []
    for number in range(60):
        heard = ears.hear("v", number, AudioClip(speech[RATE : 2 * RATE], RATE), False)
        told.append(heard)
        if heard.change == "ended":
            break
        listener = session.hearing._listener
        if listener:  # it tells how much room is left
            wait_until(listener._pieces.empty)
    *_, turn = session.answer_heard()
    assert 6 < turn.audio_seconds <= 8
    assert min(each.seconds_left for each in told if each.seconds_left is not None) < 3


def test_what_waits_to_be_asked_for_comes_before_what_is_said_next(
    ears: Ears, sessions: Sessions, speech: torch.Tensor
):
    """All who make replies are busy, so the page's events wait in Gradio's queue."""
    wave = torch.cat([silence(1), speech, silence(1)])
    half = len(wave) // 2
    number = len(say(ears, wave))
    number += len(say(ears, wave[:half], number))
    session = sessions.get("v")
    assert list(session.answer_heard()) == []  # the user speaks again
    assert changes(say(ears, wave[half:], number)) == ["ended"]
    *_, turn = session.answer_heard()
    assert turn.reply and 2 * len(speech) < turn.audio_seconds * RATE < 2 * len(wave)
    assert list(session.answer_heard()) == []
    assert len(session.turns) == 1


def test_what_is_still_read_comes_before_what_is_said_next(
    ears: Ears, sessions: Sessions, model: FakeModel, speech: torch.Tensor
):
    wave = torch.cat([silence(1), speech, silence(1)])
    free = threading.Event()
    model.on_push = lambda turn: free.wait(20)
    number = len(say(ears, wave))
    session = sessions.get("v")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: list(session.answer_heard()))
        wait_until(lambda: session.hearing._listener is None)
        say(ears, wave, number)
        free.set()
        assert first.result(20) == []
    *_, turn = session.answer_heard()
    assert turn.reply and 2 * len(speech) < turn.audio_seconds * RATE < 2 * len(wave)
    assert len(session.turns) == 1


@pytest.mark.parametrize(("patient_seconds", "code"), [(120, None), (0.2, "error_busy")])
def test_what_waits_to_be_asked_for_waits_longer_than_a_silent_microphone(
    model: FakeModel, tmp_path: Path, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch,
    patient_seconds: float, code: str | None,
):  # fmt: skip
    monkeypatch.setattr("page.listener.PATIENT_SECONDS", patient_seconds)
    limits = dataclasses.replace(LIMITS, silent_seconds=0.1)
    sessions = Sessions(model, Files(tmp_path, limits), limits)
    ears = Ears(sessions, limits)
    ears.open("v")
    say(ears, torch.cat([silence(1), speech, silence(1)]))
    session = sessions.get("v")
    if code:
        wait_until(lambda: not session.is_busy)
        with pytest.raises(UserError) as told:
            list(session.answer_heard())
        assert told.value.code == code
    else:
        time.sleep(0.3)
        *_, turn = session.answer_heard()
        assert turn.reply
    sessions.close()


def test_what_is_said_while_the_server_is_busy_is_kept_and_answered(
    model: FakeModel, tmp_path: Path
):
    limiter, files = Limiter(1, 0.2), Files(tmp_path, LIMITS)
    busy, session = (Session(name, model, files, limiter, LIMITS) for name in "ab")
    reply = busy.answer(None, "你好")
    next(reply)
    session.listen()
    tone = 0.2 * torch.sin(torch.arange(2 * RATE) * 0.05)
    tone[torch.arange(2 * RATE) % 6000 > 4000] = 0
    session.hearing.hear(AudioClip(tone, RATE))
    session.hearing.end_speech()
    steps, told = session.answer_heard(), []

    def answer() -> None:
        told.extend(steps)

    thread = threading.Thread(target=answer)
    thread.start()
    wait_until(lambda: None in told)  # it is told that it waits
    reply.close()
    thread.join(20)
    assert told[-1].reply and told[-1].audio_seconds == pytest.approx(2, abs=0.1)
    assert len(session.turns) == 1


def test_what_waits_for_an_answer_comes_before_what_is_said_next(model: FakeModel, tmp_path: Path):
    limiter, files = Limiter(1, 0.2), Files(tmp_path, LIMITS)
    busy, session = (Session(name, model, files, limiter, LIMITS) for name in "ab")
    reply = busy.answer(None, "你好")
    next(reply)
    tone = 0.2 * torch.sin(torch.arange(RATE) * 0.05)
    tone[torch.arange(RATE) % 6000 > 4000] = 0
    session.listen()
    session.hearing.hear(AudioClip(tone, RATE))
    session.hearing.end_speech()
    told: list = []
    thread = threading.Thread(target=lambda: told.extend(session.answer_heard()))
    thread.start()
    wait_until(lambda: None in told)
    session.listen()
    session.hearing.hear(AudioClip(tone, RATE))
    session.hearing.end_speech()
    thread.join(20)
    assert session.turns == []
    reply.close()
    *_, turn = session.answer_heard()
    assert turn.audio_seconds == pytest.approx(2, abs=0.1)


def test_only_so_many_microphones_are_open(sessions: Sessions):
    ears = Ears(sessions, LIMITS)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda name: _opened(ears, name), map(str, range(8))))
    assert sorted(told) == ["error_busy"] * 5 + ["open"] * 3
    assert _opened(ears, str(told.index("open"))) == "open"  # again
    ears.close(str(told.index("open")))
    assert _opened(ears, "x") == "open"
    ears = Ears(sessions, dataclasses.replace(LIMITS, silent_seconds=0.05))
    assert [_opened(ears, name) for name in "abcd"][-1] == "error_busy"
    time.sleep(0.1)  # they send nothing
    assert _opened(ears, "e") == "open" and len(ears) == 1


def _opened(ears: Ears, name: str) -> str:
    try:
        ears.open(name)
    except UserError as error:
        return error.code
    return "open"


def test_a_piece_is_read_as_it_was_sent():
    clip = read_piece("AAD/fwCA", 16_000)
    assert clip.sample_rate == 16_000
    torch.testing.assert_close(clip.samples, torch.tensor([0, 1.0, -1]), atol=1e-4, rtol=0)
