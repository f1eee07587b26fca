"""The evaluation: what it counts is right, and a bad checkpoint scores badly."""

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_model

from models.westlake.checkpoint import Checkpoint
from models.westlake.firefly import FireflyArchitecture
from training import evaluate, judge, measures, scores
from training.answers import answer_all, draw_questions
from training.dialogues import EMOTIONS, STYLES, Dialogues, load_dialogues
from training.prosody import ProsodyMeasure
from training.synthesise import SAMPLE_RATE, STYLE_PROSODY

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is missing: apt-get install espeak-ng"
)

KNOWN = {
    "health.insomnia": ["睡不着真难受，睡前先放下手机吧。", "别急，先泡个脚，今晚会好一点的。"],
    "health.headache": ["头疼就先歇一会儿，喝点温水。", "一直疼的话，记得去看医生。"],
    "moods.lonely": ["我在这里陪你，慢慢说。"],
}


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ([("n", "i3"), ("X", "Au3")], [("n", "i2"), ("X", "Au3")], 1),
    ],
)
def test_edit_distance(first, second, distance):
    assert scores.edit_distance(first, second) == distance
    assert scores.edit_distance(second, first) == distance


def test_edit_distance_is_a_distance():
    rng = random.Random(0)
    words = ["".join(rng.choices("abc", k=rng.randrange(7))) for _ in range(30)]
    for a, b, c in zip(words, words[1:], words[2:]):
        direct = scores.edit_distance(a, c)
        assert direct <= scores.edit_distance(a, b) + scores.edit_distance(b, c)
        assert abs(len(a) - len(c)) <= direct <= max(len(a), len(c))
        assert (direct == 0) == (a == c)


@pytest.mark.parametrize(
    ("text", "wanted", "right"),
    [
        ("睡不着真难受，睡前先放下手机吧。", "health.insomnia", True),
        ("睡不着真难受，先放下手机吧。", "health.insomnia", True),  # a variation
        ("睡不着真难受睡前先放下手机吧", "health.insomnia", True),  # punctuation does not count
        ("头疼就先歇一会儿，喝点温水。", "health.insomnia", False),  # another intent's
        ("头疼就先歇一会儿，喝温水。", "health.insomnia", False),
        ("", "health.insomnia", False),
        ("，。，。，。", "health.insomnia", False),
        ("的的不了难受吗天真啊手机吧好", "health.insomnia", False),  # gibberish, though nearest
        ("睡", "health.insomnia", False),
    ],
)
def test_a_right_reply_is_near_its_intent_and_nothing_else(text, wanted, right):
    assert scores.is_right_reply(text, wanted, KNOWN) is right


def test_a_reply_as_near_to_another_intent_is_not_right():
    known = {"a": ["你好好吗"], "b": ["你好坏吗"]}
    assert not scores.is_right_reply("你好大吗", "a", known)
    assert scores.is_right_reply("你好好呢", "a", known)


def test_a_text_that_two_intents_share_is_right_for_both():
    known = {"a": ["好的，没问题。"], "b": ["好的，没问题。"]}
    assert all(scores.is_right_reply("好的，没问题。", name, known) for name in known)


def test_confusion_and_accuracy():
    counts = scores.confusion(["a", "a", "b", "b"], ["a", "b", None, "other"], ["a", "b"])
    assert counts == {"a": {"a": 1, "b": 1, None: 0}, "b": {"a": 0, "b": 0, None: 2}}
    assert scores.accuracy(counts) == 0.25
    assert math.isnan(scores.accuracy(scores.confusion([], [], ["a"])))


def test_a_constant_emotion_is_no_better_than_chance():
    truths = list(EMOTIONS) * 20
    for constant in (*EMOTIONS, None):
        counts = scores.confusion(truths, [constant] * len(truths), EMOTIONS)
        assert scores.accuracy(counts) == pytest.approx(0 if constant is None else 1 / 6)


def test_shuffled_replies_score_badly():
    intents = load_dialogues().intents
    known = {i.name: [t for texts in i.replies.values() for t in texts] for i in intents}
    asked = [(name, text) for name, texts in known.items() for text in texts[:2]]
    assert scores.share([scores.is_right_reply(text, name, known) for name, text in asked]) == 1
    texts = [text for _, text in asked]
    random.Random(0).shuffle(texts)
    hits = [scores.is_right_reply(text, name, known) for (name, _), text in zip(asked, texts)]
    assert scores.share(hits) < 0.1


def test_every_taught_reply_is_right_though_a_character_is_wrong():
    intents = load_dialogues().intents[:20]
    known = {i.name: [t for texts in i.replies.values() for t in texts] for i in intents}
    hits = [
        scores.is_right_reply(text[:3] + "嗯" + text[4:], name, known)
        for name, texts in known.items()
        for text in texts
    ]
    assert scores.share(hits) > 0.95


def promised(direction: float = 1.0) -> dict[str, ProsodyMeasure | None]:
    return {
        style: ProsodyMeasure(
            f0_hz=300 + direction * prosody.pitch,
            f0_spread=4.0,
            syllables_per_second=9 + direction * prosody.rate / 100,
            loudness_db=-20 + direction * prosody.volume,
        )
        for style, prosody in STYLE_PROSODY.items()
    }


def test_style_order_is_that_of_the_table():
    assert scores.style_order(promised()) == 1.0
    assert scores.style_order(promised(-1.0)) == 0.0
    assert scores.style_order(promised(0.0)) == 0.0  # all the same is no order
    assert scores.style_order(dict.fromkeys(STYLES)) == 0.0


def test_style_order_counts_single_pairs():
    medians = promised()
    low, high = sorted(STYLE_PROSODY, key=lambda style: STYLE_PROSODY[style].pitch)[:2]
    medians[low] = replace(medians[low], f0_hz=medians[high].f0_hz + 1)
    assert scores.style_order(medians) == pytest.approx(29 / 30)
    medians[low] = None  # its four pairs, in three measures
    assert scores.style_order(medians) == pytest.approx(18 / 30)


def test_pooled_errors_weigh_by_length():
    assert measures.pooled([(1, 2), (0, 8)]) == 0.1


def test_units_join_to_syllables():
    joined = judge._join_units(["n", "i3", "Au4", "X", "p", "u4", "m"])
    assert joined == [("n", "i3"), ("Au4",), ("X",), ("p", "u4"), ("m",)]
    assert judge._join_units([]) == []


@pytest.fixture(scope="module")
def random_judge() -> judge.Judge:
    torch.manual_seed(0)
    return judge.Judge(["n", "X", "i3", "Au3"]).eval()


def test_the_judge_hears_any_length_and_gain(random_judge):
    wave = np.random.default_rng(0).standard_normal(30000).astype(np.float32) * 0.1
    for length in (0, 1, 255, 4000, 30000):
        assert isinstance(random_judge.recognise(wave[:length], SAMPLE_RATE), list)
    quiet = random_judge.features(wave * 0.5, SAMPLE_RATE)
    assert torch.allclose(quiet, random_judge.features(wave, SAMPLE_RATE), atol=1e-3)
    assert quiet.shape == (100, 30000 // 256)
    assert random_judge(quiet[None]).shape == (1, 5, 59)


def test_augmented_speech_keeps_its_shape():
    torch.manual_seed(0)
    features, lengths = judge.augment(torch.randn(3, 100, 80), torch.tensor([80, 40, 60]))
    assert features.shape[:2] == (3, 100)
    assert lengths.max() <= features.shape[2]
    assert features.isfinite().all()


@needs_espeak
def test_the_judge_counts_syllables(random_judge, monkeypatch):
    heard = [("n", "i2"), ("X", "Au3")]
    monkeypatch.setattr(random_judge, "recognise", lambda wave, rate: heard)
    assert random_judge.count_errors("你好。", None, 0) == (0, 2)
    assert random_judge.count_errors("泥好", None, 0) == (0, 2)  # sounds the same
    assert random_judge.count_errors("你号", None, 0) == (2, 2)  # tones count, sandhi too
    assert random_judge.count_errors("你好吗", None, 0) == (1, 3)
    assert random_judge.count_errors("", None, 0) == (1, 1)
    assert random_judge.count_errors("hello", None, 0) == (5, 5)


@needs_espeak
def test_lines_read_together_read_as_alone():
    intents = load_dialogues().intents
    lines = [line for intent in intents[::9] for line in intent.users[:3]]
    readings = judge.read_lines(lines)
    for line in lines[::4]:
        assert [list(syllable) for syllable in readings[line]] == judge.phonemes(line)


@needs_espeak
def test_a_judge_is_trained_resumed_and_loaded(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(judge, "FIRST_UTTERANCES", 4)
    monkeypatch.setattr(judge, "BATCH_SIZE", 2)
    monkeypatch.setattr(judge, "NUM_LINES", 8)
    few = small_dialogues()
    trained = judge.train_judge(few, tmp_path, minutes=0.001)
    again = judge.train_judge(few, tmp_path, minutes=0.001)
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert trained.units == again.units
    assert trained.recognise(wave, SAMPLE_RATE) == again.recognise(wave, SAMPLE_RATE)
    with pytest.raises(ValueError, match="delete its file"):
        judge.Judge(["a"]).set_extra_state(trained.units)


def small_dialogues() -> Dialogues:
    dialogues = load_dialogues()
    return replace(dialogues, intents=dialogues.intents[:2])


@pytest.fixture(scope="module")
def random_checkpoint(small_codec: FireflyArchitecture) -> Checkpoint:
    return small_model(small_codec, max_seq_len=512).checkpoint


@needs_espeak
def test_random_weights_score_badly(
    random_checkpoint, random_judge, tmp_path: Path, monkeypatch, capsys
):
    for name, value in (("NUM_HEARD", 2), ("NUM_STYLED", 1), ("NUM_TIMED", 1)):
        monkeypatch.setattr(evaluate, name, value)
    for module in ("answers", "measures"):
        monkeypatch.setattr(f"training.{module}.MAX_SECONDS", 0.5)
    recording = tmp_path / "heldout.npy"
    np.save(recording, np.random.default_rng(0).integers(-900, 900, 40000).astype(np.int16))
    report = evaluate.evaluate(
        random_checkpoint, small_dialogues(), random_judge, recording, num_utterances=6, seed=0
    )
    figures = json.loads(evaluate.to_json(report.figures))
    assert list(figures) == list(evaluate.FIGURES)
    assert figures["intent_speech"] == figures["intent_speech_text"] == figures["second_turn"] == 0
    assert figures["reply_cer"] > 0.9
    assert figures["judge_cer"] > 0.9
    assert figures["user_emotion_accuracy"] <= 0.5
    assert 1 <= figures["codes_used_min"] <= 32
    assert figures["codec_stoi"] < 0.5
    table = evaluate.format_report(report)
    assert all(word in table for word in (*EMOTIONS, *STYLES, *evaluate.FIGURES))


@needs_espeak
def test_answers_depend_on_the_seed_alone(random_checkpoint):
    questions = draw_questions(small_dialogues(), 3, np.random.default_rng(0))
    again = draw_questions(small_dialogues(), 3, np.random.default_rng(0))
    assert [q.text for q in questions] == [q.text for q in again]
    held = {text for intent in small_dialogues().intents for text in intent.held}
    assert {q.text for q in questions} <= held
    answers = answer_all(random_checkpoint, questions, 7, max_seconds=0.4)
    alone = answer_all(random_checkpoint, again[:1], 7, max_seconds=0.4)
    assert torch.equal(answers[0].codes, alone[0].codes)
    assert answers[0].text == alone[0].text
    forced = answer_all(random_checkpoint, questions, 7, style="calm", max_seconds=0.4)
    assert {answer.style for answer in forced} == {"calm"}
    with pytest.raises(ValueError, match="no style 'loud'"):
        answer_all(random_checkpoint, questions, 7, style="loud")


@needs_espeak
def test_all_emotions_are_asked_equally_often():
    intents = load_dialogues().intents[:3]
    dialogues = replace(load_dialogues(), intents=intents)
    moods = draw_questions(dialogues, 12, np.random.default_rng(0), any_emotion=True)
    assert sorted(q.emotion for q in moods) == sorted([*EMOTIONS, *EMOTIONS])
    plausible = draw_questions(dialogues, 6, np.random.default_rng(0))
    assert all(q.emotion in q.intent.emotions for q in plausible)


def test_what_could_not_be_measured_is_null():
    assert evaluate.to_json({"a": math.inf, "b": math.nan, "c": 0.12345}) == (
        '{"a": null, "b": null, "c": 0.1235}'
    )


def test_without_espeak_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        evaluate.main(["--checkpoint", "tiny"])
