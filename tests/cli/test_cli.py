"""The command line: what it writes, and the one line it says where it can't."""

import numpy as np
import pytest
import soundfile
from command_line import RATE, answer, expected_pcm, read_pcm, refused
from loguru import logger

import generate
from generate import main
from models.audio import load_audio
from models.westlake.dual_ar import SamplingConfig


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
