"""What is to be said: users' lines and replies."""

import numpy as np

from training.dialogues import EMOTIONS, STYLE_FOR_EMOTION, STYLES, Dialogues
from training.speech.lines import (
    draw_emotion,
    followup_styles,
    foreign_lines,
    reply_lines,
    styled_replies,
    user_lines,
)
from training.speech.speakers import PLAIN
from training.speech.teacher import phonemise


def test_every_user_line_is_said_in_voices_of_its_own(shipped: Dialogues):
    lines = user_lines(shipped, 2, seed=3)
    texts = {text for intent in shipped.intents for text in intent.users}
    texts |= {text for users, _ in shipped.followups.values() for text in users}
    half = len(lines) // 2
    assert {line.text for line in lines[:half]} == {line.text for line in lines[half:]} == texts
    assert half == len(texts) and [x.text for x in lines[:half]] != [x.text for x in lines[half:]]
    assert len({line.seed for line in lines}) > 0.999 * len(lines)
    assert {line.manner for line in lines} == set(EMOTIONS)
    assert not any(line.heldout for line in lines)
    assert lines[:half] == user_lines(shipped, 1, seed=3) != user_lines(shipped, 1, seed=4)
    assert {line.manner for line in user_lines(shipped, 1, seed=3, plain=True)} == {PLAIN}


def test_held_out_lines_and_voices_go_together(shipped: Dialogues):
    lines = user_lines(shipped, 1, seed=3, heldout=True)
    held = {text for intent in shipped.intents for text in intent.held}
    held |= {text for _, texts in shipped.followups.values() for text in texts}
    assert {line.text for line in lines} == held and all(line.heldout for line in lines)
    assert not held & {line.text for line in user_lines(shipped, 1, seed=3)}


def test_other_languages_are_phonemes_that_the_evaluation_keeps_apart():
    lines, held = foreign_lines(2, seed=3), foreign_lines(1, seed=3, heldout=True)
    assert len(lines) == 2 * len({line.text for line in lines}) > 150 and len(held) > 25
    assert not {line.text for line in lines} & {line.text for line in held}
    assert all(line.heldout for line in held) and not any(line.heldout for line in lines)
    for line in lines + held:
        assert line.source == "unknown.unclear"
        phonemes, starts = phonemise(line.text)
        assert f"/{phonemes}/" == line.text and starts == []


def test_sources_are_intents_or_follow_ups(dialogues: Dialogues):
    sources = {line.text: line.source for line in user_lines(dialogues, 1, seed=0)}
    assert sources["你好。"] == "talk.hello" and sources["还有呢？"] == "follow.more"


def test_emotions_are_mostly_those_of_the_words(dialogues: Dialogues):
    rng = np.random.default_rng(0)
    insomnia = dialogues.intents[0]
    drawn = [draw_emotion(insomnia, rng) for _ in range(600)]
    plausible = sum(emotion in insomnia.emotions for emotion in drawn) / len(drawn)
    assert 0.7 < plausible < 0.9 and set(drawn) == set(EMOTIONS)
    follow = [draw_emotion(None, rng) for _ in range(600)]
    assert min(follow.count(emotion) for emotion in EMOTIONS) > 60


def test_half_the_lines_in_other_voices_have_any_emotion(dialogues: Dialogues):
    emotions = {intent.name: intent.emotions for intent in dialogues.intents}

    def plausible(other: bool) -> float:
        lines = user_lines(dialogues, 200, seed=0, other=other)
        assert {line.other for line in lines} == {other}
        said = [line.manner in emotions[line.source] for line in lines if line.source in emotions]
        return sum(said) / len(said)

    assert plausible(other=True) < plausible(other=False) - 0.15


def test_every_intent_has_a_reply_line_for_each_style(shipped: Dialogues):
    lines = reply_lines(shipped, seed=1)
    assert all(line.seed is None and not line.heldout for line in lines)
    assert len({(line.source, line.text, line.manner) for line in lines}) == len(lines)
    said = {}
    for line in lines:
        said.setdefault((line.source, line.manner), set()).add(line.text)
    for intent in shipped.intents:
        for style in STYLES:
            texts = said[intent.name, style]
            assert set(styled_replies(intent)[style]) <= texts
        for style in followup_styles(intent):
            assert set(intent.then.values()) <= said[intent.name, style]
        for style, written in intent.replies.items():
            assert set(written) <= said[intent.name, style]


def test_the_most_needed_replies_come_first(shipped: Dialogues):
    lines = reply_lines(shipped, seed=1)
    number = len(shipped.intents)
    assert {line.source for line in lines[:number]} == {intent.name for intent in shipped.intents}
    likely = {i.name: STYLE_FOR_EMOTION[i.emotions[0]] for i in shipped.intents}
    assert all(line.manner == likely[line.source] for line in lines[:number])
    then = {text for intent in shipped.intents for text in intent.then.values()}
    assert {line.text for line in lines[number : 3 * number]} == then
    assert lines == reply_lines(shipped, seed=1)


def test_a_style_without_a_reply_borrows_one_of_the_nearest(dialogues: Dialogues):
    styled = styled_replies(dialogues.intents[0])
    assert styled["comforting"] == ("睡不着真难受。", "我陪着你。")
    assert styled["calm"] == ("睡不着真难受。",) and styled["cheerful"] == ("会好的。",)
