"""What the ratings of a test say: a figure per condition, comparisons, and every rating as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .analysis import (
    Estimate,
    binomial_p,
    holm,
    mean_interval,
    share_interval,
    signed_rank_p,
)
from .definition import NEITHER, ListeningTest
from .plan import Trial

HIDDEN_REFERENCE = 90  # ITU-R BS.1534-3, 4.1.2: below it, a rater has not heard the reference
MISSED_SHARE = 0.15  # of the trials in which that may happen


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One answer.

    Fields:
        rater: their name.
        position: of the trial in the rater's order, from 0.
        answer: see `definition.check_answer`.
        seconds: from hearing of the trial to the answer.
        time: in ISO 8601, UTC.
    """

    rater: str
    position: int
    trial: Trial
    answer: Any
    seconds: float
    time: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two conditions against each other.

    Fields:
        count: pairs of scores, or trials with a preference.
        wins, losses, ties: preferences of A/B; right answers, wrong ones and 0 of ABX.
        p, adjusted_p: of the test that fits the kind; the latter by Holm's method.
    """

    first: str
    second: str
    count: int
    p: float
    adjusted_p: float = 1.0
    wins: int = 0
    losses: int = 0
    ties: int = 0


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a test has shown so far.

    Fields:
        estimates: by condition: a mean score, or the share of preferences or right answers.
        comparisons: of every two conditions that share a prompt; in a test of emotions, of each
            with chance.
        confusions: (the word meant, the word chosen) -> how often; of a test of emotions.
        num_raters, num_ratings: that these come from.
        left_out: raters who missed a MUSHRA test's hidden reference too often.
    """

    estimates: dict[str, Estimate]
    comparisons: list[Comparison]
    confusions: dict[tuple[str, str], int]
    num_raters: int
    num_ratings: int
    left_out: list[str]


def summarise(test: ListeningTest, ratings: Sequence[Rating]) -> Results:
    """The results of a test; raters who missed the hidden reference are left out, as in BS.1534."""
    left_out = _missed_reference(ratings) if test.kind == "mushra" else []
    ratings = [rating for rating in ratings if rating.rater not in left_out]
    kinds = {"mos": _scored, "mushra": _scored, "ab": _preferred, "abx": _told_apart}
    estimates, comparisons = kinds.get(test.kind, _recognised)(test, ratings)
    adjusted = holm([comparison.p for comparison in comparisons])
    return Results(
        estimates=estimates,
        comparisons=[
            Comparison(**{**vars(comparison), "adjusted_p": p})
            for comparison, p in zip(comparisons, adjusted)
        ],
        confusions=_confusions(test, ratings) if test.kind == "emotion" else {},
        num_raters=len({rating.rater for rating in ratings}),
        num_ratings=len(ratings),
        left_out=left_out,
    )


def _missed_reference(ratings: Sequence[Rating]) -> list[str]:
    missed: dict[str, list[bool]] = defaultdict(list)
    for rating in ratings:
        place = rating.trial.sounds.index(rating.trial.reference)
        missed[rating.rater].append(rating.answer[place] < HIDDEN_REFERENCE)
    return sorted(rater for rater, each in missed.items() if sum(each) > MISSED_SHARE * len(each))


def scores(test: ListeningTest, rating: Rating) -> list[tuple[int, float]]:
    """(stimulus, score) of a rating of MOS or MUSHRA."""
    values = rating.answer if test.kind == "mushra" else [rating.answer]
    return list(zip(rating.trial.sounds, values))


def _scored(test: ListeningTest, ratings) -> tuple[dict[str, Estimate], list[Comparison]]:
    by_condition: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for rating in ratings:
        for index, score in scores(test, rating):
            stimulus = test.stimuli[index]
            by_condition[stimulus.condition][rating.rater, stimulus.prompt] = score
    estimates = {
        name: mean_interval(list(by_condition[name].values()))
        for name in test.conditions
        if by_condition[name]
    }
    comparisons = []
    for first, second in combinations(estimates, 2):
        left, right = by_condition[first], by_condition[second]
        both = [key for key in left if key in right]
        if not both:
            continue
        p = signed_rank_p([left[key] for key in both], [right[key] for key in both])
        comparisons.append(Comparison(first=first, second=second, count=len(both), p=p))
    return estimates, comparisons


def _compared(test: ListeningTest) -> list[tuple[str, str]]:
    """Every two conditions that share a prompt, each pair in the test's order."""
    names = [stimulus.condition for stimulus in test.stimuli]
    return list(dict.fromkeys((names[first], names[second]) for first, second in test.pairs))


def _preferred(test: ListeningTest, ratings) -> tuple[dict[str, Estimate], list[Comparison]]:
    counts: dict[tuple[str, str], list[int]] = {pair: [0, 0, 0] for pair in _compared(test)}
    for rating in ratings:
        names = [test.stimuli[index].condition for index in rating.trial.sounds]
        pair = tuple(sorted(names, key=test.conditions.index))
        tie = rating.answer == NEITHER
        counts[pair[0], pair[1]][2 if tie else pair.index(names[rating.answer])] += 1
    estimates = {}
    for name in test.conditions:
        mine = [(pair, count) for pair, count in counts.items() if name in pair]
        won = sum(count[pair.index(name)] for pair, count in mine)
        if decided := sum(count[0] + count[1] for _, count in mine):
            estimates[name] = share_interval(won, decided)
    comparisons = [
        Comparison(
            first=first, second=second, count=wins + losses, wins=wins, losses=losses, ties=ties,
            p=binomial_p(wins, wins + losses, 0.5),
        )
        for (first, second), (wins, losses, ties) in counts.items()
    ]  # fmt: skip
    return estimates, comparisons


def _told_apart(test: ListeningTest, ratings) -> tuple[dict[str, Estimate], list[Comparison]]:
    right: dict[tuple[str, str], list[bool]] = {pair: [] for pair in _compared(test)}
    for rating in ratings:
        names = [test.stimuli[index].condition for index in rating.trial.sounds]
        first, second = sorted(names, key=test.conditions.index)
        chosen = rating.trial.sounds[rating.answer]
        right[first, second].append(chosen == rating.trial.reference)
    estimates = {
        f"{first} / {second}": share_interval(sum(each), len(each))
        for (first, second), each in right.items()
        if each
    }
    comparisons = [
        Comparison(
            first=first, second=second, count=len(each), wins=sum(each),
            losses=len(each) - sum(each), p=binomial_p(sum(each), len(each), 0.5, "greater"),
        )
        for (first, second), each in right.items()
    ]  # fmt: skip
    return estimates, comparisons


def _recognised(test: ListeningTest, ratings) -> tuple[dict[str, Estimate], list[Comparison]]:
    right: dict[str, list[bool]] = {name: [] for name in test.conditions}
    for rating in ratings:
        stimulus = test.stimuli[rating.trial.sounds[0]]
        right[stimulus.condition].append(rating.answer == stimulus.word)
    chance = 1 / len(test.words)
    heard = {name: each for name, each in right.items() if each}
    estimates = {name: share_interval(sum(each), len(each)) for name, each in heard.items()}
    comparisons = [
        Comparison(
            first=name, second="", count=len(each), wins=sum(each), losses=len(each) - sum(each),
            p=binomial_p(sum(each), len(each), chance, "greater"),
        )
        for name, each in heard.items()
    ]  # fmt: skip
    return estimates, comparisons


def _confusions(test: ListeningTest, ratings) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for rating in ratings:
        counts[str(test.stimuli[rating.trial.sounds[0]].word), rating.answer] += 1
    return dict(counts)


COLUMNS = (
    "rater", "position", "time", "seconds", "condition", "prompt", "place", "score", "answer",
    "word", "reference", "seed", "settings",
)  # fmt: skip


def to_csv(test: ListeningTest, ratings: Sequence[Rating]) -> str:
    """Every rating, a line for each sound that was judged; no cell is a spreadsheet's formula."""
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(COLUMNS)
    for rating in ratings:
        judged = dict(scores(test, rating)) if test.kind in ("mos", "mushra") else {}
        for place, index in enumerate(rating.trial.sounds):
            stimulus, reference = test.stimuli[index], rating.trial.reference
            row = (
                rating.rater, rating.position, rating.time, f"{rating.seconds:.1f}",
                stimulus.condition, stimulus.prompt, place, judged.get(index, ""),
                "" if judged else _answer(test, rating, place), stimulus.word or "",
                "" if reference is None else int(index == reference),
                _seed(stimulus.settings),
                json.dumps(stimulus.settings, ensure_ascii=False),
            )  # fmt: skip
            table.writerow(map(_cell, row))
    return file.getvalue()


def _seed(settings: dict[str, Any]) -> Any:
    sampling = settings.get("sampling")
    return sampling.get("seed", "") if isinstance(sampling, dict) else ""


def _answer(test: ListeningTest, rating: Rating, place: int) -> str | int:
    """What was answered, as it concerns the sound at a place: chosen 1, not 0, no preference -1."""
    if test.kind == "emotion" or rating.answer == NEITHER:
        return rating.answer
    return int(rating.answer == place)


def _cell(value: object) -> object:
    text = str(value)
    is_formula = isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{text}" if is_formula else value
