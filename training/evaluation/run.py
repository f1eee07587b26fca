"""All measures of a checkpoint, on held-out lines in held-out voices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from loguru import logger

from models.contract import SpeechModel

from ..dialogues import EMOTIONS, NO_EMOTION, Dialogues
from ..speech.prosody import ProsodyMeasure
from ..speech.recordings import Line
from ..speech.speakers import SAMPLE_RATE
from . import copying
from .asking import Answer, ask_all, ask_each
from .clips import Teacher
from .ear import Ear, pinyin_errors, writing_errors
from .figures import FIGURES, Exchange, Figure, Report
from .material import Material, gather
from .questions import LATER_KINDS, Question
from .scores import confusion, style_order
from .sounds import SILENT
from .speaking import is_another, reply_errors, style_prosody, teacher_errors, timing
from .understanding import Fit

NUM_TIMED = 6  # the first one warms up
NUM_STYLED = 12  # questions answered once in every style
NO_MOOD = ("neutral", NO_EMOTION)  # both are right where no mood is told
EMOTION_SECONDS = 0.1  # the emotion is the first thing that a reply says
OTHER_SEED = 1 << 20  # far from all that are drawn with otherwise


def evaluate(
    model: SpeechModel,
    dialogues: Dialogues,
    teacher: Teacher,
    ear: Ear,
    num_utterances: int,
    seed: int,
    others: bool = False,
) -> Report:
    """Measure everything that the checkpoint can do; what it can't is NaN.

    Args:
        num_utterances: held-out lines that each measure of understanding is taken on, or as many
            as there are; the other measures take a share of it.
        seed: of all that is drawn.
        others: the teacher has all of Kokoro's voices, in which users are heard, too.
    """
    logger.info("recording what is asked, as far as it isn't there yet")
    material = gather(teacher, dialogues, num_utterances, seed, others)
    log = Log(dialogues)
    both = _first_turns(model, material, log, seed)
    _later_turns(model, material, log, seed)
    _unknown(model, material, log, seed)
    emotions = _emotions(model, material, log, seed)
    styles = _speech(model, material, both, log, seed)
    heard = both[: math.ceil(len(both) / 2)]
    pinyin, cer = reply_errors(ear, model, heard)
    log.figures |= {"reply_pinyin_error": pinyin, "reply_cer": cer}
    log.figures["teacher_pinyin_error"] = teacher_errors(ear, teacher, heard)
    _copies(model, material, ear, log)
    return Report(
        figures={
            name: log.figures.get(name, Figure(math.nan))
            for name, aim in FIGURES.items()
            if name in log.figures or not aim.optional
        },
        notes=log.notes,
        emotions=emotions,
        styles=styles,
        exchanges=log.exchanges,
    )


class Log:
    """What was found so far."""

    def __init__(self, dialogues: Dialogues) -> None:
        self.fit = Fit(dialogues)
        self.figures: dict[str, Figure] = {}
        self.notes: dict[str, Figure] = {}
        self.exchanges: list[Exchange] = []

    def add_fitting(
        self, name: str, questions: Sequence[Question], answers: Sequence[Answer]
    ) -> list[bool]:
        """`add` which answers fit; and note how many do by the questions' own topics alone."""
        hits = [self.fit.fits(*pair) for pair in zip(questions, answers)]
        if questions:
            self.add(name, questions, answers, hits)
        if any(question.also for question in questions):
            own = [self.fit.is_of_topic(*pair) for pair in zip(questions, answers)]
            self.notes[f"{name}: of the line's own topic"] = Figure.of(own)
        return hits

    def add(
        self, name: str, questions: Sequence[Question], answers: Sequence[Answer], hits: list[bool]
    ) -> None:
        """Keep a share of hits as the figure of that name, and what was said."""
        self.figures[name] = Figure.of(hits)
        self.exchanges += [
            Exchange(
                measure=name,
                said=question.line.text,
                wanted=question.wanted,
                spoken=question.line.manner,
                reply=answer.text,
                perceived=answer.emotion,
                heard=answer.heard,
                style=answer.style,
                counts=hit,
            )
            for question, answer, hit in zip(questions, answers, hits)
        ]


def _first_turns(model: SpeechModel, material: Material, log: Log, seed: int) -> list[Answer]:
    """How well replies fit; those to speech and text are given back."""
    spoken = ask_each(model, material.speech, seed, label="speech")
    following = [[q] for q in material.follow_ups]
    scripts = [
        [question, *(following[index] if index < len(following) else ())]
        for index, question in enumerate(material.speech_text)
    ]
    held = ask_all(model, scripts, seed, label="speech and text")
    both, second = [answers[0] for answers in held], [a for answers in held for a in answers[1:]]
    written = ask_each(model, material.text, seed, label="text")
    clean = ask_each(model, material.clean, seed, label="clean speech")
    clean_text = [replace(question, written=True) for question in material.clean]
    clean_both = ask_each(model, clean_text, seed, label="clean speech and text")
    other = ask_each(model, material.others, seed, label="speech in other voices")
    for name, asked, answers in (
        ("intent_speech_natural", material.speech, spoken),
        ("intent_speech_text_natural", material.speech_text, both),
        ("intent_text", material.text, written),
        ("intent_speech", material.clean, clean),
        ("intent_speech_text", clean_text, clean_both),
        ("intent_speech_other", material.others, other),
        ("second_turn", material.follow_ups, second),
    ):
        log.add_fitting(name, asked, answers)
    _heard("heard_pinyin_error", material.speech, spoken, log)
    _heard("heard_other_pinyin_error", material.others, other, log)
    lost = [log.fit.is_unknown(answer) for answer in spoken]
    lost_both = [log.fit.is_unknown(answer) for answer in both]
    log.figures["unknown_false"] = Figure.of(lost + lost_both)
    log.notes["known lines answered as unknown, by speech alone"] = Figure.of(lost)
    answered = (*spoken, *both, *written)
    log.figures["stop_rate"] = Figure.of([answer.ended for answer in answered])
    log.notes["replies that were taught, word for word"] = Figure.of(
        [log.fit.is_taught(answer) for answer in answered]
    )
    return both


def _heard(name: str, asked: Sequence[Question], answers: Sequence[Answer], log: Log) -> None:
    """Of speech alone, the syllables written down wrong; nothing of who writes none down."""
    if any(answer.heard for answer in answers):
        log.figures[name] = Figure.pooled(
            writing_errors(question.line.text, answer.heard)
            for question, answer in zip(asked, answers)
        )


def _later_turns(model: SpeechModel, material: Material, log: Log, seed: int) -> None:
    for name, scripts, label in (
        ("later_turns", material.conversations_text, "conversations with text"),
        ("later_turns_speech", material.conversations_speech, "conversations by speech"),
    ):
        held = ask_all(model, scripts, seed, label=label)
        later = [pair for pairs in zip(scripts, held) for pair in list(zip(*pairs))[1:]]
        asked, answers = [question for question, _ in later], [answer for _, answer in later]
        hits = log.add_fitting(name, asked, answers)
        for kind in LATER_KINDS:
            of_kind = [hit for question, hit in zip(asked, hits) if question.kind == kind]
            log.notes[f"{name}: {kind}"] = Figure.of(of_kind)


def _unknown(model: SpeechModel, material: Material, log: Log, seed: int) -> None:
    """What can't be answered, by speech and with text in turn, and what isn't speech."""
    answers = ask_each(model, material.unknown, seed, label="unknown")
    unknown = [log.fit.is_unknown(answer) for answer in answers]
    sounds = ask_each(model, material.sounds, seed, label="sounds")
    again = [log.fit.asks_again(answer) for answer in sounds]
    noises = [
        log.fit.is_unknown(answer)
        for question, answer in zip(material.sounds, sounds)
        if question.line.source not in SILENT
    ]
    log.add("unknown_recall", material.unknown, answers, unknown)
    log.add("unclear_silence", material.sounds, sounds, again)
    foreign = ask_each(model, material.foreign, seed, label="foreign")
    log.add("unclear_foreign", material.foreign, foreign, [log.fit.asks_again(a) for a in foreign])
    log.figures["unknown_recall"] = Figure.of(unknown + noises)
    if model.emotions:
        unclaimed = [answer.emotion in (None, NO_EMOTION) for answer in sounds]
        log.notes["silence and noise without a claimed emotion"] = Figure.of(unclaimed)
    log.notes["unknown lines by speech alone, answered as such"] = Figure.of(unknown[::2])
    log.notes["unknown lines with text, answered as such"] = Figure.of(unknown[1::2])


def _emotions(
    model: SpeechModel, material: Material, log: Log, seed: int
) -> dict[str, dict[str | None, int]]:
    if not model.emotions:
        return {}
    moods = material.moods
    answers = ask_each(model, moods, seed, max_seconds=EMOTION_SECONDS, label="emotions")
    spoken, perceived = [q.line.manner for q in moods], [a.emotion for a in answers]
    log.add("user_emotion_accuracy", moods, answers, [a == b for a, b in zip(spoken, perceived)])
    told = material.told_moods
    answers = ask_each(model, told, seed, max_seconds=EMOTION_SECONDS, label="moods in writing")
    hits = [_is_told(question, answer) for question, answer in zip(told, answers)]
    log.add("told_emotion_accuracy", told, answers, hits)
    return confusion(spoken, perceived, EMOTIONS)


def _is_told(question: Question, answer: Answer) -> bool:
    """Whether the emotion is that of the words, or none where they tell none."""
    emotion = answer.emotion or NO_EMOTION
    return emotion == question.line.manner or (question.line.manner, emotion) == NO_MOOD


def _speech(
    model: SpeechModel, material: Material, both: list[Answer], log: Log, seed: int
) -> dict[str, ProsodyMeasure | None]:
    """What needs no ear: styles, variety, pace."""
    styles = style_prosody(model, material.speech_text[:NUM_STYLED], seed)
    if model.styles:
        log.figures["style_order"] = Figure(style_order(styles))
    again = ask_each(model, material.speech_text, seed + OTHER_SEED, label="once more")
    other = [is_another(*pair, model.sample_rate) for pair in zip(both, again)]
    log.add("variety", material.speech_text, again, other)
    worded = [one.text != two.text for one, two in zip(both, again)]
    log.notes["repeated questions with another wording"] = Figure.of(worded)
    rtf, first_sound = timing(model, material.speech[:NUM_TIMED], seed)
    log.figures |= {"rtf": rtf, "first_sound": first_sound}
    return styles


def _copies(model: SpeechModel, material: Material, ear: Ear, log: Log) -> None:
    """The codec on held-out speech without a microphone, against the words: in the teacher's
    voices as they are, and of people of all kinds in all moods, whom the ear hears worse."""
    codec = copying.codec_of(model)
    for name, questions in (("blends", material.blends), ("people", material.clean)):
        lines = [question.line for question in questions]
        waves = [question.wave for question in questions]
        heard = ear.hear(waves, SAMPLE_RATE)
        log.notes[f"syllables of held-out {name} heard wrong"] = _heard_wrong(lines, heard)
        if codec is None:
            continue
        copies = copying.copy_all(codec, waves)
        heard = ear.hear([copied.wave for copied in copies], codec.config.sample_rate)
        wrong = _heard_wrong(lines, heard)
        if name == "blends":
            log.figures["copy_pinyin_error"] = wrong
            continue
        log.figures["copy_people_pinyin_error"] = wrong
        log.figures["codec_stoi"] = Figure(copying.stoi(codec, copies))
        log.figures["codes_used_min"] = Figure(copying.fewest_codes(copies))
        log.notes["log-mel L1 of the codec, median"] = Figure(copying.mel_distance(codec, copies))


def _heard_wrong(lines: Sequence[Line], heard: Sequence[str]) -> Figure:
    return Figure.pooled(pinyin_errors(line.text, text) for line, text in zip(lines, heard))
