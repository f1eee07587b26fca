"""What the evaluation counts: distances, right replies, confusions, the order of styles."""

import random
from dataclasses import replace

import pytest

from training.dialogues import SILENT, STYLES, UNCLEAR, UNKNOWN, load_dialogues
from training.evaluation import scores
from training.speech.prosody import ProsodyMeasure
from training.speech.speakers import STYLE_PROSODY

KNOWN = {
    "health.insomnia": ["睡不着真难受，睡前先放下手机吧。", "别急，先泡个脚，今晚会好一点的。"],
    "health.headache": ["头疼就先歇一会儿，喝点温水。", "一直疼的话，记得去看医生。"],
    "moods.lonely": ["我在这里陪你，慢慢说。"],
}


def replies_of(intents) -> dict[str, list[str]]:
    return {i.name: [text for texts in i.replies.values() for text in texts] for i in intents}


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


def test_shuffled_replies_score_badly():
    intents = load_dialogues().intents
    known = replies_of(intents)
    asked = [(name, text) for name, texts in known.items() for text in texts[:2]]
    assert scores.share([scores.is_right_reply(text, name, known) for name, text in asked]) == 1
    texts = [text for _, text in asked]
    random.Random(0).shuffle(texts)
    hits = [scores.is_right_reply(text, name, known) for (name, _), text in zip(asked, texts)]
    assert scores.share(hits) < 0.1


def test_every_taught_reply_is_right_though_a_character_is_wrong():
    intents = load_dialogues().intents[:20]
    known = replies_of(intents)
    hits = [
        scores.is_right_reply(text[:3] + "嗯" + text[4:], name, known)
        for name, texts in known.items()
        for text in texts
    ]
    assert scores.share(hits) > 0.95


def promised(direction: float = 1.0) -> dict[str, ProsodyMeasure | None]:
    return {
        style: ProsodyMeasure(
            f0_hz=300 + 100 * direction * prosody.pitch,
            f0_spread=4.0,
            syllables_per_second=9 + direction * prosody.rate / 100,
            loudness_db=-20 + direction * prosody.gain_db,
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


def test_known_replies_are_told_apart_by_what_they_answer():
    dialogues = load_dialogues()
    known = scores.known_replies(dialogues)
    assert len(known) == 3 * len(dialogues.intents)
    intent = dialogues.intents[0]
    assert scores.is_right_reply(intent.then["how"], f"{intent.name} how", known)
    assert not scores.is_right_reply(intent.then["how"], f"{intent.name} more", known)
    assert not scores.is_right_reply(intent.then["how"], intent.name, known)


def test_the_unknown_is_one_scene_and_asking_again_a_part_of_it():
    dialogues = load_dialogues()
    known, scenes = scores.known_replies(dialogues), scores.known_scenes(dialogues)
    pleas = scores.known_pleas(dialogues)
    for mapping in (scenes, pleas):
        texts = [text for of_one in mapping.values() for text in of_one]
        assert sorted(texts) == sorted(text for of_one in known.values() for text in of_one)
    unknown = [i for i in dialogues.intents if i.scene == UNKNOWN]
    for intent in unknown:
        for text in (*replies_of([intent])[intent.name], *intent.then.values()):
            assert scores.is_right_reply(text, UNKNOWN, scenes)
            again = intent.name in (UNCLEAR, SILENT)
            assert scores.is_right_reply(text, scores.AGAIN, pleas) is again
    known_text = replies_of(dialogues.intents)[dialogues.intents[0].name][0]
    assert not scores.is_right_reply(known_text, UNKNOWN, scenes)
