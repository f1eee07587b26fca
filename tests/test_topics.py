"""A turn's words have a say in what a reply is about: the classifiers, their file, the reply."""

import dataclasses
import json

import pytest
import torch
from replying import reply_to, speech
from safetensors.torch import load_file, save_file
from small_checkpoint import HEARD_TOKENS, new_model, save_small

from models.westlake.checkpoint import load_checkpoint
from models.westlake.opinions import DOUBT
from models.westlake.reply import TOPIC_PLACE
from models.westlake.saved_checkpoint import save_quantised
from models.westlake.speech_model import WestlakeModel
from models.westlake.topics import (
    HEARD,
    SAY,
    TOPICS_FILE,
    UNKNOWN_PRIORS,
    WRITTEN,
    TopicClassifier,
    TopicLeaning,
    characters,
    read_topics,
    write_topics,
)

CLASSES = ("daily.food", "daily.sleep", "how")
TOPIC_TOKENS = ["<|topic:daily.food|>", "<|topic:daily.sleep|>", "<|topic:daily.food.how|>"]
LINES = (["wo", "hen", "kun"], ["wo", "kun", "hen"], ["chi", "fan"], ["wo", "e"], ["ni", "hao"])
FIRST_TOPIC = 265  # behind those that are heard


@pytest.fixture
def classifiers() -> dict[str, TopicClassifier]:
    torch.manual_seed(0)
    made = {kind: TopicClassifier(CLASSES, num_buckets=1 << 10, dim=4) for kind in (HEARD, WRITTEN)}
    for classifier in made.values():
        classifier.assign_buckets([[line] for line in LINES], 1)
    return made


@pytest.fixture
def classifier(classifiers) -> TopicClassifier:
    return classifiers[HEARD]


def test_a_transcript_is_its_ngrams(classifier):
    bag = classifier.buckets(["wo", "hen", "kun"])
    # Five of one with the line's ends, four of two, three of three, three around another.
    assert len(bag) == 5 + 4 + 3 + 3 and all(0 <= bucket < 1 << 10 for bucket in bag)
    assert sorted(bag) != sorted(classifier.buckets(["wo", "kun", "hen"]))
    assert classifier.buckets(["wo"])[1] == bag[1]
    # Of a line that nobody said, those n-grams are left that known lines have.
    assert len(classifier.buckets(["wo", "hen", "lei"])) == 4 + 2 + 1 + 2
    summed = classifier.embedding.weight[bag].sum(0)
    torch.testing.assert_close(classifier([bag])[0], classifier.output(summed))
    both = classifier([bag, bag[:2], bag[:0]])
    torch.testing.assert_close(both[0], classifier([bag])[0])
    torch.testing.assert_close(both[2], classifier.output.bias)


def test_a_bucket_is_the_ngrams_that_most_lines_have():
    classifier = TopicClassifier(CLASSES, num_buckets=1, dim=4)
    lines = [[["wo"]], [["ni"]], [["ta"]]]
    classifier.assign_buckets(lines, 1)
    assert len(classifier.buckets(["lei"])) == 1  # of a line's ends and their pair, which all have
    for rarer in (lines, [[["wo"], ["wo"], ["wo"], ["wo"]]]):
        classifier.assign_buckets(rarer, 4)
        assert not len(classifier.buckets(["wo"]))


def test_an_opinion_rules_nothing_out(classifier):
    with torch.no_grad():
        classifier.output.bias.copy_(torch.tensor([100.0, 0, 0]))
    told = classifier.opinion(["wo", "e"]).exp()
    expected = [1 - DOUBT + DOUBT / 3, DOUBT / 3, DOUBT / 3]
    torch.testing.assert_close(told, torch.tensor(expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [HEARD, WRITTEN])
def test_what_is_told_is_sooner_taken_for_unknown(kind: str):
    torch.manual_seed(0)
    classes = ("daily.food", "unknown.other", "unknown.unclear")
    classifiers = {kind: TopicClassifier(classes, num_buckets=64, dim=4) for kind in UNKNOWN_PRIORS}
    for classifier in classifiers.values():  # which know nothing
        torch.nn.init.zeros_(classifier.output.weight)
        torch.nn.init.zeros_(classifier.output.bias)
    leaning = TopicLeaning(classifiers, {name: n for n, name in enumerate(classes)}, 4)
    prior = UNKNOWN_PRIORS[kind]
    told = torch.softmax(torch.tensor([0.0, prior, prior]), 0)
    lean = (leaning(kind, ["chi"]) / SAY).exp()
    torch.testing.assert_close(lean[:3], (1 - DOUBT) * told + DOUBT / 3)
    assert UNKNOWN_PRIORS[HEARD] > UNKNOWN_PRIORS[WRITTEN] > 0


def test_what_cannot_be_answered_is_not_known():
    classes = ("daily.food", "unknown.other")
    classifiers = {kind: TopicClassifier(classes, num_buckets=64, dim=4) for kind in UNKNOWN_PRIORS}
    leaning = TopicLeaning(classifiers, dict(zip(classes, range(2))), 2)
    for classifier in classifiers.values():
        torch.nn.init.zeros_(classifier.output.weight)
    for bias, known in (
        (0.0, {HEARD: False, WRITTEN: False}),
        (2.0, {HEARD: False, WRITTEN: True}),
    ):
        for kind, classifier in classifiers.items():  # what is heard has to be surer
            with torch.no_grad():
                classifier.output.bias.copy_(torch.tensor([bias, 0]))
            assert leaning.knows(kind, ["chi"]) == known[kind]


def test_what_is_written_is_its_letters_and_digits():
    assert characters("我，3點 Got UP！？😀") == list("我3點gotup")
    assert characters("？？！😀") == []


@pytest.mark.parametrize("kind", [HEARD, WRITTEN])
def test_topics_lean_and_nothing_else_gains_by_it(classifiers, kind):
    ids = {"daily.food": 7, "daily.sleep": 5, "daily.food.how": 2, "daily.sleep.how": 3}
    leaning = TopicLeaning(classifiers, ids, 9)(kind, ["chi", "fan"]) / SAY
    opinion = classifiers[kind].opinion(["chi", "fan"])
    assert leaning.shape == (9,)
    least = torch.full((5,), DOUBT / len(CLASSES)).log()
    torch.testing.assert_close(leaning[[0, 1, 4, 6, 8]], least)
    assert (opinion >= least[0]).all()
    torch.testing.assert_close(leaning[[7, 5, 2, 3]], opinion[[0, 1, 2, 2]])
    assert TopicLeaning(classifiers, {}, 9)(kind, ["chi", "fan"]).unique().numel() == 1
    with pytest.raises(ValueError, match="do not know talk.joke"):
        TopicLeaning(classifiers, {**ids, "talk.joke": 1}, 9)


def test_a_file_keeps_them(classifiers, tmp_path):
    path = tmp_path / TOPICS_FILE
    write_topics(path, classifiers)
    line = ["wo", "hen", "kun"]
    for kind, read in read_topics(path).items():
        assert read.classes == CLASSES and not any(x.requires_grad for x in read.parameters())
        kept, was = read.embedding.weight, classifiers[kind].embedding.weight.detach()
        assert kept.dtype == torch.float32 and read.checks.dtype == torch.uint8
        assert read.checks.any() and torch.equal(read.checks, classifiers[kind].checks)
        step = float(was.abs().max()) / 127
        torch.testing.assert_close(kept, was, rtol=0, atol=0.5001 * step)
        torch.testing.assert_close(
            read.opinion(line), classifiers[kind].opinion(line), atol=0.1, rtol=0
        )
    with torch.no_grad():
        classifiers[WRITTEN].embedding.weight.zero_()
    write_topics(path, classifiers)
    assert not read_topics(path)[WRITTEN].embedding.weight.any()
    with torch.no_grad():
        classifiers[WRITTEN].embedding.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        write_topics(path, classifiers)


def test_files_of_something_else_are_refused_by_name(classifiers, tmp_path):
    path = tmp_path / TOPICS_FILE
    write_topics(path, classifiers)
    whole = load_file(path)
    save_file(whole, path)
    with pytest.raises(ValueError, match=f"{TOPICS_FILE}: 'classes'"):
        read_topics(path)
    for classes in ("5", '{"a": 1}', "[1]", "[]", "a", '["a"]'):
        save_file(whole, path, {"classes": classes})
        with pytest.raises(ValueError, match=TOPICS_FILE):
            read_topics(path)
    classes = {"classes": json.dumps(CLASSES)}
    for key in whole:
        save_file({name: whole[name] for name in whole if name != key}, path, classes)
        with pytest.raises(ValueError, match=f"{TOPICS_FILE}.*{key}"):
            read_topics(path)
    for empty in (torch.zeros(0, 2), torch.zeros(8, 0), torch.zeros(8)):
        save_file({**whole, "heard.embedding.weight": empty.to(torch.int8)}, path, classes)
        with pytest.raises(ValueError, match=TOPICS_FILE):
            read_topics(path)
    save_file({**whole, "heard.step": torch.ones(3)}, path, classes)
    with pytest.raises(ValueError, match=TOPICS_FILE):
        read_topics(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="can't be read"):
        read_topics(path)


@pytest.fixture
def folder(small_codec, classifiers, tmp_path):
    tokens = [*HEARD_TOKENS, *TOPIC_TOKENS]
    folder = tmp_path / "saved"
    folder.mkdir()
    save_small(folder, new_model(), small_codec, tokens)
    write_topics(folder / TOPICS_FILE, classifiers)
    return folder


def test_a_checkpoint_has_it_where_the_file_is(folder, small_codec, classifier, tmp_path):
    leaning = load_checkpoint(folder, dtype="float32").topic_leaning
    told = leaning(HEARD, ["ni", "hao"])[FIRST_TOPIC : FIRST_TOPIC + 3] / SAY
    torch.testing.assert_close(told, classifier.opinion(["ni", "hao"]), rtol=0, atol=0.1)
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
    others = {kind: TopicClassifier(("daily.food",), 8, 2) for kind in (HEARD, WRITTEN)}
    write_topics(folder / TOPICS_FILE, others)
    with pytest.raises(ValueError, match=f"{TOPICS_FILE}: .*daily.sleep"):
        load_checkpoint(folder, dtype="float32")


@pytest.mark.parametrize("given", [{"audio": speech(3.0)}, {"text": "Ok!"}], ids=[HEARD, WRITTEN])
def test_a_turns_words_have_their_say_where_the_topic_is_written(folder, given):
    asked = []

    def lean(kind, symbols):
        asked.append((kind, symbols))
        leaning = torch.zeros(model.checkpoint.model.config.vocab_size)
        leaning[FIRST_TOPIC + 1] = 1e4
        return leaning

    lean.knows = lambda kind, symbols: True
    model = WestlakeModel(load_checkpoint(folder, dtype="float32"))
    plain = WestlakeModel(dataclasses.replace(model.checkpoint, topic_leaning=None))
    leaning = WestlakeModel(dataclasses.replace(model.checkpoint, topic_leaning=lean))
    without, swayed = (tokens_of(each, **given) for each in (plain, leaning))
    assert swayed[:TOPIC_PLACE] == without[:TOPIC_PLACE]
    assert swayed[TOPIC_PLACE] == FIRST_TOPIC + 1 != without[TOPIC_PLACE]
    assert FIRST_TOPIC + 1 not in swayed[TOPIC_PLACE + 1 :]
    if "audio" in given:
        heard = reply_to(leaning, **given)[0][-1].heard
        assert asked == [(HEARD, heard.split())] * 2
        asked.clear()
        tokens_of(leaning, text="Ok!", **given)  # what is written stands above what is heard
    assert asked == [(WRITTEN, ["o", "k"])]
    asked.clear()
    assert tokens_of(leaning, text="?!") == tokens_of(plain, text="?!") and not asked


def tokens_of(model: WestlakeModel, **given) -> list[int]:
    """The reply's text tokens, marks included."""
    conversation = model.new_conversation()
    reply_to(model, conversation=conversation, **given)
    turn = conversation.turns[-1]
    return turn.columns[0, turn.prompt_length :].tolist()
