"""The command line as a shell runs it: pipes, listeners who leave, full disks."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import answer, expected_pcm, read_pcm, refused

from generate import main
from models.hub import TINY
from models.westlake.firefly import FireflyConfig

ROOT = Path(__file__).parents[2]


def command(*arguments):
    return [sys.executable, "generate.py", *arguments]


def test_the_embedded_checkpoint_from_the_shell(question):
    arguments = ["--user-audio", question, "--seed", "1", "--max-new-tokens", "5", "--output", "-"]
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True)
    log = done.stderr.decode()
    assert done.returncode == 0, log
    num_frames = int(log.partition("generated: ")[2].split()[0])
    assert f">> Input: {question} audio" in log and "Gen text:" in log
    assert ("First Token: " in log) == (num_frames > 0)
    codec = FireflyConfig(**json.loads((TINY / "codec_config.json").read_text()))
    assert len(done.stdout) == 2 * codec.samples_per_frame * num_frames


def test_bad_input_from_the_shell(tmp_path):
    arguments = ["--user-audio", "missing.wav", "--output", str(tmp_path / "reply.wav")]
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode().splitlines() == [
        "generate.py: there is no sound file missing.wav: check its name"
    ]
    assert not (tmp_path / "reply.wav").exists()


def test_a_listener_who_leaves_is_no_error():
    arguments = ["--user-text", "好", "--seed", "1", "--max-new-tokens", "5", "--output", "-"]
    running = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running.stdout.close()
    log = running.stderr.read().decode()
    assert running.wait() in (0, 1)
    assert "Traceback" not in log and "Exception" not in log


def test_a_recording_on_stdin(small, question, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(Path(question).read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert answer("--user-audio", "-") == 0
    np.testing.assert_array_equal(
        read_pcm("reply.wav")[0], expected_pcm(small, {"audio": question})
    )


@pytest.mark.parametrize("output", ["question.wav", "./question.wav", "link.wav"])
def test_a_recording_is_not_overwritten(small, question, capsys, tmp_path, output):
    (tmp_path / "link.wav").symlink_to("question.wav")
    Path("first.wav").write_bytes(Path(question).read_bytes())
    before = Path(question).read_bytes()
    given = ["--user-audio", "first.wav", "--user-audio", question]
    assert "would overwrite" in refused(capsys, *given, "--output", output)
    assert Path(question).read_bytes() == before


def test_an_output_of_another_kind(small, capsys, tmp_path):
    said = refused(capsys, "--user-text", "好", "--output", "r.mp3")
    assert "r.mp3 is no wav file" in said
    assert not (tmp_path / "r.mp3").exists()


def test_a_wav_into_a_pipe_is_refused_at_once(small, capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # or who writes would wait
    try:
        given = ["--user-text", "好", "--max-new-tokens", "5", "--output", "pipe"]
        assert "pipe is a pipe" in refused(capsys, *given)
    finally:
        os.close(reader)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(small, capsys):
    done = subprocess.run(
        f"{sys.executable} generate.py --user-text 好 --seed 1 --max-new-tokens 5 --output - "
        "> /dev/full",
        shell=True,
        cwd=ROOT,
        capture_output=True,
    )
    log = done.stderr.decode()
    assert done.returncode == 2, log
    assert "can't write stdout (No space left on device)" in log.splitlines()[-1]
    assert "Traceback" not in log and "ASSERT" not in log


def test_the_revision_reaches_the_hub(monkeypatch, capsys):
    asked = []

    def download(repo_id, *, revision, allow_patterns):
        asked.append(revision)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert main(["--user-text", "好", "--checkpoint", "a/b", "--revision", "v1"]) == 2
    assert asked == ["v1"]
