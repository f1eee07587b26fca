"""What was heard has a say in what a reply is about: the classifier, its file, and the reply."""

import dataclasses

import pytest
import torch
from replying import reply_to, speech
from safetensors.torch import save_file
from small_checkpoint import HEARD_TOKENS, new_model, save_small

from models.westlake.checkpoint import load_checkpoint, save_quantised
from models.westlake.reply import TOPIC_PLACE
from models.westlake.speech_model import WestlakeModel
from models.westlake.topics import (
    DOUBT,
    TOPICS_FILE,
    TopicClassifier,
    TopicLeaning,
    read_topics,
    write_topics,
)

CLASSES = ("daily.food", "daily.sleep", "how")
TOPIC_TOKENS = ["<|topic:daily.food|>", "<|topic:daily.sleep|>", "<|topic:daily.food.how|>"]
FIRST_TOPIC = 265  # behind those that are heard


@pytest.fixture
def classifier() -> TopicClassifier:
    torch.manual_seed(0)
    return TopicClassifier(CLASSES, num_buckets=1 << 10, dim=4)


def test_a_transcript_is_its_ngrams(classifier):
    bag = classifier.buckets(["wo", "hen", "kun"])
    # Five of one with the line's ends, four of two, three of three, three around another.
    assert len(bag) == 5 + 4 + 3 + 3 and all(0 <= bucket < 1 << 10 for bucket in bag)
    assert sorted(bag) != sorted(classifier.buckets(["wo", "kun", "hen"]))
    assert classifier.buckets(["wo"])[1] == bag[1]
    summed = classifier.embedding.weight[bag].sum(0)
    torch.testing.assert_close(classifier([bag])[0], classifier.output(summed))
    both = classifier([bag, [1, 2]])
    torch.testing.assert_close(both[0], classifier([bag])[0])


def test_an_opinion_rules_nothing_out(classifier):
    with torch.no_grad():
        classifier.output.bias.copy_(torch.tensor([100.0, 0, 0]))
    told = classifier.opinion(["wo", "e"]).exp()
    expected = [1 - DOUBT + DOUBT / 3, DOUBT / 3, DOUBT / 3]
    torch.testing.assert_close(told, torch.tensor(expected), rtol=1e-4, atol=0)


def test_topics_lean_and_nothing_else_gains_by_it(classifier):
    ids = {"daily.food": 7, "daily.sleep": 5, "daily.food.how": 2, "daily.sleep.how": 3}
    leaning = TopicLeaning(classifier, ids, 9)(["chi", "fan"])
    opinion = classifier.opinion(["chi", "fan"])
    assert leaning.shape == (9,)
    least = torch.full((5,), DOUBT / len(CLASSES)).log()
    torch.testing.assert_close(leaning[[0, 1, 4, 6, 8]], least)
    assert (opinion >= least[0]).all()
    torch.testing.assert_close(leaning[[7, 5, 2, 3]], opinion[[0, 1, 2, 2]])
    assert TopicLeaning(classifier, {}, 9)(["chi", "fan"]).unique().numel() == 1
    with pytest.raises(ValueError, match="does not know talk.joke"):
        TopicLeaning(classifier, {**ids, "talk.joke": 1}, 9)


def test_a_file_keeps_it(classifier, tmp_path):
    path = tmp_path / TOPICS_FILE
    write_topics(path, classifier)
    read = read_topics(path)
    assert read.classes == CLASSES and not any(x.requires_grad for x in read.parameters())
    line = ["wo", "hen", "kun"]
    torch.testing.assert_close(read.opinion(line), classifier.opinion(line), rtol=0, atol=0.01)


def test_files_of_something_else_are_refused_by_name(classifier, tmp_path):
    path = tmp_path / TOPICS_FILE
    save_file({"embedding.weight": torch.zeros(8, 2)}, path)
    with pytest.raises(ValueError, match=f"{TOPICS_FILE}: 'classes'"):
        read_topics(path)
    save_file({"embedding.weight": torch.zeros(8, 2)}, path, {"classes": '["a"]'})
    with pytest.raises(ValueError, match="lacks keys"):
        read_topics(path)
    for classes in ("5", '{"a": 1}', "[1]", "[]", "a"):
        save_file({"embedding.weight": torch.zeros(8, 2)}, path, {"classes": classes})
        with pytest.raises(ValueError, match=TOPICS_FILE):
            read_topics(path)
    for empty in (torch.zeros(0, 2), torch.zeros(8, 0), torch.zeros(8)):
        weights = {"output.weight": torch.zeros(1, 2), "output.bias": torch.zeros(1)}
        save_file({"embedding.weight": empty, **weights}, path, {"classes": '["a"]'})
        with pytest.raises(ValueError, match=TOPICS_FILE):
            read_topics(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="can't be read"):
        read_topics(path)


@pytest.fixture
def folder(small_codec, classifier, tmp_path):
    tokens = [*HEARD_TOKENS, *TOPIC_TOKENS]
    folder = tmp_path / "saved"
    folder.mkdir()
    save_small(folder, new_model(), small_codec, tokens)
    write_topics(folder / TOPICS_FILE, classifier)
    return folder


def test_a_checkpoint_has_it_where_the_file_is(folder, small_codec, classifier, tmp_path):
    leaning = load_checkpoint(folder, dtype="float32").topic_leaning
    told = leaning(["ni", "hao"])[FIRST_TOPIC : FIRST_TOPIC + 3]
    torch.testing.assert_close(told, classifier.opinion(["ni", "hao"]), rtol=0, atol=0.01)
    save_quantised(folder, tmp_path / "int8", "int8")
    assert load_checkpoint(tmp_path / "int8").topic_leaning is not None
    before = load_checkpoint(folder, dtype="float32").fingerprint
    (folder / TOPICS_FILE).unlink()
    without = load_checkpoint(folder, dtype="float32")
    assert without.topic_leaning is None and without.fingerprint != before


def test_a_checkpoint_saved_without_one_has_none_of_an_older_one(folder, small_codec):
    save_small(folder, new_model(), small_codec, [*HEARD_TOKENS, *TOPIC_TOKENS])
    assert not (folder / TOPICS_FILE).exists()


def test_a_checkpoint_of_other_topics_is_refused(folder):
    write_topics(folder / TOPICS_FILE, TopicClassifier(("daily.food",), 8, 2))
    with pytest.raises(ValueError, match=f"{TOPICS_FILE}: .*daily.sleep"):
        load_checkpoint(folder, dtype="float32")


def test_what_was_heard_has_its_say_where_the_topic_is_written(folder):
    asked = []

    def lean(syllables):
        asked.append(syllables)
        leaning = torch.zeros(model.checkpoint.model.config.vocab_size)
        leaning[FIRST_TOPIC + 1] = 1e4
        return leaning

    model = WestlakeModel(load_checkpoint(folder, dtype="float32"))
    told = dataclasses.replace(model.checkpoint, topic_leaning=lean)
    leaning = WestlakeModel(told)
    audio = speech(3.0)
    plain, swayed = (tokens_of(each, audio=audio) for each in (model, leaning))
    assert swayed[:TOPIC_PLACE] == plain[:TOPIC_PLACE]
    assert swayed[TOPIC_PLACE] == FIRST_TOPIC + 1 != plain[TOPIC_PLACE]
    assert FIRST_TOPIC + 1 not in swayed[TOPIC_PLACE + 1 :]
    heard = reply_to(leaning, audio=audio)[0][-1].heard
    assert asked == [heard.split()] * 2
    assert tokens_of(leaning, text="ok") == tokens_of(model, text="ok") and len(asked) == 2


def tokens_of(model: WestlakeModel, **given) -> list[int]:
    """The reply's text tokens, marks included."""
    conversation = model.new_conversation()
    reply_to(model, conversation=conversation, **given)
    turn = conversation.turns[-1]
    return turn.columns[0, turn.prompt_length :].tolist()
