"""The log lines of a reply, and what may be kept out of them."""

import pytest
import soundfile
from replying import RATE, log_lines, reply_to, speech
from small import small_model, speaking


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def test_the_bar_may_be_off(model, monkeypatch):
    monkeypatch.setattr("generate.tqdm", lambda **options: _NoBar())
    with log_lines() as lines:
        chunks, _, _ = reply_to(model, text="你好", max_new_tokens=6)
    assert not chunks[-1].ended
    assert sum(line.startswith("First Token") for line in lines) == 1


class _NoBar:
    n = 0

    def update(self, n):
        pass

    def close(self):
        pass


def test_log_lines_of_speech_and_text(model, tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, speech(0.5).samples.numpy(), RATE)
    tokens = model.checkpoint.tokenizer.encode("嗯,好")
    with log_lines() as lines:
        reply_to(speaking(model, tokens), audio=path, text="你好")
    assert lines[0] == f">> Input: {path} 你好 audio+text"
    assert lines[1].startswith("First Token: ") and 0 < float(lines[1][13:]) < 60
    assert len(lines[1].rpartition(".")[2]) == 4
    assert lines[2:] == [f"generated: {len(tokens)} tokens", "Gen text: 嗯,好"]


@pytest.mark.parametrize(
    "given, line",
    [
        ({"text": "你好"}, ">> Input: 你好 text"),
        ({"audio": speech(0.2)}, ">> Input: recording audio"),
        ({"audio": speech(0.2), "text": " 好 "}, ">> Input: recording 好 audio+text"),
    ],
)
def test_log_line_of_the_input(model, given, line):
    with log_lines() as lines:
        reply_to(model, **given, max_new_tokens=1)
    assert lines[0] == line


def test_log_line_of_a_turn_that_was_listened_to(model):
    turn = model.new_conversation().begin_turn("你好", RATE)
    turn.push(speech(0.2).samples)
    with log_lines() as lines:
        reply_to(model, audio=turn, max_new_tokens=1)
    assert lines[0] == ">> Input: recording 你好 audio+text"


def test_the_progress_bar(model, capsys):
    reply_to(model, text="你好", max_new_tokens=12)
    bar = capsys.readouterr().err.rpartition("\r")[2]
    assert "12/12 [" in bar and "it/s" in bar


def test_the_progress_bar_of_a_reply_that_ends_before_its_longest_is_full(model, capsys):
    tokens = model.checkpoint.tokenizer.encode("嗯,好")
    reply_to(speaking(model, tokens), text="你好")
    bar = capsys.readouterr().err.rpartition("\r")[2]
    assert "100%|" in bar and f"{len(tokens)}/{len(tokens)} [" in bar


def test_a_logged_line_is_one_line(model):
    forged = "好\n2026-01-01 | INFO | >> Input: forged\x1b[31m\r\u2028\u202e　"
    with log_lines() as lines:
        reply_to(model, text=forged, max_new_tokens=1)
    line = lines[0]
    assert line.startswith(">> Input: 好\\n2026-01-01 | INFO | >> Input: forged\\x1b[31m\\r\\u2028")
    assert all(character.isprintable() or character == "　" for character in line)


def test_words_and_names_may_be_kept_out_of_the_log(model, tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, speech(0.5).samples.numpy(), RATE)
    tokens = model.checkpoint.tokenizer.encode("嗯,好")
    with log_lines() as lines:
        reply_to(speaking(model, tokens), audio=path, text="你好", log_content=False)
    assert lines[0] == ">> Input: audio+text"
    assert lines[2:] == [f"generated: {len(tokens)} tokens"]
