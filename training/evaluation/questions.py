"""What is asked: held-out lines in held-out voices, alone and in conversations."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..dialogues import EMOTIONS, FOLLOWUPS, UNKNOWN, Dialogues
from ..speech.lines import foreign_lines, user_lines
from ..speech.recordings import Line
from ..speech.speakers import Microphone
from .clips import Teacher
from .scores import AGAIN

INPUTS = ("speech", "speech_text", "text")
LATER_KINDS = ("topic", "follow", "correction")
CORRECTIONS = ("不是，我是说", "不对，我是说")
RETURN_SHARE = 0.3  # of the topics that are changed to one that was there before
TOLD_MOODS = Path(__file__).parent / "told_moods.txt"
FITTING = Path(__file__).parent / "fitting.txt"
_FOLLOW = "follow."


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a user says or writes, and what is to be answered.

    Fields:
        line: the words, the emotion, the voice.
        wanted: a key of `scores.known_replies`.
        also: further ones whose replies fit as well.
        wave: [n] float32 at 22,050 Hz; None: it is not spoken.
        written: the text is given as well.
        kind: one of `LATER_KINDS`; of a first turn "first".
    """

    line: Line
    wanted: str
    wave: np.ndarray | None
    written: bool
    kind: str = "first"
    also: tuple[str, ...] = ()


@functools.cache
def fitting_topics() -> dict[str, tuple[str, ...]]:
    """Held-out lines that further topics fit -> those topics.

    The lines were read twice, independently, without their topics, beside what is replied to each
    topic; further topics are those that both readings found to fit with all of their replies.
    Nothing that a model had said was seen.
    """
    rows = [row.split() for row in FITTING.read_text(encoding="utf-8").splitlines()]
    return {text: tuple(topics) for text, *topics in rows}


def held_lines(dialogues: Dialogues, seed: int) -> dict[str, list[Line]]:
    """Every held-out line once, said by someone held out, by its source, in a random order."""
    by_source: dict[str, list[Line]] = defaultdict(list)
    for line in user_lines(dialogues, 1, seed, heldout=True):
        by_source[line.source].append(line)
    return by_source


def known_lines(dialogues: Dialogues, num_lines: int, seed: int) -> list[Line]:
    """Lines of what can be answered, all intents in turn; no line twice, so maybe fewer."""
    held = held_lines(dialogues, seed)
    names = [name for name in held if not name.startswith((_FOLLOW, f"{UNKNOWN}."))]
    longest = max(len(held[name]) for name in names)
    in_turn = [held[name][k] for k in range(longest) for name in names if k < len(held[name])]
    return in_turn[:num_lines]


def unknown_lines(dialogues: Dialogues, num_lines: int, seed: int) -> list[Line]:
    """Lines of what can't be answered, no line twice."""
    held = held_lines(dialogues, seed)
    return [line for name in held if name.startswith(f"{UNKNOWN}.") for line in held[name]][
        :num_lines
    ]


def in_all_emotions(lines: Sequence[Line], seed: int) -> list[Line]:
    """The same lines, each emotion as often as any other, whatever the words say."""
    order = np.random.default_rng(seed).permutation(np.resize(EMOTIONS, len(lines)))
    return [replace(line, manner=str(emotion)) for line, emotion in zip(lines, order)]


def told_moods() -> list[Question]:
    """Lines in writing whose words tell the user's mood; no training line is among them."""
    asked = []
    for row in TOLD_MOODS.read_text(encoding="utf-8").splitlines():
        emotion, _, text = row.partition(" ")
        line = Line(source="", text=text, manner=emotion)
        asked.append(Question(line=line, wanted="", wave=None, written=True))
    return asked


def spoken(
    teacher: Teacher, lines: Sequence[Line], seed: int, inputs: str = "speech", clean: bool = False
) -> list[Question]:
    """The lines as first questions.

    Args:
        seed: of the microphones.
        inputs: one of `INPUTS`.
        clean: without a room, noise or a device.
    """
    waves: Sequence[np.ndarray | None] = [None] * len(lines)
    if inputs != "text":
        waves = teacher.say(lines)
        if not clean:
            rng = np.random.default_rng(seed)
            waves = [Microphone.draw(rng).record(wave) for wave in waves]
    return [
        Question(
            line=line,
            wanted=line.source,
            wave=wave,
            written=inputs != "speech",
            also=fitting_topics().get(line.text, ()),
        )
        for line, wave in zip(lines, waves)
    ]


def foreign_questions(teacher: Teacher, num_lines: int, seed: int) -> list[Question]:
    """Held-out lines in other languages, which nobody answers."""
    asked = spoken(teacher, foreign_lines(1, seed, heldout=True)[:num_lines], seed)
    return [replace(question, wanted=AGAIN) for question in asked]


def follow_ups(
    teacher: Teacher, dialogues: Dialogues, questions: Sequence[Question], seed: int
) -> list[Question]:
    """A held-out follow-up to each question, by speech alone, in the same voice and mood."""
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice(FOLLOWUPS, len(questions))]
    lines = [
        replace(question.line, source=f"{_FOLLOW}{kind}", text=_ask(dialogues, kind, rng))
        for question, kind in zip(questions, kinds)
    ]
    return [
        replace(
            asked,
            wanted=f"{first.line.source} {kind}",
            kind="follow",
            also=tuple(f"{topic} {kind}" for topic in first.also),
        )
        for asked, first, kind in zip(spoken(teacher, lines, seed), questions, kinds)
    ]


def conversations(
    teacher: Teacher, dialogues: Dialogues, num_conversations: int, inputs: str, seed: int
) -> list[list[Question]]:
    """Conversations of four turns, each with one voice and one microphone.

    After the first question come, in any order, another topic or one that was there before, a
    follow-up to what was asked last, and a correction, which says that something else was meant.
    """
    rng = np.random.default_rng(seed)
    held = held_lines(dialogues, seed)
    names = [name for name in held if not name.startswith((_FOLLOW, f"{UNKNOWN}."))]
    order = [str(names[k % len(names)]) for k in range(3 * num_conversations)]
    rng.shuffle(order)
    scripts = []
    for index in range(num_conversations):
        topics = iter(order[3 * index : 3 * index + 3])
        scripts.append(_script(dialogues, held, topics, rng))
    said = [line for script in scripts for line, _, _ in script]
    waves = iter([None] * len(said) if inputs == "text" else teacher.say(said))
    asked = []
    for script in scripts:
        microphone = Microphone.draw(rng)
        asked.append([])
        for line, wanted, kind in script:
            wave = next(waves)
            asked[-1].append(
                Question(
                    line=line,
                    wanted=wanted,
                    wave=None if wave is None else microphone.record(wave),
                    written=inputs != "speech",
                    kind=kind,
                    also=_fitting(line, wanted, asked[-1]),
                )
            )
    return asked


def _script(
    dialogues: Dialogues,
    held: dict[str, list[Line]],
    topics,
    rng: np.random.Generator,
) -> list[tuple[Line, str, str]]:
    """(line, what is wanted, kind) of four turns."""
    voice = int(rng.integers(2**31))
    topic = next(topics)
    before = [topic]
    turns = [(_pick(held, topic, rng), topic, "first")]
    for kind in map(str, rng.permutation(LATER_KINDS)):
        if kind == "follow":
            question = str(rng.choice(FOLLOWUPS))
            line = replace(turns[-1][0], source=_FOLLOW + question)
            line = replace(line, text=_ask(dialogues, question, rng))
            turns.append((line, f"{topic} {question}", kind))
            continue
        others = [name for name in before if name != topic]
        topic = next(topics)
        if kind == "topic" and others and rng.random() < RETURN_SHARE:
            topic = str(rng.choice(others))
        before.append(topic)
        line = _pick(held, topic, rng)
        if kind == "correction":
            line = replace(line, text=str(rng.choice(CORRECTIONS)) + line.text)
        turns.append((line, topic, kind))
    return [(replace(line, seed=voice), wanted, kind) for line, wanted, kind in turns]


def _pick(held: dict[str, list[Line]], topic: str, rng: np.random.Generator) -> Line:
    return held[topic][rng.integers(len(held[topic]))]


def _ask(dialogues: Dialogues, kind: str, rng: np.random.Generator) -> str:
    return str(rng.choice(dialogues.followups[kind][1]))


def _fitting(line: Line, wanted: str, before: Sequence[Question]) -> tuple[str, ...]:
    """Further topics that a turn's line fits, or that a follow-up asks on; see `Question`."""
    if line.source.startswith(_FOLLOW):
        kind = wanted.split()[1]
        return tuple(f"{topic} {kind}" for topic in before[-1].also)
    text = line.text
    for words in CORRECTIONS:
        text = text.removeprefix(words)
    return fitting_topics().get(text, ())
