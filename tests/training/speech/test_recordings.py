"""Recordings in shards, by a teacher that is made up."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from training import files
from training.speech import recordings
from training.speech.recordings import Line, read, read_shard, record
from training.speech.speakers import PLAIN, SAMPLE_RATE, draw_other_user, draw_plain_user
from training.speech.teacher import Prosody

LINES = [
    Line(source="talk.hello", text="你好，你好。", manner="happy", seed=1),
    Line(source="talk.hello", text="你好，我在。", manner="warm"),
    Line(source="follow.more", text="还有呢？", manner="tired", seed=2, heldout=True),
    Line(source="talk.hello", text="早上好！", manner="cheerful"),
    Line(source="talk.hello", text="早。", manner="calm"),
]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, made_up_teacher) -> None:
    monkeypatch.setattr(recordings, "SHARD_SIZE", 2)


def test_recordings_are_read_back_as_they_were_said(tmp_path: Path, made_up_teacher):
    record(LINES, tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.npz", "0001.npz", "0002.npz"]
    found = list(read(tmp_path))
    assert [recording.line for recording in found] == LINES
    for recording in found:
        number = sum(c not in "，。？！" for c in recording.line.text)
        onsets = recording.onsets
        assert recording.wave.dtype == np.int16 and np.abs(recording.wave).max() > 500
        assert len(onsets) == number and list(onsets) == sorted(onsets)
        assert onsets[0] == pytest.approx(0.06, abs=0.02)  # all begin alike
        assert onsets[-1] < len(recording.wave) / SAMPLE_RATE
    again = tmp_path / "again"
    record(LINES, again, 1)
    for first, second in zip(found, read(again)):
        np.testing.assert_array_equal(first.wave, second.wave)


def test_a_plain_line_is_said_as_the_voice_speaks_by_itself(tmp_path: Path):
    line = Line(source="talk.hello", text="你好，你好。", manner=PLAIN, seed=1, heldout=True)
    record([line], tmp_path, 1)
    (found,) = read(tmp_path)
    wave, _ = draw_plain_user(np.random.default_rng(1), heldout=True).say(line.text, Prosody())
    np.testing.assert_array_equal(found.wave, (wave * 32767).astype(np.int16))


def test_another_voice_is_taken_from_the_folder(tmp_path: Path, made_up_teacher, monkeypatch):
    asked = []

    def say(text, timbre, melody, prosody, voices):
        asked.append((timbre, voices))
        return made_up_teacher(text, timbre, melody, prosody)

    names = ["jf_alpha", "zf_xiaoni"]
    monkeypatch.setattr("training.speech.teacher.say", say)
    monkeypatch.setattr(recordings, "voice_names", lambda voices: names)
    line = Line(source="talk.hello", text="你好。", manner="sad", seed=1, other=True)
    record([line], tmp_path / "takes", 1, tmp_path / "voices")
    user = draw_other_user(np.random.default_rng(1), names)
    assert asked == [(user.timbre, tmp_path / "voices")]
    assert [found.line for found in read(tmp_path / "takes")] == [line]


def test_a_killed_recording_goes_on_where_it_was(tmp_path: Path, monkeypatch):
    said = []
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        said.append(target.name)
        if len(said) == 2:
            raise OSError("no space is left")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            record(LINES, tmp_path, 1)
    assert [recording.line for recording in read(tmp_path)] == LINES[:2]
    kept = (tmp_path / "0000.npz").stat()
    record(LINES, tmp_path, 1)
    assert [recording.line for recording in read(tmp_path)] == LINES
    assert (tmp_path / "0000.npz").stat().st_mtime_ns == kept.st_mtime_ns
    assert not list(tmp_path.glob("*.new"))


def test_what_is_there_already_is_not_said_again(tmp_path: Path, monkeypatch):
    record(LINES, tmp_path, 1)
    monkeypatch.setattr("training.speech.teacher.say", None)
    record(LINES, tmp_path, 1)
    assert [recording.line for recording in read_shard(tmp_path / "0001.npz")] == LINES[2:4]


def test_the_teachers_model_is_there_before_several_processes_ask_for_it(
    tmp_path: Path, monkeypatch
):
    order = []

    class Pool(contextlib.nullcontext):
        def __init__(self, *arguments, **settings) -> None:
            super().__init__(self)
            order.append("processes")

        def map(self, work, parts) -> list:
            return list(parts)

    monkeypatch.setattr(recordings, "model_file", lambda: order.append("model"))
    monkeypatch.setattr(recordings, "ProcessPoolExecutor", Pool)
    record(LINES, tmp_path, 2)
    assert order == ["model", "processes"]
