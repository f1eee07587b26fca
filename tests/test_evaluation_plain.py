"""What any checkpoint can give: measured without emotions, styles and a teacher."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_evaluation import FakeEar, FakeModel, FakeTeacher

from training import evaluate
from training.dialogues import load_dialogues
from training.evaluation import plain

ASKED = [intent.users[0] for intent in load_dialogues().intents[:6]]


def measured(change=lambda reply: reply) -> plain.PlainReport:
    teacher = FakeTeacher()
    model = FakeModel(teacher, load_dialogues(), change)
    return plain.evaluate_plain(model, ASKED, FakeEar(teacher), seed=0)


def values(report: plain.PlainReport) -> dict[str, float]:
    return {name: figure.value for name, figure in report.figures.items()}


def test_speech_that_says_its_text():
    report = measured()
    figures = values(report)
    assert figures.keys() == plain.FIGURES.keys()
    assert figures["reply_cer"] == figures["mute"] == 0 and figures["stop_rate"] == 1
    assert figures["rtf"] > 0 and figures["first_sound"] > 0
    assert [exchange["said"] for exchange in report.exchanges] == ASKED
    assert all(exchange["heard"] == exchange["reply"] for exchange in report.exchanges)


def test_speech_that_says_something_else_or_nothing():
    other = values(measured(lambda reply: replace(reply, text="完全不同的另一句话", ended=False)))
    assert other["reply_cer"] > 0.5 and other["stop_rate"] == 0
    mute = values(measured(lambda reply: replace(reply, wave=reply.wave[:0])))
    assert mute["mute"] == mute["reply_cer"] == 1
    assert all(math.isnan(mute[name]) for name in ("rtf", "first_sound", "voice_likeness"))


def test_case_and_punctuation_are_no_errors():
    teacher = FakeTeacher()
    model = FakeModel(teacher, load_dialogues(), lambda r: replace(r, text="Yes, I DON'T know."))
    ear = SimpleNamespace(hear=lambda waves, rate: ["yes i don't know" for _ in waves])
    assert values(plain.evaluate_plain(model, ASKED[:2], ear, 0))["reply_cer"] == 0


def test_voices_are_compared_where_the_package_is(monkeypatch):
    rate, waves = 100, [np.full(200, value, np.float32) for value in (1, 1, -1)]
    monkeypatch.setattr(plain, "VOICE_PACKAGE", "no_such_package")
    assert math.isnan(plain.voice_likeness(waves, rate))
    encoder = SimpleNamespace(embed_utterance=lambda wave: np.array([wave[0], 0.0]))
    package = SimpleNamespace(
        VoiceEncoder=lambda device, verbose: encoder,
        preprocess_wav=lambda wave, source_sr: wave,
    )
    monkeypatch.setitem(sys.modules, "resemblyzer", package)
    monkeypatch.setattr(plain, "VOICE_PACKAGE", "numpy")  # one that is installed
    assert plain.voice_likeness(waves, rate) == pytest.approx(-1 / 3)
    assert math.isnan(plain.voice_likeness([waves[0], waves[1][:50]], rate))


@pytest.fixture
def command(monkeypatch, tmp_path):
    teacher = FakeTeacher()
    model = FakeModel(teacher, load_dialogues())
    model.emotions = model.styles = ()
    monkeypatch.setattr(evaluate, "load_model", lambda *arguments: model)
    languages = []
    monkeypatch.setattr(
        evaluate,
        "WhisperEar",
        lambda folder, workers, language: languages.append(language) or FakeEar(teacher),
    )
    return lambda *arguments: (evaluate.main(["--work", str(tmp_path), *arguments]), languages)


def test_a_checkpoint_without_emotions_and_styles_is_asked_in_writing(command, tmp_path, capsys):
    command("--utterances", "4")
    table, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    figures = json.loads(line)
    assert figures["reply_cer"] == 0 and figures["counts"]["stop_rate"] == [4, 4]
    assert figures["voice_likeness"] is None and "characters of replies heard wrong" in table
    assert len((tmp_path / "replies.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_given_texts_in_another_language(command, tmp_path, capsys):
    path: Path = tmp_path / "lines.txt"
    path.write_text(f"{ASKED[0]}\n\n  {ASKED[1]}\n", encoding="utf-8")
    _, languages = command("--texts", str(path), "--language", "en")
    assert languages == ["en"]
    kept = (tmp_path / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["said"] for line in kept] == ASKED[:2]
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no lines"):
        command("--texts", str(path))
    with pytest.raises(SystemExit):
        command("--language", "en")
    assert "give --texts" in capsys.readouterr().err
