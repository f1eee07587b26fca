"""What a rater is asked, in an order of their own: every rater's is drawn anew, none at random."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from .definition import ListeningTest


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One question to a rater.

    Fields:
        sounds: indices of the test's stimuli, in the order in which they are offered.
        reference: the stimulus that is heard openly: a MUSHRA test's reference, an ABX test's X.
    """

    sounds: tuple[int, ...]
    reference: int | None = None


def rater_seed(test: ListeningTest, name: str) -> int:
    """The seed of a rater's order: always the same for the same test and name."""
    digest = hashlib.sha256(f"{test.seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def plan(test: ListeningTest, seed: int) -> tuple[Trial, ...]:
    """All that a rater is asked.

    In A/B and ABX tests, each of two conditions is A in half of their trials, and each is X in
    half of them.

    Args:
        seed: the rater's.
    """
    rng = random.Random(seed)
    if test.kind in ("mos", "emotion"):
        trials = [Trial(sounds=(index,)) for index in range(len(test.stimuli))]
    elif test.kind == "mushra":
        trials = [_mushra_trial(test, sounds, rng) for sounds in test.complete_prompts]
    else:
        trials = _pair_trials(test, rng)
    rng.shuffle(trials)
    return tuple(trials)


def _mushra_trial(test: ListeningTest, sounds: tuple[int, ...], rng: random.Random) -> Trial:
    reference = sounds[test.conditions.index(str(test.reference))]
    return Trial(sounds=tuple(rng.sample(sounds, len(sounds))), reference=reference)


def _pair_trials(test: ListeningTest, rng: random.Random) -> list[Trial]:
    by_conditions: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for first, second in test.pairs:
        names = test.stimuli[first].condition, test.stimuli[second].condition
        by_conditions.setdefault(names, []).append((first, second))
    trials = []
    for pairs in by_conditions.values():
        swaps, choices = (_halves(len(pairs), rng) for _ in range(2))
        for pair, is_swapped, choice in zip(pairs, swaps, choices):
            sounds = pair[::-1] if is_swapped else pair
            reference = pair[choice] if test.kind == "abx" else None
            trials.append(Trial(sounds=sounds, reference=reference))
    return trials


def _halves(count: int, rng: random.Random) -> list[int]:
    """0 and 1, each in half of the places."""
    first = rng.randrange(2)
    values = [(first + place) % 2 for place in range(count)]
    rng.shuffle(values)
    return values
