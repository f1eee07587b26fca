"""Plans are blind and fair, answers are checked, and results are what was answered."""

import csv
import dataclasses
import io
import json
from collections import Counter

import numpy as np
import pytest

from listening.analysis import mean_interval, signed_rank_p
from listening.definition import KINDS, ListeningTest, Stimulus, check_answer, test_of_json
from listening.plan import Trial, plan, rater_seed
from listening.results import Rating, summarise, to_csv
from listening.sample import Sample, new_test
from models.errors import UserError

CONDITIONS, PROMPTS = ("=eight bits", "four bits", "original"), ("p1", "p2", "p3", "p4")


def new(kind: str = "mos", conditions=CONDITIONS, **changes) -> ListeningTest:
    stimuli = tuple(
        Stimulus(
            condition=condition,
            prompt=prompt,
            digest="0" * 64,
            settings={"sampling": {"seed": 7}},
            word=condition if kind == "emotion" else None,
        )
        for condition in conditions
        for prompt in PROMPTS
    )
    values = {"kind": kind, "title": "t", "seed": 1, "stimuli": stimuli}
    if kind == "mushra":
        values["reference"] = "original"
    if kind == "emotion":
        values["words"] = conditions
    return ListeningTest(**(values | changes))


def rated(test: ListeningTest, answer, raters=("ann", "bob")) -> list[Rating]:
    """Every rater's answers to all that they are asked; `answer` of (rater, trial)."""
    return [
        Rating(
            rater=rater, position=position, trial=trial, answer=answer(rater, trial),
            seconds=2.0, time="2026-01-01T00:00:00+00:00",
        )
        for rater in raters
        for position, trial in enumerate(plan(test, rater_seed(test, rater)))
    ]  # fmt: skip


def condition(test: ListeningTest, index: int) -> str:
    return test.stimuli[index].condition


@pytest.mark.parametrize("kind", KINDS)
def test_a_rater_has_an_order_of_their_own_which_stays(kind: str):
    test = new(kind)
    first, second = (plan(test, rater_seed(test, name)) for name in ("ann", "bob"))
    assert first == plan(test_of_json(test.to_json()), rater_seed(test, "ann"))
    assert first != second

    def asked(trials):
        return Counter((tuple(sorted(trial.sounds)), test.kind) for trial in trials)

    assert asked(first) == asked(second)


def test_mos_asks_for_each_sound_once():
    trials = plan(new("mos"), 3)
    assert sorted(trial.sounds for trial in trials) == [(index,) for index in range(12)]


@pytest.mark.parametrize("kind", ["ab", "abx"])
def test_both_sides_and_both_sounds_come_equally_often(kind: str):
    test = new(kind)
    trials = plan(test, 5)
    assert len(trials) == 3 * 4
    for pair in {tuple(sorted(condition(test, i) for i in trial.sounds)) for trial in trials}:
        mine = [t for t in trials if {condition(test, i) for i in t.sounds} == set(pair)]
        assert Counter(condition(test, trial.sounds[0]) for trial in mine) == {
            pair[0]: 2, pair[1]: 2,
        }  # fmt: skip
        if kind == "abx":
            assert all(trial.reference in trial.sounds for trial in mine)
            assert set(Counter(condition(test, trial.reference) for trial in mine).values()) == {2}


def test_mushra_hides_the_reference_among_the_sounds():
    test = new("mushra")
    for trial in plan(test, 5):
        assert sorted(condition(test, i) for i in trial.sounds) == sorted(CONDITIONS)
        assert condition(test, trial.reference) == "original"
    places = Counter(t.sounds.index(t.reference) for s in range(50) for t in plan(test, s))
    assert min(places[place] for place in range(3)) > 40


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("mos", [1, 5], [0, 6, 3.0, "3", True, None, [3]]),
        ("ab", [0, 1, -1], [2, "a", None, False]),
        ("abx", [0, 1], [-1, 2, None]),
        ("mushra", [[0, 50, 100]], [[0, 50], [0, 50, 101], [0, 50, 1.5], 50, None, [True, 0, 0]]),
        ("emotion", ["four bits"], ["calm", 0, None, ["four bits"]]),
    ],
)
def test_only_answers_are_answers(kind: str, right: list, wrong: list):
    for answer in right:
        check_answer(new(kind), 3, answer)
    for answer in wrong:
        with pytest.raises(UserError):
            check_answer(new(kind), 3, answer)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"title": " "},
        {"title": "x" * 1000},
        {"title": 5},
        {"seed": -1},
        {"seed": 1.5},
        {"stimuli": ()},
        {"stimuli": (Stimulus(condition="a", prompt="p", digest="../x"),)},
        {"stimuli": (Stimulus(condition="a", prompt="p", digest="0" * 64),) * 2},
        {"stimuli": (Stimulus(condition="", prompt="p", digest="0" * 64),)},
        {"stimuli": (Stimulus(condition="a", prompt="p", digest="0" * 64, settings=[]),)},
        {"kind": "mushra", "reference": "nobody"},
        {"kind": "emotion", "words": ("calm", "sad")},
        {"kind": "emotion", "words": ("calm",)},
        {"kind": "mos", "words": ("calm", "sad")},
        {"kind": "mos", "reference": "a"},
        {"question": "\ud800"},
    ],
)
def test_what_is_no_test_is_refused(changes: dict):
    with pytest.raises(UserError):
        new(**changes)
    with pytest.raises(UserError):
        test_of_json(json.dumps({"kind": "mos"}))


def test_pairs_need_two_sounds_of_a_prompt():
    with pytest.raises(UserError):
        new("ab", conditions=("one",))


def test_mos_results():
    test = new("mos")
    level = dict(zip(CONDITIONS, (4, 2, 5)))

    def answer(rater, trial):
        stimulus = test.stimuli[trial.sounds[0]]
        return max(1, level[stimulus.condition] - (rater == "bob") * (stimulus.prompt != "p1"))

    results = summarise(test, rated(test, answer))
    expected = mean_interval([4, 4, 4, 4, 4, 3, 3, 3])
    assert results.estimates["=eight bits"] == expected
    first = results.comparisons[0]
    assert (first.first, first.second, first.count) == ("=eight bits", "four bits", 8)
    assert first.p == pytest.approx(signed_rank_p([2] * 8, [0] * 8))
    assert first.adjusted_p == pytest.approx(min(1, 3 * first.p))
    assert (results.num_raters, results.num_ratings) == (2, 24)


def test_ab_results_count_the_condition_wherever_it_was():
    test = new("ab", conditions=CONDITIONS[:2])

    def answer(rater, trial):
        stimulus = test.stimuli[trial.sounds[0]]
        if stimulus.prompt == "p4":
            return -1
        return [condition(test, index) for index in trial.sounds].index("four bits")

    (found,) = summarise(test, rated(test, answer)).comparisons
    assert (found.wins, found.losses, found.ties, found.count) == (0, 6, 2, 6)
    assert found.p == pytest.approx(2 / 64)
    assert summarise(test, rated(test, answer)).estimates["four bits"].value == 1


def test_abx_results_count_right_answers():
    test = new("abx", conditions=CONDITIONS[:2])

    def answer(rater, trial):
        right = trial.sounds.index(trial.reference)
        return right if rater == "ann" else 1 - right

    (found,) = summarise(test, rated(test, answer)).comparisons
    assert (found.wins, found.losses) == (4, 4)
    (found,) = summarise(test, rated(test, answer, ("ann",))).comparisons
    assert found.p == pytest.approx(1 / 16)


def test_mushra_leaves_out_who_misses_the_reference():
    test = new("mushra")

    def answer(rater, trial):
        own = 40 if rater == "bob" else 100
        return [own if index == trial.reference else 50 for index in trial.sounds]

    results = summarise(test, rated(test, answer))
    assert results.left_out == ["bob"]
    assert results.estimates["original"].value == 100
    assert results.estimates["four bits"].value == 50
    assert results.num_raters == 1


def test_emotions_are_compared_with_chance():
    test = new("emotion")
    results = summarise(test, rated(test, lambda rater, trial: "four bits"))
    shares = {name: estimate.value for name, estimate in results.estimates.items()}
    assert shares == {"=eight bits": 0, "four bits": 1, "original": 0}
    assert results.comparisons[1].p == pytest.approx((1 / 3) ** 8)
    assert results.confusions["original", "four bits"] == 8


@pytest.mark.parametrize("kind", ["mos", "ab", "abx"])
def test_conditions_that_share_no_prompt_are_not_compared(kind: str):
    """They would make the others' adjusted p larger."""
    test = new(kind, conditions=CONDITIONS[:2])
    alone = tuple(
        Stimulus(condition=name, prompt=f"{name} alone", digest="0" * 64) for name in ("y", "z")
    )

    def answer(rater, trial):
        if kind == "mos":
            return 4 if condition(test, trial.sounds[0]) == CONDITIONS[0] else 2
        if kind == "abx":
            return trial.sounds.index(trial.reference)
        return [condition(test, index) for index in trial.sounds].index(CONDITIONS[0])

    (found,) = summarise(test, rated(test, answer)).comparisons
    assert found.p == found.adjusted_p == pytest.approx(1 / 256 if kind == "abx" else 2 / 256)
    test = new(kind, stimuli=(*test.stimuli, *alone))
    assert summarise(test, rated(test, answer)).comparisons == [found]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_rated_yet(kind: str):
    results = summarise(new(kind), [])
    assert (results.estimates, results.num_ratings) == ({}, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rating_stands_in_the_csv(kind: str):
    test = new(kind)
    answers = {"mos": 3, "ab": 1, "abx": 0, "mushra": [10, 20, 30], "emotion": "four bits"}
    ratings = rated(test, lambda rater, trial: answers[kind])
    rows = list(csv.DictReader(io.StringIO(to_csv(test, ratings))))
    assert len(rows) == sum(len(rating.trial.sounds) for rating in ratings)
    assert {row["seed"] for row in rows} == {"7"}
    assert not any(cell[:1] in "=+@" for row in rows for cell in row.values() if cell)
    if kind == "mushra":
        assert sum(int(row["score"]) for row in rows) == 60 * len(ratings)
        assert sum(int(row["reference"]) for row in rows) == len(ratings)
    if kind == "ab":
        assert sum(int(row["answer"]) for row in rows) == len(ratings)


def sample(name: str, gain: float = 0.1, prompt: str = "p", **changes) -> Sample:
    wave = gain * np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    return Sample(condition=name, prompt=prompt, samples=wave, sample_rate=16_000, **changes)


def test_a_mushra_test_gets_its_anchor():
    samples = [sample("a"), sample("b", 0.3), sample("b", prompt="q"), sample("a", prompt="q")]
    test, sounds = new_test("mushra", "t", samples, reference="a")
    assert test.conditions == ("a", "b", "anchor")
    assert len(test.complete_prompts) == 2
    assert {stimulus.digest for stimulus in test.stimuli} == set(sounds)


def test_too_many_trials_are_refused():
    samples = [sample(str(c), prompt=str(p)) for c in range(8) for p in range(15)]
    with pytest.raises(UserError, match="420"):
        new_test("ab", "t", samples)


def test_a_trial_is_no_more_than_what_it_shows():
    assert {field.name for field in dataclasses.fields(Trial)} == {"sounds", "reference"}
