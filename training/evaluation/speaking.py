"""How replies sound: as their words say, as their style promises, not always the same, in time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from models.contract import ReplyOptions, SpeechModel

from ..dialogues import STYLES
from ..speech.pinyin import PUNCTUATION
from ..speech.prosody import ProsodyMeasure, measure_prosody
from ..speech.recordings import Line
from ..speech.speakers import SAMPLE_RATE
from .asking import MAX_SECONDS, Answer, ask, ask_each
from .clips import Teacher
from .ear import Ear, character_errors, pinyin_errors
from .figures import Figure
from .questions import Question
from .scores import characters

MELODY_PIECES = 8
OTHER_MELODY = 1.0  # semitones, on average, from which a melody is another one


def reply_errors(ear: Ear, model: SpeechModel, answers: Sequence[Answer]) -> tuple[Figure, Figure]:
    """What the ear hears of the replies against their words: by pinyin, by characters."""
    heard = ear.hear([answer.wave for answer in answers], model.sample_rate)
    pairs = [(answer.text, text) for answer, text in zip(answers, heard)]
    return (
        Figure.pooled(pinyin_errors(*pair) for pair in pairs),
        Figure.pooled(character_errors(*pair) for pair in pairs),
    )


def teacher_errors(ear: Ear, teacher: Teacher, answers: Sequence[Answer]) -> Figure:
    """The same by pinyin, where the teacher says the words, as far as they are Chinese."""
    lines = [
        Line(source="reply", text=answer.text, manner=answer.style or "warm")
        for answer in answers
        if _can_be_said(answer.text)
    ]
    heard = ear.hear(teacher.say(lines), SAMPLE_RATE) if lines else []
    return Figure.pooled(pinyin_errors(line.text, text) for line, text in zip(lines, heard))


def _can_be_said(text: str) -> bool:
    words = characters(text)
    return bool(words) and all("\u4e00" <= char <= "\u9fff" or char in PUNCTUATION for char in text)


def style_prosody(
    model: SpeechModel, questions: Sequence[Question], seed: int
) -> dict[str, ProsodyMeasure | None]:
    """Median prosody of each style, forced on the same questions; None where nothing is heard."""
    medians: dict[str, ProsodyMeasure | None] = {}
    for style in (style for style in STYLES if style in model.styles):
        measures = []
        for answer in ask_each(model, questions, seed, style=style, label=style):
            with contextlib.suppress(ValueError):  # silence has no prosody
                number = len(characters(answer.text))
                measures.append(measure_prosody(answer.wave, model.sample_rate, number))
        medians[style] = None
        if measures:
            names = [field.name for field in dataclasses.fields(ProsodyMeasure)]
            values = {n: float(np.median([getattr(m, n) for m in measures])) for n in names}
            medians[style] = ProsodyMeasure(**values)
    return medians


def is_another(first: Answer, second: Answer, sample_rate: int) -> bool:
    """Whether a reply has other words than the first one, or the same with another melody."""
    if characters(first.text) != characters(second.text):
        return True
    melodies = [_melody(answer.wave, sample_rate) for answer in (first, second)]
    steps = [12 * abs(math.log2(a / b)) for a, b in zip(*melodies) if a and b]
    return bool(steps) and sum(steps) / len(steps) >= OTHER_MELODY


def _melody(wave: np.ndarray, sample_rate: int) -> list[float]:
    """The median F0 of equal pieces of a wave, in Hz; 0 where there is none."""
    pieces = []
    for piece in np.array_split(wave, MELODY_PIECES):
        pieces.append(0.0)
        with contextlib.suppress(ValueError):
            pieces[-1] = measure_prosody(piece, sample_rate, 1).f0_hz
    return pieces


def timing(model: SpeechModel, questions: Sequence[Question], seed: int) -> tuple[Figure, Figure]:
    """Seconds of work a second of reply, hearing included, and the median wait for its first sound
    after speech that was streamed in. One reply at a time; the first one warms up.
    """
    frames = int(MAX_SECONDS * model.frame_rate)
    options = ReplyOptions(
        sampling=dataclasses.replace(model.sampling, seed=seed), max_frames=frames
    )
    whole, streamed = (
        [ask(model.new_conversation(), question, options, streamed) for question in questions][1:]
        for streamed in (False, True)
    )
    seconds = sum(len(answer.wave) for answer in whole) / model.sample_rate
    work = sum(answer.work_seconds for answer in whole)
    waits = [answer.wait_seconds for answer in streamed if answer.wait_seconds is not None]
    return (
        Figure(work / seconds if seconds else math.inf),
        Figure(float(np.median(waits)) if waits else math.nan),
    )
