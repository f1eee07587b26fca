"""What the evaluation counts, as plain functions of what was said and heard."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..dialogues import SILENT, UNCLEAR, UNKNOWN, Dialogues
from ..recogniser.distance import edit_distance
from ..speech.pinyin import PUNCTUATION
from ..speech.prosody import ProsodyMeasure
from ..speech.speakers import STYLE_PROSODY

AGAIN = "say it again"  # what is answered to silence and to what can't be understood
GIBBERISH = 0.5  # normalised edit distance from which a reply counts as none that was taught
# measure of speech -> what promises its order in the table of styles
PROMISES = {"f0_hz": "pitch", "syllables_per_second": "rate", "loudness_db": "gain_db"}


def share(hits: Sequence[bool]) -> float:
    """Share of True; NaN of nothing."""
    return sum(hits) / len(hits) if hits else math.nan


def characters(text: str) -> str:
    """The text without punctuation and blanks."""
    return "".join(char for char in text if char not in PUNCTUATION and not char.isspace())


def text_distance(first: str, second: str) -> float:
    """Edit distance of the characters over the longer text's number, without punctuation: 0..1."""
    first, second = (characters(text) for text in (first, second))
    return edit_distance(first, second) / max(len(first), len(second), 1)


def known_replies(dialogues: Dialogues) -> dict[str, tuple[str, ...]]:
    """All that is replied, by what it is replied to: an intent, or one and a follow-up's kind."""
    known: dict[str, tuple[str, ...]] = {}
    for intent in dialogues.intents:
        known[intent.name] = tuple(text for texts in intent.replies.values() for text in texts)
        known |= {f"{intent.name} {kind}": (text,) for kind, text in intent.then.items()}
    return known


def known_scenes(dialogues: Dialogues) -> dict[str, tuple[str, ...]]:
    """The same replies, where all that are for something unknown are one: `UNKNOWN`."""
    return _together(known_replies(dialogues), UNKNOWN, lambda name: name.startswith(f"{UNKNOWN}."))


def known_pleas(dialogues: Dialogues) -> dict[str, tuple[str, ...]]:
    """The same replies, where those that ask to say it again are one: `AGAIN`."""
    return _together(
        known_replies(dialogues), AGAIN, lambda name: name.split()[0] in (UNCLEAR, SILENT)
    )


def _together(
    known: Mapping[str, tuple[str, ...]], name: str, belongs: Callable[[str], bool]
) -> dict[str, tuple[str, ...]]:
    others = {key: texts for key, texts in known.items() if not belongs(key)}
    return others | {name: tuple(t for key in known if belongs(key) for t in known[key])}


def is_right_reply(text: str, wanted: str, known: Mapping[str, Sequence[str]]) -> bool:
    """Whether a reply is one of those wanted, or clearly a variation of one.

    A text that was taught for `wanted` is right. Any other is right only if one for `wanted` is
    nearer to it than all that were taught for anything else, and not further than `GIBBERISH`.

    Args:
        text: what was replied.
        wanted: the key of `known` that it should belong to.
        known: all replies that were taught, by intent.
    """
    if text in known[wanted]:
        return True
    if not characters(text):
        return False
    nearest = min(text_distance(text, right) for right in known[wanted])
    if nearest > GIBBERISH:
        return False
    others = (other for name, texts in known.items() if name != wanted for other in texts)
    return all(_is_further(text, other, nearest) for other in others)


def _is_further(first: str, second: str, distance: float) -> bool:
    """Whether `text_distance` is more than `distance`; mostly clear without measuring it."""
    counts = Counter(characters(first)), Counter(characters(second))
    longest = max(sum(count.values()) for count in counts)
    if longest - (counts[0] & counts[1]).total() > distance * longest:  # so many edits at least
        return True
    return text_distance(first, second) > distance


def confusion(
    truths: Sequence[str], guesses: Sequence[str | None], names: Sequence[str]
) -> dict[str, dict[str | None, int]]:
    """How often each truth was taken for each of `names`, or for none of them (None)."""
    counts: dict[str, dict[str | None, int]] = {
        truth: dict.fromkeys((*names, None), 0) for truth in names
    }
    for truth, guess in zip(truths, guesses, strict=True):
        counts[truth][guess if guess in names else None] += 1
    return counts


def style_order(medians: Mapping[str, ProsodyMeasure | None]) -> float:
    """Share of all pairs of styles and measures whose order is that of `STYLE_PROSODY`.

    Args:
        medians: each style's medians over its replies; None where nothing could be measured,
            which no order comes out of.
    """
    hits = []
    for first, second in itertools.combinations(STYLE_PROSODY, 2):
        for measure, promise in PROMISES.items():
            wanted = getattr(STYLE_PROSODY[first], promise) - getattr(
                STYLE_PROSODY[second], promise
            )
            a, b = medians.get(first), medians.get(second)
            found = 0.0 if a is None or b is None else getattr(a, measure) - getattr(b, measure)
            hits.append(wanted * found > 0)
    return share(hits)
