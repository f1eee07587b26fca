"""Conditions times prompts -> samples, through `generate_long` and what else a model may offer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np

from generate import generate_long, num_frames
from models.audio import AudioClip, load_audio
from models.contract import ReplyChunk, SpeechCodec, SpeechModel
from models.errors import UserError, shown
from models.hub import public_name
from models.level import level_speech

from .definition import check_text
from .limits import MAX_NAME, MAX_TEXT, TestLimits
from .sample import Sample
from .sounds import pack, unpack

Chunks = Generator[ReplyChunk, None, None]
Watch = Callable[[Chunks], Chunks]
SOURCES = ("reply", "copy", "recording")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How sounds are made.

    Fields:
        source: "reply" to the prompt, a "copy" of its recording by the codec, or the "recording".
        model: the name of the model that makes them; none is needed for recordings.
        style, voice: of the model's; None leaves it to the model.
        sampling: changes to the model's own settings, by name.
        seed: of every reply; None draws one for each, which is noted.
        max_seconds: the longest reply.
    """

    name: str
    source: str = "reply"
    model: str = ""
    style: str | None = None
    voice: str | None = None
    sampling: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    max_seconds: float = 15.0

    def __post_init__(self) -> None:
        check_text("condition", self.name, MAX_NAME, may_be_empty=False)
        if self.source not in SOURCES:
            allowed = ", ".join(SOURCES)
            raise UserError("error_test_source", source=shown(self.source), allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is answered.

    Fields:
        text: written, may be empty.
        sound: a recording as it is stored, if there is one.
    """

    name: str
    text: str = ""
    sound: bytes | None = None

    def __post_init__(self) -> None:
        check_text("prompt", self.name, MAX_NAME, may_be_empty=False)
        check_text("prompt", self.text, MAX_TEXT)


def recorded_prompt(name: str, source: Any, limits: TestLimits) -> Prompt:
    """A prompt of a recording: a file as `load_audio` takes it."""
    clip = load_audio(source, limits.max_seconds)
    return Prompt(name=name, sound=pack(clip.samples.numpy(), clip.sample_rate))


def _unwatched(chunks: Chunks) -> Chunks:
    return chunks


def make_sample(
    condition: Condition,
    prompt: Prompt,
    model_of: Callable[[str], SpeechModel],
    limits: TestLimits,
    *,
    stop: Event | None = None,
    log_content: bool = False,
    watch: Watch = _unwatched,
) -> Sample:
    """Make one sound.

    Args:
        model_of: a model by the name that conditions give it.
        stop: when set, a reply ends within one frame.
        watch: passes a reply on, and may measure it.

    Raises:
        UserError: what `generate_long` refuses; a condition that needs a recording or a codec
            where there is none; a reply without sound.
    """
    clip = unpack(prompt.sound, limits.max_seconds) if prompt.sound is not None else None
    if condition.source == "reply":
        model = model_of(condition.model)
        wave, settings = _reply(condition, prompt, clip, model, stop, log_content, watch)
        rate = model.sample_rate
    elif clip is None:
        raise UserError("error_test_recording", condition=shown(condition.name))
    elif condition.source == "copy":
        model = model_of(condition.model)
        wave, rate = _copy(model, clip), model.sample_rate
        settings = _made_by(model, condition)
    else:
        wave, settings, rate = clip.samples.numpy(), {}, clip.sample_rate
    settings |= {"source": condition.source, "prompt_text": prompt.text}
    return Sample(
        condition=condition.name, prompt=prompt.name, samples=wave, sample_rate=rate,
        settings=settings, prompt_sound=prompt.sound,
    )  # fmt: skip


def remake(
    settings: dict[str, Any],
    prompt_sound: bytes | None,
    model_of: Callable[[str], SpeechModel],
    limits: TestLimits,
) -> Sample:
    """Make a sample again from what is noted of it, sample for sample before its gain.

    Args:
        prompt_sound: what its settings name by `prompt_sound`.
    """
    sampling = dict(settings.get("sampling", {}))
    seed = sampling.pop("seed", None)
    condition = Condition(
        name="again", source=settings["source"], model=settings.get("model", ""),
        style=settings.get("asked_style"), voice=settings.get("voice"), sampling=sampling,
        seed=seed, max_seconds=settings.get("max_seconds", Condition.max_seconds),
    )  # fmt: skip
    prompt = Prompt(name="again", text=settings.get("prompt_text", ""), sound=prompt_sound)
    return make_sample(condition, prompt, model_of, limits)


def _made_by(model: SpeechModel, condition: Condition) -> dict[str, Any]:
    return {
        "model": condition.model,
        "checkpoint": public_name(model.name),
        "family": model.family,
        "dtype": model.dtype,
    }


def _copy(model: SpeechModel, clip: AudioClip) -> np.ndarray:
    if not isinstance(model, SpeechCodec):
        raise UserError("error_no_codec", name=shown(public_name(model.name)))
    return model.decode(model.encode(clip.samples, clip.sample_rate))


def _reply(
    condition: Condition,
    prompt: Prompt,
    clip: AudioClip | None,
    model: SpeechModel,
    stop: Event | None,
    log_content: bool,
    watch: Watch,
) -> tuple[np.ndarray, dict[str, Any]]:
    sampling = dataclasses.replace(model.sampling, **condition.sampling, seed=condition.seed)
    chunks = generate_long(
        model,
        audio=level_speech(clip) if clip is not None else None,
        text=prompt.text or None,
        voice=condition.voice,
        style=condition.style,
        sampling=sampling,
        max_new_tokens=num_frames(model, condition.max_seconds),
        stop=stop,
        log_content=log_content,
    )
    waves, text, last = [np.zeros(0, np.float32)], "", None
    with closing(watch(chunks)) as chunks:
        for last in chunks:
            waves.append(last.new_audio)
            text += last.new_text
    wave = np.concatenate(waves)
    if last is None or not len(wave):
        raise UserError("error_test_no_reply", name=shown(f"{condition.name} / {prompt.name}"))
    settings = _made_by(model, condition) | {
        "asked_style": condition.style,
        "style": last.style,
        "voice": condition.voice,
        "sampling": dataclasses.asdict(dataclasses.replace(sampling, seed=last.seed)),
        "max_seconds": condition.max_seconds,
        "emotion": last.emotion,
        "reply": text[:MAX_TEXT],
        "ended": last.ended,
    }
    return wave, settings
