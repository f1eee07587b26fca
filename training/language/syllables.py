"""Count which syllables follow which in the lines that users say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from models.westlake.syllables import START, Followers, SyllableModel, write_syllables

from ..dialogues import FOLLOWUPS, Dialogues
from ..speech.pinyin import plain_syllables
from .wording import CLOSINGS, CORRECTIONS, OPENINGS

LONGEST = 4  # of the n-grams
DISCOUNT = 0.75  # taken off each count for what was never counted
UNSEEN = 0.5  # counted of each syllable beside what was seen

Counts = Mapping[tuple[int, ...], int]  # of n-grams


def count_syllables(dialogues: Dialogues, names: Sequence[str], path: Path) -> None:
    """Keep a model of all lines that users say, and of what they open and close them with.

    Args:
        names: of the syllables that are told apart; others are left out.
    """
    places = {name: place for place, name in enumerate(names, 1)}
    lines = [text for intent in dialogues.intents for text in intent.users]
    lines += [text for kind in FOLLOWUPS for text in dialogues.followups[kind][0]]
    lines += [*OPENINGS, *CLOSINGS, *CORRECTIONS]
    said = ([places[name] for name in plain_syllables(text) if name in places] for text in lines)
    counts = _counts([START] * (LONGEST - 2) + line for line in said)
    size = 1 + len(names)
    numbers = {(a, b): size * a + b for a in range(size) for b in range(size)}
    longer = []
    for of_length in counts[2:]:
        longer.append(_followers(of_length, numbers))
        numbers = {ngram: number for number, ngram in enumerate(sorted(of_length))}
    write_syllables(path, SyllableModel(names, _bigrams(size, *counts[:2]), longer))


def _counts(lines: Iterable[Sequence[int]]) -> list[Counts]:
    """Counts of n-grams of one place, of two, up to `LONGEST`, that end in a syllable.

    The longest, and those that begin at a line's start, are counted as often as they come; of the
    others, how many different places they come behind (Kneser and Ney, 1995).

    Args:
        lines: each behind as many `START` as its first syllable needs to have a context of two,
            which all there is to know of a line's start fits into.
    """
    often: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(LONGEST)]
    for line in lines:
        for end in range(LONGEST - 1, len(line) + 1):
            for length in range(1, min(LONGEST, end) + 1):
                often[length - 1][tuple(line[end - length : end])] += 1
    counts: list[Counts] = []
    for shorter, longer in zip(often, often[1:]):
        behind = Counter(ngram[1:] for ngram in longer)
        counts.append({n: many if n[0] == START else behind[n] for n, many in shorter.items()})
    return [*counts, often[-1]]


def _bigrams(size: int, singles: Counts, pairs: Counts) -> np.ndarray:
    """Log-probabilities [1+S, 1+S]: discounted counts, and what each syllable is without them."""
    alone, behind = np.full(size, UNSEEN), np.zeros((size, size))
    for (place,), number in singles.items():
        alone[place] += number
    for pair, number in pairs.items():
        behind[pair] = number
    kept = np.maximum(behind - DISCOUNT, 0) / behind.sum(1, keepdims=True).clip(min=1)
    left = 1 - kept.sum(1, keepdims=True)
    return np.log(kept + left * alone / alone.sum()).astype(np.float32)


def _followers(counts: Counts, numbers: Mapping[tuple[int, ...], int]) -> Followers:
    """What follows each context, by discounted counts.

    Args:
        numbers: of all contexts.
    """
    rising = sorted(counts)
    contexts = np.array([numbers[ngram[:-1]] for ngram in rising], np.int64)
    found = np.array([counts[ngram] for ngram in rising], np.float64)
    totals = np.bincount(contexts, found, len(numbers))
    return Followers(
        numbers=np.bincount(contexts, minlength=len(numbers)),
        places=np.array([ngram[-1] for ngram in rising], np.int64),
        shares=((found - DISCOUNT) / totals[contexts]).astype(np.float32),
    )
