"""Conversations: what the model reads, and what it learns of it."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.dialogues import UNTOLD, Dialogues
from training.language import conversations as module
from training.language import mishearing, wording
from training.language.batch import Labels
from training.language.conversations import Conversations
from training.language.corpus import Spoken
from training.language.example import Example, join
from training.language.tokenizer import heard_token, questions_of, topic_token
from training.speech.pinyin import plain_syllables

MARKS = re.compile(r"<\|user(:\w+)?\|><\|style:\w+\|><\|topic:[\w.]+\|>")


def decode(conversations: Conversations, ids) -> str:
    return conversations.tokenizer.decode(ids, skip_special_tokens=True)


def draw(conversations: Conversations, number: int, speak: bool) -> list[Example]:
    rng = np.random.default_rng(0)
    return [conversations.draw(rng, speak) for _ in range(number)]


@pytest.mark.parametrize("speak", [True, False])
def test_what_is_learned_of_a_conversation(conversations: Conversations, dialogues, speak: bool):
    tokens, num_turns, inputs = conversations.tokens, set(), set()
    for example in draw(conversations, 150, speak):
        text, length = example.grid[0], example.grid.shape[1]
        assert example.grid.shape == (9, length)
        assert len(example.learn_text) == len(example.learn_codes) == length
        num_turns.add(len(example.asked))
        inputs.add(bool(example.heard))
        for column, question in example.asked:
            # The reply begins behind it: emotion, style and topic.
            begin = column + 1
            id = conversations.tokenizer.get_vocab()[topic_token(question)]
            topic = begin + int((text[begin:] == id).nonzero()[0])
            marks = conversations.tokenizer.decode(text[begin : topic + 1])
            assert MARKS.fullmatch(marks)
            assert (example.grid[1:, begin : topic + 1] == 0).all()
            assert not example.learn_codes[begin : topic + 1].any()
            silent = question.startswith(("unknown.unclear", "unknown.silence"))
            assert ("<|user|>" in marks) == silent
            assert not example.learn_text[column]
            assert question in questions_of(dialogues.intents)
            end = column + 1 + int((text[column + 1 :] == tokens.end).nonzero()[0])
            written = decode(conversations, text[column + 1 : end])
            assert written in conversations.replies
            if speak and not example.learn_text[begin]:
                continue  # in words alone: see below
            emotion, style, weight = example.learn_text[begin : topic + 1].tolist()
            assert emotion == module.EMOTION_WEIGHT and weight == module.TOPIC_WEIGHT
            assert style in (0, 1)
            if speak:
                assert example.learn_codes[topic + 1 : end].all()
                assert example.learn_text[end] and not example.learn_codes[end]
        for start, names in example.heard:
            heard = slice(start - module.HEARING_FRAMES, start + len(names))
            assert (text[heard] == tokens.semantic).all()
            assert not example.learn_text[heard].any() and any(names)
        if not speak:  # words, without the columns between them and without the end
            assert not example.learn_codes.any()
            assert not (text[example.learn_text > 0] == tokens.semantic).any()
            assert not example.learn_text[-1] and text[-1] == tokens.end
        for column, names in example.said:
            assert column + len(names) < length
    assert num_turns >= {1, 2, 3} and inputs == {True, False}


def test_a_question_ends_with_the_marks_of_its_reply(conversations: Conversations):
    rng = np.random.default_rng(0)
    examples = [conversations.draw_question(rng) for _ in range(60)]
    for example in examples:
        ((column, question),) = example.asked
        marks = conversations.tokenizer.decode(example.grid[0, column + 1 :])
        assert MARKS.fullmatch(marks) and marks.endswith(topic_token(question))
        assert not example.learn_text[: column + 1].any()
        emotion, style, topic = example.learn_text[column + 1 :].tolist()
        assert (emotion, topic) == (module.EMOTION_WEIGHT, module.TOPIC_WEIGHT) and style in (0, 1)
        assert not example.grid[1:].any() and not example.learn_codes.any()
        assert not (example.heard or example.spelled or example.said)
    texts = [conversations.tokenizer.decode(example.grid[0]) for example in examples]
    assert {"<|heard:" in text for text in texts} == {True, False}


def test_there_are_no_questions_of_noise_alone(conversations: Conversations):
    noise = copy.copy(conversations)
    noise.intents = {n: i for n, i in conversations.intents.items() if not i.users}
    assert noise.intents
    with pytest.raises(ValueError, match="no topic with a recorded reply has a 'user' line"):
        noise.draw_question(np.random.default_rng(0))


def test_a_further_turn_may_follow_words_alone(conversations: Conversations):
    kinds = set()
    for example in draw(conversations, 80, speak=True):
        begins = [column + 1 for column, _ in example.asked]
        ends = [*begins[1:], example.grid.shape[1]]
        for begin, end in zip(begins, ends):
            is_spoken = bool(example.learn_codes[begin:end].any())
            kinds.add((end == ends[-1], is_spoken))
            assert is_spoken == bool(example.learn_text[begin:end].any())
    assert kinds == {(True, True), (False, True), (False, False)}


def test_the_same_generator_draws_the_same(conversations: Conversations):
    for first, second in zip(draw(conversations, 5, True), draw(conversations, 5, True)):
        assert torch.equal(first.grid, second.grid)


def test_a_reply_writes_each_character_before_it_is_spoken(conversations: Conversations):
    spoken = Spoken(
        intent="", text="好，你好。", manner="warm", codes=torch.ones(8, 40).short(),
        onsets=(5, 12, 13),
    )  # fmt: skip
    columns = conversations.reply_columns(spoken)
    assert columns.shape == (9, 40) and (columns[1:] == 2).all()
    row = columns[0].tolist()
    written = {n: t for n, t in enumerate(row) if t != conversations.tokens.semantic}
    assert decode(conversations, list(written.values())) == "好，你好。"
    begins = {}
    for column in sorted(written):
        tokens = [token for place, token in written.items() if place <= column]
        text = decode(conversations, tokens).rstrip("\ufffd")
        begins.setdefault(text, column)
    assert begins["好"] < 5 and begins["好，你"] < 13 and begins["好，"] < 10 <= begins["好，你"]


def test_text_is_cut_into_pieces_that_say_the_same(conversations: Conversations):
    user = next(u for u in conversations.users["health.insomnia"] if len(u.text) > 8)
    whole = conversations.prompt(user, "text")
    cut = conversations.prompt(user, "text", rng=np.random.default_rng(0))
    assert cut.shape[1] > whole.shape[1]
    plain = conversations.tokenizer.decode
    assert plain(cut[0]) == plain(whole[0]) and user.text in plain(cut[0])


def test_speech_comes_with_or_without_its_text(conversations: Conversations):
    user = conversations.users["talk.hello"][0]
    spoken = {k: conversations.prompt(user, k) for k in ("speech", "speech_text", "text")}
    for inputs, prompt in spoken.items():
        columns = prompt[1:, prompt[1] > 0]
        assert columns.shape[1] == (0 if inputs == "text" else user.codes.shape[1])
        assert inputs == "text" or torch.equal(columns, user.codes.long() + 1)
    assert user.text not in conversations.tokenizer.decode(spoken["speech"][0])
    assert user.text in conversations.tokenizer.decode(spoken["speech_text"][0])


def test_turns_are_joined_at_the_end_of_a_reply(conversations: Conversations):
    rng = np.random.default_rng(1)
    hello = conversations.intents["talk.hello"]
    turns = [
        conversations._turn(hello, kind, index, rng, True)
        for index, kind in enumerate((None, "more"))
    ]
    joined = join(turns)
    first = turns[0].grid.shape[1]
    assert joined.grid.shape[1] == first + turns[1].grid.shape[1] - 1
    assert torch.equal(joined.grid[:, :first], turns[0].grid)
    assert torch.equal(joined.grid[:, first:], turns[1].grid[:, 1:])
    assert turns[1].grid[0, 0] == conversations.tokens.end == joined.grid[0, first - 1]
    assert joined.learn_text[first - 1]  # the first reply's end is learned
    (a, hello_asked), (b, more_asked) = joined.asked
    assert (hello_asked, more_asked) == ("talk.hello", "talk.hello.more")
    assert a == turns[0].asked[0][0] and b == turns[1].asked[0][0] + first - 1
    assert len(joined.said) == 2 and joined.said[1][0] == turns[1].said[0][0] + first - 1


def test_follow_ups_ask_about_the_topic_before(conversations: Conversations):
    asked = [[name for _, name in e.asked] for e in draw(conversations, 200, False)]
    followed = 0
    for names in asked:
        assert names[0].count(".") == 1
        for before, name in zip(names, names[1:]):
            if name.count(".") == 2:
                followed += 1
                assert name.rpartition(".")[0] == ".".join(before.split(".")[:2])
    assert followed > 20
    assert any(len(set(n.split(".")[0] for n in names)) > 1 for names in asked)  # new topics


def test_new_topics_may_take_back_what_was_said(conversations: Conversations, monkeypatch):
    monkeypatch.setattr(wording, "CORRECTION_SHARE", 1.0)
    monkeypatch.setattr(wording, "LOOSE_SHARE", 0.0)
    shares = {"text": 1.0}
    hello = conversations.intents["talk.hello"]
    for index, corrected in ((0, False), (1, True)):
        user, inputs = conversations._draw_user(
            hello, None, index, np.random.default_rng(0), shares
        )
        assert inputs == "text" and user.text.startswith(wording.CORRECTIONS) == corrected


def drawn(conversations: Conversations, monkeypatch, user: Spoken, inputs: str):
    """A first turn in which the user says or writes that."""
    monkeypatch.setattr(conversations, "_draw_user", lambda *_: (user, inputs))
    intent = conversations.intents["health.insomnia"]
    return conversations._draw_turn(intent, None, 0, np.random.default_rng(0), {inputs: 1.0})


@pytest.mark.parametrize("inputs", ["speech", "speech_text", "text", "transcript"])
def test_what_is_heard_is_written_where_nothing_else_is(
    conversations: Conversations, monkeypatch, inputs: str
):
    monkeypatch.setattr(mishearing, "MISHEARD_SHARE", 0.0)
    user = next(u for u in conversations.users["health.insomnia"] if u.onsets)
    names = plain_syllables(user.text)
    turn = drawn(conversations, monkeypatch, user, inputs)
    written = conversations.tokenizer.decode(turn.prompt[0])
    expected = "".join(map(heard_token, names)) if inputs in ("speech", "transcript") else ""
    assert written.endswith(f"{expected}<|im_end|><|im_start|>assistant\n")
    assert written.count("<|heard:") == expected.count("<|heard:")
    if inputs != "speech":
        assert turn.spelled == []
        assert inputs == "speech_text" or (turn.prompt[1:] == 0).all()
        return
    ((first, length, spelled),) = turn.spelled
    assert spelled == names and length == user.codes.shape[1]
    assert torch.equal(turn.prompt[1:, first : first + length], user.codes.long() + 1)


def test_of_a_recording_less_may_be_known(conversations: Conversations, monkeypatch):
    """Neither the emotion nor where the syllables begin: what is said is learned all the same."""
    known = next(u for u in conversations.users["health.insomnia"] if u.onsets)
    user = replace(known, manner=UNTOLD, onsets=())
    monkeypatch.setattr(conversations, "_draw_user", lambda *_: (user, "speech"))
    intent = conversations.intents["health.insomnia"]
    for speak in (False, True):
        turn = conversations._turn(intent, None, 0, np.random.default_rng(0), speak)
        (reply,) = (column for column, _ in turn.asked)
        emotion, _, topic = turn.learn_text[reply + 1 : reply + 4].tolist()
        assert emotion == 0 and topic == module.TOPIC_WEIGHT
        ((_, length, spelled),) = turn.spelled
        assert spelled == plain_syllables(user.text) and length == user.codes.shape[1]
        assert turn.heard == []


def test_of_sounds_without_words_nothing_is_to_be_written(
    conversations: Conversations, monkeypatch
):
    (sound,) = {u.intent: u for u in conversations.users["unknown.unclear"]}.values()
    turn = drawn(conversations, monkeypatch, sound, "speech")
    assert [names for *_, names in turn.spelled] == [[]]


def test_the_unknown_is_drawn_more_often(conversations: Conversations):
    rng = np.random.default_rng(0)
    names = [conversations._draw_intent(rng).name for _ in range(600)]
    assert names.count("unknown.other") > 4 * names.count("talk.hello") > 0
    assert names.count("unknown.unclear") > names.count("unknown.silence") > 0


def test_sounds_without_words_are_always_heard(conversations: Conversations):
    unclear = conversations.intents["unknown.unclear"]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        user, inputs = conversations._draw_user(unclear, None, 0, rng, {"text": 1.0})
        assert inputs == "speech" and user.text == "" and user.codes.shape[1]


def test_replies_that_are_not_recorded_yet_are_not_drawn(
    dialogues: Dialogues, spoken_users, spoken_replies, tokenizer, no_converter
):
    some = [r for r in spoken_replies if r.intent == "talk.hello" and r.manner == "warm"]
    few = Conversations(dialogues, spoken_users, some, tokenizer, 8)
    assert list(few.intents) == ["talk.hello"]
    for example in draw(few, 40, True):
        assert all(name.startswith("talk.hello") for _, name in example.asked)


def test_examples_are_padded_on_the_right(
    conversations: Conversations, dialogues: Dialogues, tokenizer
):
    examples = draw(conversations, 3, True)
    batch = Labels(dialogues, tokenizer).collate(examples, 1000, np.random.default_rng(0))
    longest = max(e.grid.shape[1] for e in examples)
    assert batch.grid.shape == (3, 9, longest)
    for row, example in enumerate(examples):
        length = example.grid.shape[1]
        grid, users = batch.grid[row], batch.users[row]
        assert torch.equal(grid[:, :length].long(), example.grid) and not grid[:, length:].any()
        assert torch.equal(users[:length], example.users) and not users[length:].any()
        assert torch.equal(batch.replies[row, :length], example.learn_codes)
