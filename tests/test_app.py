"""The page with the embedded checkpoint: what a client of its API gets, and how it starts."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from loguru import logger
from page_client import served

import app
from models.contract import SpeechModel
from models.load import load_model
from page import options, server, words
from page.files import Files
from page.limits import Limits
from page.private import PrivateFolder
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
        return Client(url, verbose=False).predict(None, text, api_name="/speak")

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


def test_the_options(monkeypatch: pytest.MonkeyPatch):
    given = options.parse_arguments([], {})
    assert (given.checkpoint, given.host, given.port) == ("tiny", "127.0.0.1", 7860)
    assert options.read_limits(given) == Limits()
    environment = {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "WESTLAKE_MAX_REPLIES": "2",
        "WESTLAKE_LOG_CONTENT": "yes",
        "WESTLAKE_CHECKPOINT": "elsewhere",
    }
    given = options.parse_arguments(["--port", "8000", "--max-waiting", "3"], environment)
    assert (given.host, given.port, given.log_content) == ("0.0.0.0", 8000, True)
    assert given.checkpoint == "elsewhere"
    limits = options.read_limits(given)
    assert (limits.max_replies, limits.max_waiting) == (2, 3)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_limits_are_above_zero(value: str, capsys: pytest.CaptureFixture):
    assert app.main(["--wait-seconds", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--wait-seconds" in line and "above 0" in line


def test_the_documented_options_are_the_programs():
    assert options.table() in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")


def test_an_unknown_checkpoint_is_said(capsys: pytest.CaptureFixture):
    assert app.main(["--checkpoint", "nowhere", "--port", str(free_port())]) == 2
    assert "there is no checkpoint 'nowhere'" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def started(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_is_wrong_with_the_place_is_one_line_before_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def never(*arguments: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(app, "load_model", never)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        certificate = ["--ssl-certfile", str(tmp_path / "none.pem")]
        (tmp_path / "text.pem").write_text("no certificate")
        no_certificate = [
            *("--ssl-certfile", str(tmp_path / "text.pem")),
            *("--ssl-keyfile", str(tmp_path / "text.pem")),
        ]
        for arguments, told in (
            (["--port", taken], f"port {taken} is taken"),
            (["--port", "0"], "allowed are 1 to 65535"),
            (["--port", "99999"], "allowed are 1 to 65535"),
            (["--host", "192.0.2.1"], "no address of this machine"),
            (["--host", "no such host"], "no address of this machine"),
            (certificate, "give both"),
            ([*certificate, "--ssl-keyfile", "none"], "no file that can be read"),
            (no_certificate, "PEM files that belong together"),
            (["--compare-with", "tiny,no such model"], "--compare-with no such model: "),
            (["--compare-with", "tiny:int5"], "--compare-with tiny:int5: "),
            (["--compare-with", str(tmp_path)], "no config.json in it"),
            (["--device", "gpu"], "gpu"),
        ):
            free = [] if "--port" in arguments else ["--port", str(free_port())]
            assert app.main([*arguments, *free]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("app.py: ") and told in line


def test_a_port_that_is_taken_while_loading_is_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    port, other = free_port(), socket.socket()

    def load(*arguments: object) -> FakeModel:
        other.bind(("127.0.0.1", port))
        other.listen()
        return FakeModel()

    monkeypatch.setattr(app, "load_model", load)
    with other:
        assert app.main(["--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("app.py: ") and f"port {port}" in line and "--port" in line


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_it_is_served_at_an_address_of_ipv6(host: str, monkeypatch: pytest.MonkeyPatch):
    port, answers = free_port(), []
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", port))
    except OSError:
        pytest.skip("this machine has no IPv6")

    class Asked:
        def wait(self) -> None:
            answers.append(httpx.get(f"http://[::1]:{port}/config", trust_env=False).status_code)

    monkeypatch.setattr(app, "load_model", lambda *arguments: FakeModel())
    monkeypatch.setattr(app, "Event", Asked)
    monkeypatch.setattr(app.logging, "disable", lambda: None)
    assert app.main(["--host", host, "--port", str(port)]) == 0
    assert answers == [200]


def test_ctrl_c_while_loading_is_quiet(capsys: pytest.CaptureFixture, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "load_model", interrupted)
    assert app.main(["--port", str(free_port())]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_it_is_told_to_end(tmp_path: Path, number: int):
    """Behind a proxy of the environment, which it has to bypass, with visitors' files."""
    port, proxy = free_port(), "http://127.0.0.1:9"
    process = started(
        "--port", str(port), TMPDIR=str(tmp_path), http_proxy=proxy, HTTP_PROXY=proxy, no_proxy=""
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            assert process.poll() is None, process.stdout.read()
            try:
                assert opener.open(f"{url}config").status == 200
                break
            except OSError:
                time.sleep(0.1)
        client = Client(url, verbose=False, httpx_kwargs={"trust_env": False})
        assert client.predict(None, "你好\n\x1b[31m伪造", api_name="/speak")[1]
        assert list(tmp_path.glob("westlake-omni-*/*/*"))
        process.send_signal(number)
        printed = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        print(process.stdout.read() if not process.stdout.closed else "")
    assert process.returncode == 0
    assert "Traceback" not in printed and "\x1b[31m" not in printed
    assert ">> Input: " in printed  # only this machine's users come here
    left = [path for path in tmp_path.iterdir() if "torch" not in path.name]
    assert left == []


def test_elsewhere_the_log_holds_no_words():
    local = options.parse_arguments([], {})
    assert not server.is_public(local, {})
    for arguments, environment in (
        (["--host", "0.0.0.0"], {}),
        (["--host", "192.168.1.5"], {}),
        (["--share"], {}),
        ([], {"SPACE_ID": "someone/space"}),
    ):
        assert server.is_public(options.parse_arguments(arguments, {}), environment)


def test_a_page_for_others_is_made_to_log_no_words(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def made(*given: object, log_content: bool, **options: object) -> None:
        seen.append(log_content)
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "load_model", lambda *arguments: FakeModel())
    monkeypatch.setattr(app, "Page", made)
    everywhere = ["--host", "0.0.0.0"]
    for arguments in ([], everywhere, ["--share"], [*everywhere, "--log-content"]):
        assert app.main([*arguments, "--port", str(free_port())]) == 130
    assert seen == [True, False, False, True]


def test_a_served_page_logs_no_words(model: SpeechModel, capfd: pytest.CaptureFixture):
    lines: list[str] = []
    sink = logger.add(lines.append)
    with served(model, Limits(reply_seconds=1)) as (_, address):
        text, _ = Client(address, verbose=False).predict(None, "机密的话", api_name="/speak")
    logger.remove(sink)
    printed = "".join([*capfd.readouterr(), *lines])
    assert "机密" not in printed and text not in printed and tempfile.gettempdir() not in printed
    assert re.search(r"generated: \d+", printed)


@pytest.mark.parametrize(
    ("arguments", "environment", "answered", "refused"),
    [
        ([], {}, ["localhost", "127.0.0.1", "::1"], ["evil.example", "192.168.1.5"]),
        (["--host", "0.0.0.0"], {}, ["192.168.1.5", "localhost"], ["evil.example"]),
        (
            ["--host", "0.0.0.0", "--allowed-hosts", "a.example, B.example"],
            {},
            ["b.example"],
            ["c"],
        ),
        (["--allowed-hosts", "*"], {}, ["anything.example"], []),
        (["--root-path", "https://a.example/talk"], {}, ["a.example"], ["b.example"]),
        ([], {"SPACE_HOST": "me-talk.hf.space"}, ["me-talk.hf.space"], ["you-talk.hf.space"]),
        (["--share"], {}, ["abc.gradio.live"], ["abc.gradio.live.evil.example"]),
    ],
)
def test_names_of_the_server(arguments, environment, answered, refused):
    is_host = server.host_check(options.parse_arguments(arguments, {}), environment)
    assert all(map(is_host, answered)) and not any(map(is_host, refused))


class TestPrivateFolder:
    def test_it_is_private_and_goes(self, tmp_path: Path):
        folder = PrivateFolder(tmp_path)
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        (folder.path / "sound.wav").write_bytes(b"x")
        other = PrivateFolder(tmp_path)
        assert folder.path.exists() and other.path != folder.path  # both live
        folder.close()
        other.close()
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_process_left_goes_at_the_next_start(self, tmp_path: Path):
        program = (
            "import os, sys; from page.private import PrivateFolder;"
            "folder = PrivateFolder(sys.argv[1]); (folder.path / 'a.wav').touch();"
            "os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=60)
        (left,) = tmp_path.iterdir()
        (tmp_path / "westlake-omni-not-a-folder").touch()
        (tmp_path / "westlake-omni-link").symlink_to(ROOT)
        folder = PrivateFolder(tmp_path)
        assert not left.exists() and (ROOT / "app.py").exists()
        folder.close()

    def test_one_that_another_process_took_away_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        make, made = tempfile.mkdtemp, []

        def make_and_lose(**options: object) -> str:
            made.append(make(**options))
            if len(made) == 1:
                Path(made[0]).rmdir()
            elif len(made) == 2:
                lock = os.open(Path(made[1], ".lock"), os.O_CREAT | os.O_RDWR)
                fcntl.flock(lock, fcntl.LOCK_EX)
                held.append(lock)
            return made[-1]

        held: list[int] = []
        monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
        folder = PrivateFolder(tmp_path)
        assert len(made) == 3 and str(folder.path) == made[2]
        folder.close()
        os.close(held[0])

    def test_one_that_goes_while_others_are_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        gone, left = tmp_path / "westlake-omni-1", tmp_path / "westlake-omni-2"
        left.mkdir()
        (left / ".lock").touch()
        monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone, left]))
        PrivateFolder(tmp_path).close()
        assert not left.exists()

    def test_a_folder_that_can_not_be_made_is_told(self, tmp_path: Path):
        with pytest.raises(ValueError, match="TMPDIR"):
            PrivateFolder(tmp_path / "none")
