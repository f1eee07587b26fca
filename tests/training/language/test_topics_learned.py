"""The classifier of transcripts: it learns lines through the errors they are heard with."""

from pathlib import Path

import torch

from models.westlake.topics import read_topics
from training.dialogues import Dialogues
from training.language import topics
from training.language.tokenizer import questions_of
from training.language.topics import held_out_share, train_topics
from training.speech.pinyin import plain_syllables


def test_lines_are_learned_with_follow_ups_and_noise(
    dialogues: Dialogues, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(topics, "NUM_NOISES", 8)
    train_topics(dialogues, tmp_path / "topics.safetensors", epochs=40)
    classifier = read_topics(tmp_path / "topics.safetensors")

    def told(text: str) -> str:
        return classifier.classes[int(classifier.opinion(plain_syllables(text)).argmax())]

    assert told("晚上睡不着觉怎么办？") == told("晚上睡不着怎么办？") == "health.insomnia"
    assert told("早上好！") == "talk.hello" and told("光有多快？") == "unknown.other"
    for kind, (users, _) in dialogues.followups.items():
        assert {told(text) for text in users} == {kind}
    questions = {name.rpartition(".")[2] for name in questions_of(dialogues.intents)}
    assert {"how", "more"} <= questions & set(classifier.classes)
    assert 0 <= held_out_share(classifier, dialogues) <= 1


def test_the_same_seed_trains_the_same(dialogues: Dialogues, tmp_path: Path):
    for name in ("a", "b"):
        train_topics(dialogues, tmp_path / name, epochs=1)
    first, second = (read_topics_of(tmp_path / name) for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def read_topics_of(path: Path) -> dict[str, torch.Tensor]:
    path = path.rename(path.with_suffix(".safetensors"))
    return read_topics(path).state_dict()
