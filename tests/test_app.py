"""The page: its sessions, and what a client of its API gets."""

import base64
import gc
import json
import re
import time
import urllib.request
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import app
from models.audio import load_audio
from models.contract import SpeechModel
from models.load import load_model
from models.westlake.dual_ar import SamplingConfig
from page import texts
from page.session import Session, ShownTurn

NUM_FRAMES = 6


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def url(model: SpeechModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, serving; its replies are one second long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        demo = app.build_demo(model, reply_seconds=1)
        yield demo.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)[1]
        demo.close()


@pytest.fixture
def session(model: SpeechModel, tmp_path: Path) -> Iterator[Session]:
    session = Session(model, str(tmp_path))
    yield session
    session.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a tone."""
    path = tmp_path_factory.mktemp("recording") / "tone.wav"
    tone = 8000 * np.sin(np.arange(8000) * 0.1)
    soundfile.write(path, tone.astype(np.int16), 16000)
    return path


def read_stream(turn: ShownTurn, value: str) -> tuple[np.ndarray, bool]:
    """What the page's player makes of a value: the samples, and whether they are all."""
    name, *lines = value.splitlines()
    assert name == turn.name
    pieces = [line.split() for line in lines if not line.startswith("END")]
    raw = b"".join(base64.b64decode(data) for _, data in pieces)
    return np.frombuffer(raw, "<i2"), lines[-1].startswith("END")


def say(session: Session, text: str, **options) -> ShownTurn:
    *_, turn = session.answer(None, text, max_new_tokens=NUM_FRAMES, **options)
    return turn


def test_a_client_gets_text_and_a_playable_wav(url: str, recording: Path):
    client = Client(url, verbose=False)
    text, wav = client.predict(handle_file(recording), "你好", api_name="/speak")
    info = soundfile.info(wav)
    assert isinstance(text, str)
    assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
    assert info.duration == pytest.approx(1, abs=0.05)


def test_a_client_gets_the_reply_while_it_is_made(url: str):
    outputs = list(Client(url, verbose=False).submit(None, "你好", api_name="/speak"))
    waves = [soundfile.read(wav, dtype="int16")[0] for _, wav in outputs]
    assert len(outputs) > 1
    for (text, _), wave in zip(outputs, waves):
        assert outputs[-1][0].startswith(text)
        np.testing.assert_array_equal(wave, waves[-1][: len(wave)])


def test_a_client_reads_what_is_wrong(url: str, tmp_path: Path):
    client = Client(url, verbose=False)
    with pytest.raises(AppError, match="neither speech nor text"):
        client.predict(None, " ", api_name="/speak")
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.int16), 16000)
    with pytest.raises(AppError, match="no samples"):
        client.predict(handle_file(path), "", api_name="/speak")


def test_two_clients_at_once(url: str):
    def ask(text: str) -> tuple[str, str]:
        return Client(url, verbose=False).predict(None, text, api_name="/speak")

    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(ask, ["最近心情不好", "我想打游戏"]))
    assert all(soundfile.info(wav).duration > 0.9 for _, wav in replies)


def test_no_path_of_the_server_is_opened(url: str, recording: Path):
    file = {"path": str(recording), "meta": {"_type": "gradio.FileData"}}
    request = urllib.request.Request(
        f"{url}gradio_api/call/speak",
        json.dumps({"data": [file, ""]}).encode(),
        {"Content-Type": "application/json"},
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{url}gradio_api/call/speak/{event}").read().decode()
    assert "event: error" in answer
    assert "complete" not in answer


def test_only_speak_is_offered(url: str):
    assert list(Client(url, verbose=False).view_api(return_format="dict")["named_endpoints"]) == [
        "/speak"
    ]


def test_the_players_samples_are_those_of_the_wav(session: Session):
    values = [(turn.stream, turn.ended) for turn in session.answer(None, "你好", max_new_tokens=14)]
    turn = session.turns[-1]
    wave = soundfile.read(turn.reply_audio, dtype="int16")[0]
    np.testing.assert_array_equal(read_stream(turn, turn.stream)[0], wave)
    tail, ended = read_stream(turn, turn.stream_end)
    np.testing.assert_array_equal(tail, wave[-len(tail) :])
    assert ended
    for (before, _), (after, _) in zip(values, values[1:]):
        assert after.startswith(before)  # so only what is new travels


def test_a_conversation_goes_on_and_begins_anew(session: Session):
    say(session, "你好")
    say(session, "我不喜欢现在的工作")
    assert len(session.turns) == len(session.conversation.turns) == 2
    session.reset()
    assert session.turns == session.conversation.turns == list(session.folder.iterdir()) == []


def test_bad_input_changes_nothing(session: Session):
    say(session, "你好")
    columns = session.conversation.columns
    for options in ({"style": "loud"}, {"max_seconds": 0.001, "audio": True}):
        audio = session.turns[0].reply_audio if options.pop("audio", None) else None
        with pytest.raises(ValueError, match="."):
            list(session.answer(audio, "再说一次", **options))
    assert len(session.turns) == 1
    assert session.conversation.columns.equal(columns)
    say(session, "再说一次")


def test_a_stopped_reply_stays_as_far_as_it_was_said(session: Session):
    turns = session.answer(None, "你好")
    while (turn := next(turns)).last is None:
        pass
    session.interrupt()
    turns.close()
    session.wait()
    assert turn.ended
    wave = soundfile.read(turn.reply_audio, dtype="int16")[0]
    assert len(wave) == 1024 * turn.last.total_frames < 1024 * 8
    assert session.conversation.open_turn is None
    say(session, "继续")


def test_a_turn_that_is_stopped_before_its_reply_is_over_too(session: Session):
    turns = session.answer(None, "你好")
    next(turns)
    turns.close()
    assert session.conversation.open_turn is None
    say(session, "继续")


def test_a_new_turn_ends_the_reply_before_it(session: Session):
    def first() -> None:
        list(session.answer(None, "你好"))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        while not session.turns or session.turns[0].last is None:
            assert not running.done()
        say(session, "等一下")
    assert len(session.conversation.turns) == 2


def test_it_listens_while_the_user_speaks(session: Session):
    noise = np.random.default_rng(0).integers(-3000, 3000, 4 * 24_000).astype(np.int16)
    session.listen()
    for piece in np.split(noise, 4):
        session.hear(48_000, piece)
    *_, turn = session.answer_heard(max_new_tokens=NUM_FRAMES)
    heard, rate = soundfile.read(turn.audio, dtype="int16")
    np.testing.assert_array_equal(heard, noise)
    assert rate == 48_000
    assert turn.reply_audio
    assert session.conversation.turns[0].prompt_length > 2 * 21  # two seconds of frames


def test_a_microphone_that_gave_nothing(session: Session):
    assert list(session.answer_heard()) == []  # it was never opened
    session.listen()
    with pytest.raises(ValueError, match="nothing was heard"):
        list(session.answer_heard())
    session.hear(48_000, np.zeros(24_000, np.int16))  # late: nobody listens
    say(session, "你好")


def test_a_recording_read_before_it_is_sent(
    model: SpeechModel, session: Session, tmp_path: Path, recording: Path
):
    options = {"max_new_tokens": NUM_FRAMES, "sampling": SamplingConfig(seed=1)}
    list(session.answer(str(recording), "", **options))
    prepared = Session(model, str(tmp_path))
    prepared.prepare("another recording.wav")
    prepared.prepare(str(recording))
    while prepared.conversation.cache.length == 0:
        time.sleep(0.01)
    list(prepared.answer(str(recording), "", **options))
    assert prepared.conversation.columns.equal(session.conversation.columns)
    prepared.prepare(str(recording))
    say(prepared, "你好")  # not the recording
    assert len(prepared.conversation.turns) == 2
    prepared.close()


def test_listening_that_is_interrupted_is_forgotten(session: Session):
    session.listen()
    session.hear(48_000, np.zeros(24_000, np.int16))
    say(session, "你好")
    assert len(session.conversation.turns) == 1


def test_sessions_share_nothing(model: SpeechModel, session: Session, tmp_path: Path):
    say(session, "你好")
    columns = session.conversation.columns
    other = Session(model, str(tmp_path))
    say(other, "我想全职去打游戏")
    other.close()
    assert session.conversation.columns.equal(columns)
    assert Path(session.turns[0].reply_audio).exists()


def test_a_closed_session_is_freed(model: SpeechModel, tmp_path: Path):
    session = Session(model, str(tmp_path))
    say(session, "你好")
    session.close()
    conversation = weakref.ref(session.conversation)
    del session
    gc.collect()
    assert conversation() is None


def test_both_languages_say_everything():
    assert texts.STRINGS["zh"].keys() == texts.STRINGS["en"].keys()
    assert all(text for words in texts.STRINGS.values() for text in words.values())


def faulty_sounds(folder: Path) -> Iterator[object]:
    """Everything that `load_audio` refuses of what a browser may send."""
    yield folder / "gone.wav"
    for name, content in (("empty.wav", b""), ("text.wav", b"no sound at all")):
        (folder / name).write_bytes(content)
        yield folder / name
    soundfile.write(folder / "cut.wav", np.zeros(4000, np.int16), 16_000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:3000])
    yield folder / "cut.wav"
    yield 16_000, np.zeros(0, np.int16)
    yield 16_000, np.full(100, np.nan, np.float32)
    yield 16_000, np.full(100, 300, np.float32)
    yield 16_000, np.zeros((100, 99), np.int16)
    yield 10, np.zeros(100, np.int16)
    yield 16_000, np.zeros(100 * 16_000, np.int16)


def test_every_fault_of_a_sound_is_told_in_chinese(tmp_path: Path):
    for sound in faulty_sounds(tmp_path):
        with pytest.raises(ValueError, match=".") as refusal:
            load_audio(sound, 60)
        chinese = texts.fault(str(refusal.value)).partition('lang="zh">')[2]
        assert re.search("[一-鿿]", chinese) and "{}" not in chinese
    assert "100.0 秒，最长 60 秒" in chinese
    assert "<script>" not in texts.fault("<script>")


def test_words_of_another_checkpoint_stand_for_themselves():
    assert "<script>" not in texts.badge("perceived", "<script>")
    assert texts.both("whispering").count("whispering") == 2


def test_the_options(monkeypatch: pytest.MonkeyPatch):
    options = app.parse_arguments([])
    assert (options.checkpoint, options.host, options.port) == ("tiny", "127.0.0.1", 7860)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert app.parse_arguments(["--port", "8000"]).host == "0.0.0.0"


def test_an_unknown_checkpoint_is_said(capsys: pytest.CaptureFixture):
    assert app.main(["--checkpoint", "nowhere"]) == 2
    assert "there is no checkpoint 'nowhere'" in capsys.readouterr().err
