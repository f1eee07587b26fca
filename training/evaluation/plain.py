"""What any checkpoint can give, whatever it was taught: how its speech says its text, and when."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from models.contract import ReplyOptions, SpeechModel

from ..speech.recordings import Line
from .asking import MAX_SECONDS, Answer, ask
from .ear import Ear, character_errors
from .figures import Aim, Figure
from .questions import Question

FIGURES = {
    "reply_cer": Aim("characters of replies heard wrong"),
    "mute": Aim("replies without sound"),
    "stop_rate": Aim(f"replies that end by themselves within {MAX_SECONDS:g} s"),
    "voice_likeness": Aim("likeness of the replies' voices to one another, 1 is the same"),
    "rtf": Aim("seconds of work per second of reply"),
    "first_sound": Aim("seconds from the end of a written turn to sound"),
}
VOICE_PACKAGE = "resemblyzer"  # of speaker embeddings; without it voices are not compared
LEAST_SECONDS = 1.0  # of a reply whose voice is compared


@dataclass(frozen=True, kw_only=True)
class PlainReport:
    """What was measured.

    Fields:
        figures: the keys of `FIGURES`, NaN where nothing could be measured.
        exchanges: what was asked, replied and heard of each.
    """

    figures: dict[str, Figure]
    exchanges: list[dict[str, str]]


def evaluate_plain(model: SpeechModel, texts: Sequence[str], ear: Ear, seed: int) -> PlainReport:
    """Ask in writing, one by one, each in a conversation of its own.

    Args:
        model: any.
        texts: what is asked; at least one.
        ear: of the language that the model speaks.
        seed: of the replies; each has its own.
    """
    answers = [
        _answer(model, text, seed + index)
        for index, text in enumerate(tqdm(texts, desc="replies", leave=False))
    ]
    heard = ear.hear([answer.wave for answer in answers], model.sample_rate)
    seconds = sum(len(answer.wave) for answer in answers) / model.sample_rate
    work = sum(answer.work_seconds for answer in answers)
    waits = [answer.wait_seconds for answer in answers if answer.wait_seconds is not None]
    pairs = [(_letters(answer.text), _letters(said)) for answer, said in zip(answers, heard)]
    figures = {
        "reply_cer": Figure.pooled(character_errors(*pair) for pair in pairs),
        "mute": Figure.of([not len(answer.wave) for answer in answers]),
        "stop_rate": Figure.of([answer.ended for answer in answers]),
        "voice_likeness": Figure(
            voice_likeness([answer.wave for answer in answers], model.sample_rate)
        ),
        "rtf": Figure(work / seconds if seconds else math.nan),
        "first_sound": Figure(float(np.median(waits)) if waits else math.nan),
    }
    exchanges = [
        {"said": text, "reply": answer.text, "heard": said}
        for text, answer, said in zip(texts, answers, heard)
    ]
    return PlainReport(figures=figures, exchanges=exchanges)


def _answer(model: SpeechModel, text: str, seed: int) -> Answer:
    line = Line(source="given", text=text, manner="")
    question = Question(line=line, wanted="", wave=None, written=True)
    options = ReplyOptions(
        sampling=replace(model.sampling, seed=seed),
        max_frames=max(1, int(MAX_SECONDS * model.frame_rate)),
    )
    return ask(model.new_conversation(), question, options)


def _letters(text: str) -> str:
    """What an ear can tell: letters and digits, whatever their case."""
    return "".join(char for char in text.lower() if char.isalnum())


def voice_likeness(waves: Sequence[np.ndarray], sample_rate: int) -> float:
    """The mean cosine between the speaker embeddings of each two waves [n] float32.

    NaN where fewer than two are long enough, or the package is not installed.
    """
    long = [wave for wave in waves if len(wave) >= LEAST_SECONDS * sample_rate and wave.any()]
    if len(long) < 2 or importlib.util.find_spec(VOICE_PACKAGE) is None:
        return math.nan
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)
    embedded = np.stack(
        [encoder.embed_utterance(preprocess_wav(wave, source_sr=sample_rate)) for wave in long]
    )
    alike = embedded @ embedded.T
    return float((alike.sum() - alike.trace()) / (len(long) * (len(long) - 1)))
