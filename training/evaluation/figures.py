"""Figures: what was measured, on how much, and where the bar is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..dialogues import EMOTIONS
from ..speech.prosody import ProsodyMeasure
from ..speech.speakers import STYLE_PROSODY
from .asking import MAX_SECONDS
from .scores import share


@dataclass(frozen=True)
class Figure:
    """A value and, where it is a share, what it is a share of; NaN where there was nothing."""

    value: float
    hits: int | None = None
    total: int | None = None

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Figure:
        """The share of what is True."""
        return cls(share(hits), sum(hits), len(hits))

    @classmethod
    def pooled(cls, counts: Iterable[tuple[int, int]]) -> Figure:
        """Errors of all that could be wrong, from (errors, number) of each text."""
        counts = list(counts)
        errors, number = (sum(count[k] for count in counts) for k in (0, 1))
        return cls(errors / number if number else math.nan, errors, number)


@dataclass(frozen=True)
class Aim:
    """What a key of the report stands for; the bar is the least, or with `below` the most.

    An `optional` one is left out of the report where it was not measured.
    """

    what: str
    bar: float | None = None
    below: bool = False
    optional: bool = False

    def is_met(self, value: float) -> bool:
        """Whether there is a bar and it is held; never by NaN."""
        if self.bar is None:
            return False
        return value <= self.bar if self.below else value >= self.bar


FIGURES = {
    "intent_speech_natural": Aim("fitting replies to speech alone", 0.70),
    "intent_speech_text_natural": Aim("fitting replies to speech and text", 0.95),
    "intent_text": Aim("fitting replies to text alone", 0.95),
    "intent_speech": Aim("fitting replies to speech without room, noise or device"),
    "intent_speech_text": Aim("the same with text"),
    "later_turns": Aim("fitting replies in turns 2 to 4, with text", 0.80),
    "later_turns_speech": Aim("fitting replies in turns 2 to 4, by speech alone", 0.60),
    "second_turn": Aim("fitting replies to a spoken follow-up"),
    "unknown_recall": Aim("of what can't be answered, answered so", 0.75),
    "unknown_false": Aim("of what can be answered, answered as unknown", 0.08, below=True),
    "unclear_silence": Aim("silence and noise answered by: say it again", 0.95),
    "unclear_foreign": Aim("other languages answered by: say it again"),
    "user_emotion_accuracy": Aim(f"right emotion of {len(EMOTIONS)}, by the voice alone", 0.75),
    "told_emotion_accuracy": Aim("right emotion of what is written, where the words tell it"),
    "heard_pinyin_error": Aim(
        "syllables of speech alone that the model wrote down wrong", optional=True
    ),
    "intent_speech_other": Aim(
        "fitting replies to speech alone in other voices of the teacher", optional=True
    ),
    "heard_other_pinyin_error": Aim(
        "syllables in those voices that the model wrote down wrong", optional=True
    ),
    "reply_pinyin_error": Aim("syllables of replies heard wrong", 0.18, below=True),
    "reply_cer": Aim("characters of replies heard wrong"),
    "teacher_pinyin_error": Aim("syllables heard wrong when the teacher says the same"),
    "copy_pinyin_error": Aim(
        "syllables of held-out blends heard wrong after the codec", 0.15, below=True
    ),
    "copy_people_pinyin_error": Aim("the same of people of all kinds, in all moods"),
    "codec_stoi": Aim("intelligibility (STOI) after the codec", 0.85),
    "codes_used_min": Aim("fewest codes that a codebook uses"),
    "style_order": Aim("pairs of styles in the order of the table", 0.90),
    "stop_rate": Aim(f"replies that end by themselves within {MAX_SECONDS:g} s", 0.98),
    "variety": Aim("repeated questions with another wording or melody", 0.50),
    "rtf": Aim("seconds of work per second of reply", 0.20, below=True),
    "first_sound": Aim("seconds from the end of streamed speech to sound", 0.05, below=True),
}


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question and its reply, and whether that counts for the measure."""

    measure: str
    said: str
    wanted: str
    spoken: str  # the emotion
    reply: str
    perceived: str | None
    heard: str | None  # the syllables that the model wrote down
    style: str | None
    counts: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured.

    Fields:
        figures: the keys of `FIGURES`, but for optional ones that were not measured.
        notes: further figures, by what they are.
        emotions: how often each emotion was taken for each (None: for none).
        styles: each style's median prosody; None where nothing was heard.
        exchanges: all that was asked and replied, to look into.
    """

    figures: Mapping[str, Figure]
    notes: Mapping[str, Figure]
    emotions: Mapping[str, Mapping[str | None, int]]
    styles: Mapping[str, ProsodyMeasure | None]
    exchanges: Sequence[Exchange]


def format_report(report: Report) -> str:
    """The tables, as they are printed."""
    lines = [*_emotion_table(report.emotions), "", *_style_table(report.styles), ""]
    lines += figure_lines(report.figures, FIGURES)
    for what, figure in report.notes.items():
        lines.append(f"{'':<28}{_value(figure):>8}{'':>17}{_count(figure):>12}  {what}")
    return "\n".join(lines)


def figure_lines(figures: Mapping[str, Figure], aims: Mapping[str, Aim]) -> list[str]:
    """A table of figures, their bars and what they are."""
    lines = [f"{'':<28}{'value':>8}{'bar':>10}{'':>7}{'count':>12}"]
    for name, figure in figures.items():
        aim = aims[name]
        bar = "" if aim.bar is None else f"{'<=' if aim.below else '>='} {aim.bar:.2f}"
        state = "" if aim.bar is None else "met" if aim.is_met(figure.value) else "short"
        lines.append(
            f"{name:<28}{_value(figure):>8}{bar:>10}{state:>7}{_count(figure):>12}  {aim.what}"
        )
    return lines


def to_json(figures: Mapping[str, Figure]) -> str:
    """One line: each key's value, null where nothing could be measured, and their "counts"."""
    values: dict[str, object] = {
        name: round(figure.value, 4) if math.isfinite(figure.value) else None
        for name, figure in figures.items()
    }
    values["counts"] = {
        name: [figure.hits, figure.total]
        for name, figure in figures.items()
        if figure.total is not None
    }
    return json.dumps(values)


def _value(figure: Figure) -> str:
    return f"{figure.value:.3f}" if math.isfinite(figure.value) else "-"


def _count(figure: Figure) -> str:
    return "" if figure.total is None else f"{figure.hits}/{figure.total}"


def _emotion_table(counts: Mapping[str, Mapping[str | None, int]]) -> list[str]:
    width = max(map(len, EMOTIONS)) + 2
    header = "".join(f"{name:>{width}}" for name in (*EMOTIONS, "none"))
    lines = ["User emotion: spoken (rows), perceived (columns)", " " * width + header]
    for truth, row in counts.items():
        lines.append(f"{truth:<{width}}" + "".join(f"{count:>{width}}" for count in row.values()))
    return lines


def _style_table(styles: Mapping[str, ProsodyMeasure | None]) -> list[str]:
    lines = [
        "Median prosody of the replies by style, from low to high as promised",
        f"{'':<14}{'F0 Hz':>10}{'F0 spread st':>14}{'syllables/s':>13}{'loudness dB':>13}",
    ]
    for style in sorted(STYLE_PROSODY, key=lambda style: STYLE_PROSODY[style].pitch):
        measure = styles.get(style)
        if measure is None:
            lines.append(f"{style:<14}{'nothing heard':>10}")
            continue
        lines.append(
            f"{style:<14}{measure.f0_hz:>10.1f}{measure.f0_spread:>14.1f}"
            f"{measure.syllables_per_second:>13.2f}{measure.loudness_db:>13.1f}"
        )
    return lines
