"""The report of a checkpoint without emotions and styles, by those that have none."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from training import evaluate
from training.evaluation import plain

LINES = ["hello", "abc"]


@pytest.mark.parametrize("family", ["omni", "mini_omni"])
def test_a_folder_of_the_family_is_measured(
    family, folder: Path, mini_omni_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    heard = []

    def hear(waves, rate):
        heard.extend((len(wave) / rate, rate) for wave in waves)
        return ["" for _ in waves]

    monkeypatch.setattr(plain, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(evaluate, "WhisperEar", lambda *arguments: SimpleNamespace(hear=hear))
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    checkpoint = folder if family == "omni" else mini_omni_folder
    arguments = {"--checkpoint": checkpoint, "--texts": tmp_path / "lines.txt", "--work": tmp_path}
    evaluate.main([*(str(part) for pair in arguments.items() for part in pair), "--language", "en"])
    table, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    figures = json.loads(line)
    assert "characters of replies heard wrong" in table
    assert [rate for _, rate in heard] == [24_000] * 2
    assert all(0 < seconds <= 0.5 for seconds, _ in heard)
    assert figures["reply_cer"] == 1 and figures["mute"] == 0
    assert figures["rtf"] > 0 and figures["first_sound"] > 0
    kept = (tmp_path / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    exchanges = [json.loads(each) for each in kept]
    assert [each["said"] for each in exchanges] == LINES and all(e["reply"] for e in exchanges)
