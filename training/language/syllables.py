"""Count which syllables follow which in the lines that users say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from models.westlake.syllables import START, SyllableModel, write_syllables

from ..dialogues import FOLLOWUPS, Dialogues
from ..speech.pinyin import plain_syllables
from .tokenizer import heard_syllables
from .wording import CLOSINGS, CORRECTIONS, OPENINGS

DISCOUNT = 0.75  # taken off each count for what was never counted
RAREST = 2  # trigrams that come less often are left to the bigrams
UNSEEN = 0.5  # counted of each syllable beside what was seen


def count_syllables(dialogues: Dialogues, path: Path) -> None:
    """Keep a model of all lines that users say, and of what they open and close them with."""
    names = heard_syllables(dialogues)
    places = {name: place for place, name in enumerate(names, 1)}
    lines = [text for intent in dialogues.intents for text in intent.users]
    lines += [text for kind in FOLLOWUPS for text in dialogues.followups[kind][0]]
    lines += [*OPENINGS, *CLOSINGS, *CORRECTIONS]
    singles, pairs, threes = np.full(1 + len(names), UNSEEN), Counter(), Counter()
    for text in lines:
        said = [places[name] for name in plain_syllables(text) if name in places]
        line = [START, START, *said]
        for a, b, c in zip(line, line[1:], said):
            singles[c] += 1
            pairs[b, c] += 1
            threes[a, b, c] += 1
    bigrams = _bigrams(singles / singles.sum(), pairs)
    write_syllables(path, SyllableModel(names, bigrams, *_trigrams(len(names), threes)))


def _bigrams(singles: np.ndarray, pairs: Counter) -> np.ndarray:
    """Log-probabilities [1+S, 1+S]: discounted counts, and what each syllable is without them."""
    counts = np.zeros((len(singles), len(singles)))
    for pair, count in pairs.items():
        counts[pair] = count
    kept = np.maximum(counts - DISCOUNT, 0) / counts.sum(1, keepdims=True).clip(min=1)
    left = 1 - kept.sum(1, keepdims=True)
    return np.log(kept + left * singles).astype(np.float32)


def _trigrams(num_names: int, threes: Counter) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of those that came often enough, rising, and their shares."""
    totals: Counter = Counter()
    for (a, b, _), count in threes.items():
        totals[a, b] += count
    size = 1 + num_names
    shares = {
        (size * a + b) * size + c: (count - DISCOUNT) / totals[a, b]
        for (a, b, c), count in threes.items()
        if count >= RAREST
    }
    rising = sorted(shares)
    return np.array(rising, np.int64), np.array([shares[key] for key in rising], np.float32)
