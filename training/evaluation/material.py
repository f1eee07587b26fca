"""All that one run of the evaluation asks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..dialogues import Dialogues
from ..speech.recordings import Line
from ..speech.speakers import PLAIN
from . import questions
from .clips import Teacher
from .questions import Question
from .scores import AGAIN
from .sounds import make_sounds


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that is asked."""

    speech: list[Question]
    speech_text: list[Question]
    text: list[Question]
    clean: list[Question]  # half of `speech`, as the teacher says it
    blends: list[Question]  # all of `speech`, in the teacher's voices as they are
    others: list[Question]  # all of `speech`, in other voices of the teacher, if it has them
    moods: list[Question]
    told_moods: list[Question]
    follow_ups: list[Question]  # to the first ones of `speech_text`
    conversations_text: list[list[Question]]
    conversations_speech: list[list[Question]]
    unknown: list[Question]
    sounds: list[Question]  # whose source is the kind of sound
    foreign: list[Question]


def gather(
    teacher: Teacher, dialogues: Dialogues, num_utterances: int, seed: int, others: bool = False
) -> Material:
    """Draw and record what is asked; the counts of all follow from `num_utterances`.

    Args:
        others: the teacher has all of Kokoro's voices.
    """
    half, third, fifth = (math.ceil(num_utterances / part) for part in (2, 3, 5))
    lines = questions.known_lines(dialogues, num_utterances, seed)
    moods = questions.known_lines(dialogues, num_utterances, seed + 1)
    moods = questions.in_all_emotions(moods, seed)
    unsolved = questions.unknown_lines(dialogues, half, seed)
    foreign = questions.foreign_questions(teacher, fifth, seed)
    blends = [replace(line, manner=PLAIN) for line in lines]
    other = [replace(line, other=True) for line in lines] if others else []
    # Many at once keep all its processes busy.
    teacher.say([*lines, *blends, *other, *moods, *unsolved])
    unknown = questions.spoken(teacher, unsolved, seed + 2)
    speech = questions.spoken(teacher, lines, seed)
    written = [replace(question, written=True) for question in speech]
    talks = {
        inputs: questions.conversations(teacher, dialogues, number, inputs, seed + 3 + offset)
        for offset, (inputs, number) in enumerate(
            {"text": fifth // 2, "speech_text": fifth - fifth // 2, "speech": fifth}.items()
        )
    }
    return Material(
        speech=speech,
        speech_text=written,
        text=questions.spoken(teacher, lines, seed, "text"),
        clean=questions.spoken(teacher, lines[:half], seed, clean=True),
        blends=questions.spoken(teacher, blends, seed, clean=True),
        others=questions.spoken(teacher, other, seed),
        moods=questions.spoken(teacher, moods, seed + 1),
        told_moods=questions.told_moods(),
        follow_ups=questions.follow_ups(teacher, dialogues, written[:third], seed),
        conversations_text=talks["text"] + talks["speech_text"],
        conversations_speech=talks["speech"],
        unknown=[replace(q, written=bool(index % 2)) for index, q in enumerate(unknown)],
        foreign=foreign,
        sounds=[
            Question(
                line=Line(source=kind, text="", manner=""), wanted=AGAIN, wave=wave, written=False
            )
            for kind, wave in make_sounds(fifth, np.random.default_rng(seed))
        ],
    )
