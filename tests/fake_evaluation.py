"""Stand-ins for what the evaluation works with: a teacher, an ear, and checkpoints good and bad.

Every line that is said has a length of its own, by which whoever hears it knows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from models.contract import ReplyChunk, ReplyOptions
from training.dialogues import (
    EMOTIONS,
    SILENT,
    STYLE_FOR_EMOTION,
    STYLES,
    UNCLEAR,
    Dialogues,
)
from training.evaluation.questions import told_moods
from training.evaluation.scores import characters
from training.speech.recordings import Line
from training.speech.speakers import SAMPLE_RATE, STYLE_PROSODY

SYLLABLE_SECONDS = 0.02  # short, so that the tests are
FOLLOW = "follow."


class FakeTeacher:
    """Says a line as a tone of its own length, pitched and as loud as its style promises."""

    def __init__(self) -> None:
        self.said: dict[int, Line] = {}  # by the number of samples
        self._waves: dict[Line, np.ndarray] = {}

    def say(self, lines: Sequence[Line]) -> list[np.ndarray]:
        return [self._say(line) for line in lines]

    def _say(self, line: Line) -> np.ndarray:
        if line not in self._waves:
            prosody = STYLE_PROSODY.get(line.manner, STYLE_PROSODY["warm"])
            seconds = 0.1 + SYLLABLE_SECONDS * len(characters(line.text)) / prosody.rate
            length = round(seconds * SAMPLE_RATE)
            while length in self.said:
                length += 1
            self.said[length] = line
            phase = 2 * np.pi * 200 * prosody.pitch * np.arange(length) / SAMPLE_RATE
            wave = 0.1 * 10 ** (prosody.gain_db / 20) * (np.sin(phase) + np.sin(2 * phase))
            self._waves[line] = wave.astype(np.float32)
        return self._waves[line]


class FakeEar:
    """Hears what the teacher said, and nothing in any other wave."""

    def __init__(self, teacher: FakeTeacher) -> None:
        self.teacher = teacher

    def hear(self, waves: Sequence[np.ndarray], sample_rate: int) -> list[str]:
        return [self._hear(wave) for wave in waves]

    def _hear(self, wave: np.ndarray) -> str:
        line = self.teacher.said.get(len(wave))
        known = line is not None and np.array_equal(wave, self.teacher.say([line])[0])
        return line.text if known else ""


@dataclasses.dataclass(frozen=True)
class FakeSampling:
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Spoken:
    """What a fake checkpoint replies; it writes down a character as a syllable."""

    text: str
    emotion: str | None
    style: str
    wave: np.ndarray
    ended: bool = True
    heard: str | None = None


class FakeModel:
    """Knows every line that the teacher says, and answers it with a reply of the dialogues.

    Args:
        change: makes a worse reply of a good one.
    """

    name, family, device, dtype, num_parameters = "fake", "fake", "cpu", "float32", 0
    sample_rate, frame_rate, max_input_seconds = SAMPLE_RATE, 20.0, 60.0
    emotions, styles, voices = EMOTIONS, STYLES, ()
    accepts = frozenset({"audio", "text"})
    sampling, sampling_fields = FakeSampling(), ()

    def __init__(
        self,
        teacher: FakeTeacher,
        dialogues: Dialogues,
        change: Callable[[Spoken], Spoken] = lambda reply: reply,
    ) -> None:
        self.teacher, self.change = teacher, change
        self.intents = {intent.name: intent for intent in dialogues.intents}
        self.sources = {
            text: intent.name
            for intent in dialogues.intents
            for text in (*intent.users, *intent.held)
        }
        for kind, (_, held) in dialogues.followups.items():
            self.sources |= dict.fromkeys(held, FOLLOW + kind)
        self.told_moods = {asked.line.text: asked.line.manner for asked in told_moods()}

    def new_conversation(self) -> FakeConversation:
        return FakeConversation(self)

    def warm_up(self) -> None:
        pass


class FakeTurn:
    """Takes in text and speech."""

    def __init__(self, text: str | None) -> None:
        self.text, self.num_samples = text, 0

    def push(self, samples) -> None:
        self.num_samples += len(samples)

    def finish(self) -> None:
        pass


class FakeConversation:
    """Remembers the topic."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.topic = UNCLEAR

    def begin_turn(self, text: str | None = None, sample_rate: int | None = None) -> FakeTurn:
        return FakeTurn(text)

    def reply(self, turn: FakeTurn, options: ReplyOptions) -> Iterator[ReplyChunk]:
        spoken = self.model.change(self._answer(turn, options))
        yield ReplyChunk(
            new_text=spoken.text,
            new_audio=spoken.wave,
            total_frames=1,
            max_frames=1,
            total_seconds=1.0,
            max_seconds=1.0,
            emotion=spoken.emotion,
            style=spoken.style,
            heard=spoken.heard,
            seed=options.sampling.seed,
            ended=spoken.ended,
        )

    def _answer(self, turn: FakeTurn, options: ReplyOptions) -> Spoken:
        line = self.model.teacher.said.get(turn.num_samples)
        said = turn.text or (line.text if line else "")
        source = next((s for text, s in self.model.sources.items() if said.endswith(text)), None)
        if source and source.startswith(FOLLOW):
            texts = [self.model.intents[self.topic].then[source.removeprefix(FOLLOW)]]
        else:
            self.topic = source or SILENT
            replies = self.model.intents[self.topic].replies
            texts = [text for of_style in replies.values() for text in of_style]
        text = texts[np.random.default_rng(options.sampling.seed).integers(len(texts))]
        told = self.model.told_moods.get(said, EMOTIONS[0])
        emotion = line.manner if line else told
        style = options.style or STYLE_FOR_EMOTION[emotion]
        (wave,) = self.model.teacher.say([Line(source="reply", text=text, manner=style)])
        heard = " ".join(line.text) if line else None
        return Spoken(text=text, emotion=emotion, style=style, wave=wave, heard=heard)
