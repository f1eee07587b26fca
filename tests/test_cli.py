"""The command line: what it writes, and the one line it says where it can't."""

import io
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from loguru import logger
from small import small_model

import generate
from generate import generate_long, main
from models.audio import load_audio, to_pcm16
from models.hub import TINY
from models.westlake.dual_ar import SamplingConfig
from models.westlake.firefly import FireflyConfig

ROOT = Path(__file__).parent.parent
RATE = 16_000


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


@pytest.fixture
def small(model, monkeypatch, tmp_path):
    """The command line with a small model, in a folder of its own."""
    monkeypatch.setattr(generate, "load_model", lambda *arguments: model)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "question.wav"
    samples = torch.rand(RATE // 2, generator=torch.Generator().manual_seed(0)) - 0.5
    soundfile.write(path, samples.numpy(), RATE)
    return str(path)


def answer(*arguments, frames=6):
    return main(["--seed", "1", "--max-new-tokens", str(frames), *arguments])


def expected_pcm(model, *turns, frames=6):
    conversation = model.new_conversation()
    settings = {"sampling": SamplingConfig(seed=1), "max_new_tokens": frames}
    chunks = [
        chunk.new_audio
        for turn in turns
        for chunk in generate_long(model, conversation=conversation, **settings, **turn)
    ]
    return to_pcm16(np.concatenate(chunks))


def read_pcm(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_playable_wav_is_written(small, question, stream):
    assert answer("--user-audio", question, "--user-text", "你好", *stream) == 0
    pcm, rate = read_pcm("reply.wav")
    assert rate == small.sample_rate
    assert len(pcm) == 6 * small.checkpoint.codec.config.samples_per_frame
    np.testing.assert_array_equal(pcm, expected_pcm(small, {"audio": question, "text": "你好"}))
    assert len(load_audio("reply.wav").samples) == len(pcm)


def test_a_dash_pipes_the_same_samples(small, question, capsysbinary, tmp_path):
    assert answer("--user-audio", question, "--output", "-") == 0
    pcm = np.frombuffer(capsysbinary.readouterr().out, "<i2")
    np.testing.assert_array_equal(pcm, expected_pcm(small, {"audio": question}))
    assert [path.name for path in tmp_path.iterdir()] == ["question.wav"]


def test_more_inputs_are_more_turns(small, question):
    arguments = ["--user-audio", question, "--user-audio", question]
    assert answer(*arguments, "--user-text", "你好", "--output", "two.wav") == 0
    turns = [{"audio": question, "text": "你好"}, {"audio": question}]
    np.testing.assert_array_equal(read_pcm("two.wav")[0], expected_pcm(small, *turns))
    assert answer("--user-text", "你好", "--user-text", "再见", "--output", "text.wav") == 0
    turns = [{"text": "你好"}, {"text": "再见"}]
    np.testing.assert_array_equal(read_pcm("text.wav")[0], expected_pcm(small, *turns))


def test_options_reach_the_reply(small, monkeypatch):
    seen = []
    monkeypatch.setattr(
        generate,
        "generate_long",
        lambda *given, **options: seen.append(options) or (chunk for chunk in ()),
    )
    options = ["--temperature", "0.5", "--top-p", "0.9", "--repetition-penalty", "1.1"]
    assert answer("--user-text", "你好", "--style", "warm", "--max-seconds", "9", *options) == 0
    sampling = SamplingConfig(temperature=0.5, top_p=0.9, repetition_penalty=1.1, seed=1)
    assert seen[0]["sampling"] == sampling
    assert (seen[0]["style"], seen[0]["max_new_tokens"], seen[0]["max_seconds"]) == ("warm", 6, 9)
    assert read_pcm("reply.wav")[0].size == 0


def chunk_of(samples):
    return generate.ReplyChunk(
        new_text="",
        new_audio=np.asarray(samples, np.float32),
        total_frames=1,
        max_frames=2,
        total_seconds=0.05,
        max_seconds=0.1,
        emotion=None,
        style=None,
        seed=1,
        ended=False,
    )


def test_streaming_writes_a_wav_that_is_whole_at_every_moment(small, monkeypatch):
    lengths = []

    def replies(*given, **options):
        for _ in range(3):
            yield chunk_of(np.full(1000, 0.5))
            lengths.append(len(read_pcm("reply.wav")[0]))

    monkeypatch.setattr(generate, "generate_long", replies)
    assert answer("--user-text", "你好", "--stream") == 0
    assert lengths == [1000, 2000, 3000]


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_an_interrupted_reply_is_kept(small, monkeypatch, stream):
    def replies(*given, **options):
        yield chunk_of(np.full(1000, 0.5))
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate_long", replies)
    assert answer("--user-text", "你好", *stream) == 130
    assert (read_pcm("reply.wav")[0] == 16384).all() and len(read_pcm("reply.wav")[0]) == 1000


def refused(capsys, *arguments):
    """The one line that is said about bad input; nothing is logged nor written."""
    lines = []
    sink = logger.add(lines.append)
    try:
        assert main([*arguments]) == 2
    finally:
        logger.remove(sink)
    output = capsys.readouterr()
    assert output.out == "" and lines == []
    (line,) = output.err.splitlines()
    assert line.startswith("generate.py: ")
    return line


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "neither speech nor text"),
        (["--user-text", " "], "neither speech nor text"),
        (["--user-audio", "missing.wav"], "missing.wav"),
        (["--user-text", "好", "--user-audio", "missing.wav"], "missing.wav"),
        (["--user-audio", "."], "there is no sound file"),
        (["--user-text", "你好。" * 300], "use a shorter"),
        (["--user-text", "好", "--top-p", "3"], "top_p is 3.0"),
        (["--user-text", "好", "--top-p", "nan"], "top_p is nan"),
        (["--user-text", "好", "--temperature", "0"], "temperature is 0.0"),
        (["--user-text", "好", "--repetition-penalty", "2"], "repetition_penalty is 2.0"),
        (["--user-text", "好", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--user-text", "好", "--max-new-tokens", "-5"], "max_new_tokens is -5"),
        (["--user-text", "好", "--style", "shouting"], "'shouting': allowed are warm"),
    ],
)
def test_bad_input(small, capsys, tmp_path, arguments, message):
    (tmp_path / "reply.wav").write_bytes(b"kept")
    assert message in refused(capsys, *arguments)
    assert (tmp_path / "reply.wav").read_bytes() == b"kept", "an older reply is overwritten"


def test_speech_that_is_too_long_or_damaged(small, question, capsys, tmp_path):
    arguments = ["--user-audio", question]
    assert "allowed are up to 0.1 s" in refused(capsys, *arguments, "--max-seconds", "0.1")
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    assert "bad.wav" in refused(capsys, "--user-audio", str(tmp_path / "bad.wav"))
    assert "bad.wav" in refused(capsys, *arguments, "--user-audio", str(tmp_path / "bad.wav"))


@pytest.fixture
def silence(tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    return str(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "neither speech nor text"),
        (["--user-audio", "missing.wav"], "missing.wav"),
        (["--user-text", "好", "--output", "r.mp3"], "r.mp3 is no wav file"),
        (["--user-text", "好", "--max-seconds", "inf"], "seconds above 0, got inf"),
        (["--user-text", "好", "--max-seconds", "0"], "seconds above 0, got 0.0"),
        (["--user-text", "好", "--max-new-tokens", "0"], "max_new_tokens is 0"),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(generate, "load_model", None)
    assert message in refused(capsys, *arguments)


def test_silence_in_a_later_file_is_told_before_the_model_is_loaded(
    question, silence, capsys, monkeypatch
):
    monkeypatch.setattr(generate, "load_model", None)
    assert "no speech was heard" in refused(
        capsys, "--user-audio", question, "--user-audio", silence
    )


def test_every_recording_is_decoded_once_and_logged_by_its_name(small, question, monkeypatch):
    decoded, lines = [], []
    monkeypatch.setattr(
        generate,
        "load_audio",
        lambda source, *limits: decoded.append(source) or load_audio(source, *limits),
    )
    sink = logger.add(lines.append, format="{message}")
    try:
        assert answer("--user-audio", question) == 0
    finally:
        logger.remove(sink)
    assert decoded == [question]
    assert lines[0] == f">> Input: {question} audio\n"


@pytest.mark.parametrize("path", ["nowhere/reply.wav", ".", ""])
@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_an_output_that_cannot_be_written(small, capsys, path, stream):
    assert "can't write" in refused(capsys, "--user-text", "好", "--output", path, *stream)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "tpu"], "device is 'tpu', allowed are"),
        (["--dtype", "int2"], "dtype is 'int2', allowed are"),
        (["--checkpoint", "enormous"], "there is no checkpoint 'enormous'"),
    ],
)
def test_an_unknown_model(capsys, arguments, message):
    assert message in refused(capsys, "--user-text", "好", *arguments)


def test_a_checkpoint_that_cannot_be_fetched(capsys, monkeypatch):
    def offline(*given, **options):
        raise OSError("no network\n  at all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    line = refused(capsys, "--user-text", "好", "--checkpoint", "nobody/nothing")
    assert "'nobody/nothing'" in line and "no network at all" in line


@pytest.mark.parametrize(
    "arguments", [["--top-p", "high"], ["--seed", "1.5"], ["--max-new-tokens", "x"], ["--nonsense"]]
)
def test_what_argparse_refuses(capsys, arguments):
    with pytest.raises(SystemExit) as exit_info:
        main(["--user-text", "好", *arguments])
    assert exit_info.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


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
    assert "pipe is a pipe" in refused(capsys, "--user-text", "好", "--output", "pipe")


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
