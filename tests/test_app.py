"""The page with the embedded checkpoint: what a client of its API gets."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from loguru import logger
from page_client import served

import app
from models.contract import ReplyOptions, SpeechModel
from models.load import load_model
from page import words
from page.files import Files
from page.limits import Limits
from page.session import Session
from page.sessions import Sessions

ROOT = Path(app.__file__).parent


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_model("tiny")


@pytest.fixture(scope="module")
def url(model: SpeechModel) -> Iterator[str]:
    """The page, serving; its replies are one second long."""
    with served(model, Limits(reply_seconds=1)) as (_, address):
        yield address


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of noise in bursts."""
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    noise = np.random.default_rng(0).integers(-8000, 8000, 8000)
    noise[np.arange(8000) % 2000 > 1200] = 0
    soundfile.write(path, noise.astype(np.int16), 16000)
    return path


def test_a_client_gets_text_and_a_playable_wav(url: str, recording: Path):
    client = Client(url, verbose=False)
    text, wav = client.predict(handle_file(recording), "你好", seed=1, api_name="/speak")
    info = soundfile.info(wav)
    assert isinstance(text, str)
    assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
    assert info.duration == pytest.approx(1, abs=0.05)


def test_a_client_gets_the_reply_while_it_is_made(url: str):
    outputs = list(Client(url, verbose=False).submit(None, "你好", seed=1, api_name="/speak"))
    waves = [soundfile.read(wav, dtype="int16")[0] for _, wav in outputs]
    assert len(outputs) > 1
    for (text, _), wave in zip(outputs, waves):
        assert outputs[-1][0].startswith(text)
        np.testing.assert_array_equal(wave, waves[-1][: len(wave)])


def test_a_client_reads_what_is_wrong(url: str, tmp_path: Path):
    client = Client(url, verbose=False)
    with pytest.raises(AppError, match="neither speech nor text"):
        client.predict(None, " ", api_name="/speak")
    for name, samples, told in (
        ("empty.wav", np.zeros(0, np.int16), "no samples"),
        ("silent.wav", np.zeros(16000, np.int16), "no speech was heard"),
        ("long.wav", np.ones(61 * 16000, np.int16), "allowed are up to 60 s"),
    ):
        path = tmp_path / name
        soundfile.write(path, samples, 16000)
        with pytest.raises(AppError, match=told) as refusal:
            client.predict(handle_file(path), "", api_name="/speak")
        assert tempfile.gettempdir() not in str(refusal.value)


def test_two_clients_at_once(url: str):
    def ask(text: str) -> tuple[str, str]:
        return Client(url, verbose=False).predict(None, text, seed=1, api_name="/speak")

    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(ask, ["最近心情不好", "我想打游戏"]))
    assert all(soundfile.info(wav).duration > 0.9 for _, wav in replies)


def test_a_client_does_not_use_the_upload_of_another(url: str, recording: Path):
    first, second = (Client(url, verbose=False).cookies for _ in range(2))
    api, files = f"{url}gradio_api", {"files": recording.read_bytes()}
    path = httpx.post(f"{api}/upload", files=files, cookies=first).json()[0]
    body = {"data": [{"path": path}, ""]}
    assert httpx.post(f"{api}/call/speak", json=body, cookies=second).status_code == 403
    assert httpx.post(f"{api}/call/speak", json=body, cookies=first).status_code == 200


def test_only_the_api_is_offered(url: str):
    offered = Client(url, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert list(offered) == ["/speak", "/encode", "/decode"]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.wav")), ids=lambda p: p.stem)
def test_every_example_is_answered(model: SpeechModel, path: Path, tmp_path: Path):
    limits = Limits()
    sessions = Sessions(model, Files(tmp_path, limits), limits)
    *_, turn = sessions.open("visitor").answer(str(path), "", max_new_tokens=2)
    assert turn.has_sound or turn.reply_audio
    sessions.close()


@pytest.mark.parametrize("text", ["你好", "我的猫死了", "今天上班好累啊", "讲个笑话"])
def test_its_replies_begin_and_end_in_silence(model: SpeechModel, text: str):
    turn = model.new_conversation().begin_turn(text)
    turn.finish()
    sampling = dataclasses.replace(model.sampling, seed=1)
    chunks = list(turn.conversation.reply(turn, ReplyOptions(sampling=sampling)))
    wave = np.concatenate([chunk.new_audio for chunk in chunks])
    ends = wave[:220], wave[-440:]  # 10 and 20 ms
    assert chunks[-1].ended and np.abs(wave).max() > 0.05
    assert all(np.abs(end).max() < 0.003 for end in ends)


def test_a_recording_read_before_it_is_sent_gives_the_same_reply(
    model: SpeechModel, tmp_path: Path, recording: Path
):
    sampling = dataclasses.replace(model.sampling, seed=1)
    limits = Limits()
    replies: list[np.ndarray] = []
    for prepared in (False, True):
        sessions = Sessions(model, Files(tmp_path, limits), limits)
        session: Session = sessions.open("visitor")
        if prepared:
            session.prepare(str(recording))
        *_, turn = session.answer(str(recording), "", max_new_tokens=6, sampling=sampling)
        replies.append(soundfile.read(turn.reply_audio, dtype="int16")[0])
        sessions.close()
    np.testing.assert_array_equal(*replies)


def test_words_of_another_checkpoint_stand_for_themselves():
    assert words.both("<script>").count("&lt;script&gt;") == 2
    assert words.both("whispering").count("whispering") == 2


def test_a_served_page_logs_no_words(model: SpeechModel, capfd: pytest.CaptureFixture):
    lines: list[str] = []
    sink = logger.add(lines.append)
    with served(model, Limits(reply_seconds=1)) as (_, address):
        client = Client(address, verbose=False)
        text, _ = client.predict(None, "机密的话", seed=1, api_name="/speak")
    logger.remove(sink)
    printed = "".join([*capfd.readouterr(), *lines])
    assert "机密" not in printed and text not in printed and tempfile.gettempdir() not in printed
    assert re.search(r"generated: \d+", printed)
