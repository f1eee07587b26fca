"""The evaluation as a whole: a good checkpoint scores well, and every kind of bad one badly."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_evaluation import FakeEar, FakeModel, FakeTeacher
from small import small_model

from training.dialogues import EMOTIONS, STYLES, UNKNOWN, Dialogues, load_dialogues
from training.evaluation import asking, questions, run, speaking
from training.evaluation import ear as ears
from training.evaluation.figures import FIGURES, Report, format_report, to_json

NUM_UTTERANCES = 20
UNDERSTANDING = (
    "intent_speech_natural",
    "intent_speech_text_natural",
    "intent_text",
    "intent_speech",
    "intent_speech_text",
    "later_turns",
    "later_turns_speech",
    "second_turn",
)
CODEC = ("codec_stoi", "copy_pinyin_error", "copy_people_pinyin_error", "codes_used_min")


@pytest.fixture(scope="module")
def dialogues() -> Dialogues:
    """Some that can be answered, and all that can't."""
    everything = load_dialogues()
    known = [intent for intent in everything.intents if intent.scene != UNKNOWN]
    unknown = [intent for intent in everything.intents if intent.scene == UNKNOWN]
    return replace(everything, intents=(*known[::15], *unknown))


@pytest.fixture(autouse=True)
def few_and_plain(monkeypatch):
    """Characters in place of pinyin, which needs the training's packages."""
    monkeypatch.setattr(ears, "syllables", list)
    monkeypatch.setattr(ears, "plain_syllables", list)
    monkeypatch.setattr(run, "NUM_STYLED", 2)
    monkeypatch.setattr(run, "NUM_TIMED", 2)


def measure(dialogues: Dialogues, change=None, codec=None, **attributes) -> Report:
    teacher = FakeTeacher()
    model = FakeModel(teacher, dialogues, *([change] if change else []))
    for name, value in attributes.items():
        setattr(model, name, value)
    if codec is not None:
        model.checkpoint = SimpleNamespace(codec=codec)
    ear = FakeEar(teacher)
    return run.evaluate(model, dialogues, teacher, ear, NUM_UTTERANCES, seed=0, others=True)


def values(report: Report) -> dict[str, float | None]:
    return json.loads(to_json(report.figures))


@pytest.fixture(scope="module")
def good(dialogues):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ears, "syllables", list)
        patch.setattr(ears, "plain_syllables", list)
        return measure(dialogues)


def test_a_checkpoint_that_knows_everything_meets_every_bar(good):
    figures = values(good)
    for name, aim in FIGURES.items():
        if name in CODEC:
            assert figures[name] is None, name  # it has none
        elif aim.bar is not None:
            assert aim.is_met(figures[name]), (name, figures[name])
    assert all(figures[name] == 1 for name in UNDERSTANDING)
    assert figures["unknown_recall"] == figures["unclear_silence"] == 1
    assert figures["unclear_foreign"] == 1
    assert figures["user_emotion_accuracy"] == figures["style_order"] == figures["stop_rate"] == 1
    assert figures["told_emotion_accuracy"] == 1
    assert figures["reply_pinyin_error"] == figures["teacher_pinyin_error"] == 0
    assert figures["unknown_false"] == 0
    assert figures["heard_pinyin_error"] == figures["heard_other_pinyin_error"] == 0
    assert figures["intent_speech_other"] == 1


def test_counts_are_told_beside_the_shares(good):
    counts = values(good)["counts"]
    assert counts["intent_speech_natural"] == [NUM_UTTERANCES, NUM_UTTERANCES]
    assert counts["later_turns"] == counts["later_turns_speech"] == [12, 12]
    assert counts["unknown_false"] == [0, 2 * NUM_UTTERANCES]
    table = format_report(good)
    assert "20/20" in table
    assert all(word in table for word in (*EMOTIONS, *STYLES, *FIGURES))
    asked = [exchange for exchange in good.exchanges if exchange.measure == "later_turns"]
    assert len(asked) == 12 and all(exchange.counts for exchange in asked)


def test_shuffled_replies_score_badly(dialogues):
    intents = [intent for intent in dialogues.intents if intent.scene != UNKNOWN]
    texts = [
        text for intent in intents for of_style in intent.replies.values() for text in of_style
    ]
    order = itertools.cycle(np.random.default_rng(0).permutation(texts).tolist())
    figures = values(measure(dialogues, lambda reply: replace(reply, text=next(order))))
    heard = (*UNDERSTANDING, "intent_speech_other")
    assert all(figures[name] < 0.35 for name in heard)  # of ten intents
    assert figures["unknown_recall"] == figures["unclear_silence"] == 0
    assert figures["unclear_foreign"] == 0
    assert figures["reply_pinyin_error"] > 0.7
    assert figures["reply_cer"] > 0.7


def test_replies_mixed_of_several_are_counted(dialogues, good):
    """A variation of a right reply still fits."""
    taught = "replies that were taught, word for word"
    assert good.notes[taught].hits == good.notes[taught].total == 3 * NUM_UTTERANCES
    mixed = measure(dialogues, lambda reply: replace(reply, text=f"{reply.text}好吗？"))
    assert (mixed.notes[taught].hits, mixed.notes[taught].total) == (0, 3 * NUM_UTTERANCES)
    assert values(mixed)["intent_text"] > 0.9


def test_a_constant_emotion_is_no_better_than_chance(dialogues):
    for emotion in ("sad", None):
        figures = values(measure(dialogues, lambda r, e=emotion: replace(r, emotion=e)))
        assert figures["user_emotion_accuracy"] <= 0.2
        assert figures["told_emotion_accuracy"] == pytest.approx(1 / 6, abs=1e-4)
        assert figures["intent_text"] == 1


def test_what_is_written_down_wrong_is_counted(dialogues):
    """One syllable in each spoken turn, whatever is replied."""
    report = measure(dialogues, lambda r: replace(r, heard=r.heard and f"?{r.heard[1:]}"))
    figure = report.figures["heard_pinyin_error"]
    said = [e.said for e in report.exchanges if e.measure == "intent_speech_natural"]
    assert (figure.hits, figure.total) == (NUM_UTTERANCES, sum(map(len, said)))
    heard = [e.heard for e in report.exchanges if e.measure == "intent_speech_natural"]
    assert heard == [f"? {' '.join(text[1:])}" for text in said]
    assert values(report)["intent_speech_natural"] == 1


def test_a_turn_of_which_nothing_is_written_down_counts_as_wrong(dialogues):
    silent = itertools.cycle([True, False])
    report = measure(dialogues, lambda r: replace(r, heard=None if next(silent) else r.heard))
    heard = [e for e in report.exchanges if e.measure == "intent_speech_natural"]
    missed = [len(e.said) for e in heard if e.heard is None]
    assert 0 < len(missed) < len(heard)
    assert report.figures["heard_pinyin_error"].hits == sum(missed)


def test_a_checkpoint_that_writes_nothing_down_has_no_such_figure(dialogues):
    report = measure(dialogues, lambda r: replace(r, heard=None))
    assert "heard_pinyin_error" not in values(report) and "codec_stoi" in values(report)
    assert "heard_other_pinyin_error" not in values(report)
    assert "heard_pinyin_error" not in format_report(report)


def test_a_mute_checkpoint_scores_badly(dialogues):
    figures = values(measure(dialogues, lambda r: replace(r, wave=r.wave[:0])))
    assert figures["reply_pinyin_error"] == figures["reply_cer"] == 1
    assert figures["style_order"] == 0
    assert figures["rtf"] is None and figures["first_sound"] is None
    silent = values(measure(dialogues, lambda r: replace(r, wave=0 * r.wave, text="", ended=False)))
    assert all(silent[name] == 0 for name in (*UNDERSTANDING, "stop_rate", "unknown_recall"))


def test_a_checkpoint_that_never_or_always_gives_up_is_found_out(dialogues):
    unknown = next(i for i in dialogues.intents if i.name == "unknown.other")
    (text, *_), *_ = unknown.replies.values()
    always = values(measure(dialogues, lambda reply: replace(reply, text=text)))
    assert always["unknown_recall"] == 1
    assert always["unknown_false"] == 1
    assert always["unclear_silence"] == 0  # it asks nobody to say it again
    assert all(always[name] == 0 for name in UNDERSTANDING)
    (known, *_), *_ = dialogues.intents[0].replies.values()
    never = values(measure(dialogues, lambda reply: replace(reply, text=known)))
    assert never["unknown_recall"] == never["unknown_false"] == 0


def test_a_checkpoint_that_repeats_itself_has_no_variety(dialogues):
    firsts = {
        text: next(iter(intent.replies.values()))[0]
        for intent in dialogues.intents
        for texts in intent.replies.values()
        for text in texts
    }
    figures = values(
        measure(
            dialogues, lambda r: replace(r, text=firsts.get(r.text, r.text), wave=r.wave[:4000])
        )
    )
    assert figures["variety"] == 0
    assert figures["intent_text"] == 1


def test_a_bad_codec_scores_badly(dialogues, small_codec):
    figures = values(measure(dialogues, codec=small_codec))
    assert figures["codec_stoi"] < 0.5
    assert figures["copy_pinyin_error"] == figures["copy_people_pinyin_error"] == 1
    assert 1 <= figures["codes_used_min"] <= 32


def test_a_checkpoint_without_emotions_and_styles_gets_what_it_can(dialogues):
    report = measure(
        dialogues, lambda r: replace(r, emotion=None, style=None), emotions=(), styles=()
    )
    figures = values(report)
    assert figures["user_emotion_accuracy"] is None and figures["style_order"] is None
    assert figures["intent_text"] == 1
    assert "user_emotion_accuracy" in format_report(report)


def test_random_weights_score_badly(dialogues, small_codec, monkeypatch):
    for module in (asking, speaking):
        monkeypatch.setattr(module, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(run, "NUM_STYLED", 1)
    monkeypatch.setattr(asking, "NUM_USERS", 1)
    teacher = FakeTeacher()
    model = small_model(small_codec, max_seq_len=512)
    figures = values(run.evaluate(model, dialogues, teacher, FakeEar(teacher), 4, seed=0))
    assert all(figures[name] == 0 for name in UNDERSTANDING)
    assert "intent_speech_other" not in figures  # there are no other voices
    assert figures["unknown_recall"] == figures["unclear_silence"] == 0
    assert figures["unclear_foreign"] == 0
    assert figures["user_emotion_accuracy"] <= 0.5
    assert figures["reply_pinyin_error"] == figures["copy_pinyin_error"] == 1
    assert figures["rtf"] > 0
    assert figures["first_sound"] > 0


def test_replies_depend_on_the_seed_alone(dialogues, small_codec):
    model = small_model(small_codec, max_seq_len=512)
    lines = questions.known_lines(dialogues, 3, seed=0)
    asked = questions.spoken(FakeTeacher(), lines, seed=0)
    answers, again = (asking.ask_each(model, asked, 7, max_seconds=0.3) for _ in range(2))
    alone = asking.ask_each(model, asked[:1], 7, max_seconds=0.3)
    assert [a.text for a in answers] == [a.text for a in again]
    assert answers[0].text == alone[0].text
    assert np.allclose(answers[0].wave, alone[0].wave, atol=1e-4)
    assert {a.style for a in asking.ask_each(model, asked, 7, style="calm", max_seconds=0.3)} == {
        "calm"
    }
