"""How the page starts, what it says where it can't, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import httpx
import pytest
from fake_model import FakeModel
from gradio_client import Client
from page_client import free_port

import app
from page import options, server
from page.checks import reply_options
from page.limits import Limits

ROOT = Path(app.__file__).parent
# What takes long to import, and is not needed before the page answers.
LATER = {"av", "matplotlib", "scipy", "silero_vad", "sympy", "torch._dynamo", "transformers"}


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


@pytest.mark.parametrize("name", ["reply_seconds", "max_reply_seconds"])
def test_the_longest_reply_can_be_asked_for(name: str):
    told = f"--{name.replace('_', '-')} is 0.5, but must be a number of at least 1"
    with pytest.raises(ValueError, match=told):
        Limits(**{name: 0.5})
    limits, model = Limits(**{name: 1}), FakeModel()
    made = reply_options(model, limits, "", limits.reply_seconds, {})
    assert made["max_new_tokens"] == model.frame_rate


def test_the_documented_options_are_the_programs():
    assert options.table() in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")


def test_an_unknown_checkpoint_is_said(capsys: pytest.CaptureFixture):
    assert app.main(["--checkpoint", "nowhere", "--port", str(free_port())]) == 2
    assert "there is no checkpoint 'nowhere'" in capsys.readouterr().err


def test_a_start_imports_what_it_needs_alone(tmp_path: Path):
    program = (
        "import sys, app; from models.load import load_model; model = load_model('tiny');"
        "model.warm_up(); app.Page(model).close(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    modules = set(done.stdout.split())
    assert {"gradio", "models.westlake.checkpoint"} <= modules, done.stderr
    assert modules & LATER == set()


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
