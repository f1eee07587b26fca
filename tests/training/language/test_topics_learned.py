"""The classifiers of turns: they learn lines through the errors they are heard with."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from models.weights import read_weights
from models.westlake.topics import HEARD, TOPICS_FILE, UNKNOWN, WRITTEN, characters, read_topics
from training import dialogues as dialogues_of
from training.dialogues import Dialogues
from training.language import topics
from training.language.tokenizer import questions_of
from training.language.topics import held_out_share, train_topics
from training.speech.pinyin import plain_syllables


@pytest.fixture(scope="module")
def learned(dialogues: Dialogues, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("topics") / TOPICS_FILE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics, "NUM_NOISES", 8)
        patch.setattr(topics, "LEAST_LINES", 1)
        train_topics(dialogues, path, epochs=40)
    return path


@pytest.mark.parametrize(("kind", "symbols"), [(HEARD, plain_syllables), (WRITTEN, characters)])
def test_lines_are_learned_with_follow_ups_and_noise(
    dialogues: Dialogues, learned: Path, kind: str, symbols: Callable[[str], Sequence[str]]
):
    classifier = read_topics(learned)[kind]

    def told(text: str) -> str:
        return classifier.classes[int(classifier.opinion(symbols(text)).argmax())]

    assert told("晚上睡不着觉怎么办？") == told("晚上睡不着怎么办？") == "health.insomnia"
    assert told("褪黑素") == "health.insomnia"  # which is among its words alone
    assert told("早上好！") == "talk.hello" and told("光有多快？") == "unknown.other"
    for name, (users, _) in dialogues.followups.items():
        assert {told(text) for text in users} == {name}
    questions = {name.rpartition(".")[2] for name in questions_of(dialogues.intents)}
    assert {"how", "more"} <= questions & set(classifier.classes)
    assert 0 <= held_out_share(classifier, dialogues, kind) <= 1


def test_the_same_seed_trains_the_same(dialogues: Dialogues, tmp_path: Path):
    weights = []
    for _ in range(2):
        train_topics(dialogues, tmp_path / TOPICS_FILE, epochs=1)
        weights.append(read_weights(tmp_path / TOPICS_FILE, integers=True))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_is_unknown_is_known_by_its_name(shipped: Dialogues):
    unknown = {intent.name for intent in shipped.intents if intent.scene == dialogues_of.UNKNOWN}
    named = {intent.name for intent in shipped.intents if intent.name.startswith(UNKNOWN)}
    assert unknown and named == unknown
