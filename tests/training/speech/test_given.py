"""Recordings that somebody else made, taken over as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.audio import write_wav
from training.dialogues import UNTOLD, Dialogues
from training.speech import given
from training.speech.given import GivenError, given_lines, take_over
from training.speech.recordings import Line, read
from training.speech.speakers import SAMPLE_RATE

HELLO = "talk.hello"


def write_folder(folder: Path, *rows: str) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        speech = torch.randn(8000 + 800 * number, generator=generator)
        loudness = torch.linspace(0.01, 0.3, len(speech))
        write_wav(folder / f"{number}.wav", speech * loudness, 16_000)
    (folder / "lines.tsv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_recordings_are_taken_over_at_the_codecs_rate(
    tmp_path: Path, dialogues: Dialogues, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(given, "SHARD_SIZE", 2)
    rows = ["0.wav\ttalk.hello\tsad\t你好。", f"1.wav\tfollow.how\t{UNTOLD}\t那我该怎么办？"]
    folder = write_folder(tmp_path / "people", *rows, "2.wav\ttalk.hello\thappy\t早上好！")
    take_over(folder, dialogues, tmp_path / "takes" / "given")
    found = list(read(tmp_path / "takes" / "given"))
    assert [recording.line for recording in found] == [
        Line(source=HELLO, text="你好。", manner="sad"),
        Line(source="follow.how", text="那我该怎么办？", manner=UNTOLD),
        Line(source=HELLO, text="早上好！", manner="happy"),
    ]
    assert [len(recording.wave) for recording in found] == [
        round((8000 + 800 * number) * SAMPLE_RATE / 16_000) for number in range(3)
    ]
    for recording in found:
        assert recording.wave.dtype == np.int16 and np.abs(recording.wave).max() > 3000
        assert recording.onsets == ()
    for path in folder.glob("*.wav"):  # what is there is kept
        path.write_bytes(b"")
    take_over(folder, dialogues, tmp_path / "takes" / "given")
    (folder / "lines.tsv").write_text(rows[0], encoding="utf-8-sig")
    with pytest.raises(GivenError, match="holds other recordings"):
        take_over(folder, dialogues, tmp_path / "takes" / "given")


def test_all_are_taken_over_or_none(
    tmp_path: Path, dialogues: Dialogues, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(given, "SHARD_SIZE", 1)
    rows = [f"{number}.wav\ttalk.hello\tsad\t你好。" for number in range(2)]
    folder, takes = write_folder(tmp_path / "people", *rows), tmp_path / "given"
    whole = (folder / "1.wav").read_bytes()
    write_wav(tmp_path / "silent.wav", torch.zeros(16_000), 16_000)
    for damaged in (whole[:20], (tmp_path / "silent.wav").read_bytes()):
        (folder / "1.wav").write_bytes(damaged)
        with pytest.raises(GivenError, match=r"people.1\.wav"):
            take_over(folder, dialogues, takes)
        assert not takes.exists()
    (folder / "1.wav").write_bytes(whole)
    take_over(folder, dialogues, takes)
    assert len(list(read(takes))) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.wav\ttalk.hello\t你好。", "3 parts"),
        ("9.wav\ttalk.hello\tsad\t你好。", "9.wav is not there"),
        ("0.wav\ttalk.nothing\tsad\t你好。", "no intent 'talk.nothing'"),
        ("0.wav\ttalk.hello\tbored\t你好。", "emotion 'bored'"),
        ("0.wav\ttalk.hello\tsad\t你好吗？", "'你好吗？' is no line that talk.hello"),  # held out
    ],
)
def test_a_row_that_breaks_the_format_is_named(
    tmp_path: Path, dialogues: Dialogues, row: str, message: str
):
    folder = write_folder(tmp_path / "people", "0.wav\ttalk.hello\tsad\t你好。", row)
    with pytest.raises(GivenError, match=r"lines\.tsv:2: .*" + message):
        given_lines(folder, dialogues)


@pytest.mark.parametrize("content", [None, b"", "你好。".encode("gbk")])
def test_a_folder_without_a_table_is_refused(tmp_path: Path, dialogues: Dialogues, content):
    if content is not None:
        (tmp_path / "lines.tsv").write_bytes(content)
    with pytest.raises(GivenError, match=r"lines\.tsv (can't be read|has no row)"):
        given_lines(tmp_path, dialogues)
