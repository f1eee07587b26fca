"""Sounds before they become a test, and how they become one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.errors import UserError

from .definition import ANCHOR, ListeningTest, Stimulus
from .limits import MAX_TRIALS
from .loudness import anchor, match_loudness
from .plan import plan
from .sounds import digest, pack


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sound under a condition.

    Fields:
        samples: [n] float32 in -1..1.
        settings: how it was made.
        word: that raters ought to choose, in a test of emotions.
        prompt_sound: the recording that it answers or copies, as it is stored.
    """

    condition: str
    prompt: str
    samples: np.ndarray
    sample_rate: int
    settings: dict[str, Any] = field(default_factory=dict)
    word: str | None = None
    prompt_sound: bytes | None = None


def new_test(
    kind: str,
    title: str,
    samples: Sequence[Sample],
    *,
    question: str = "",
    reference: str | None = None,
    words: tuple[str, ...] = (),
    seed: int | None = None,
) -> tuple[ListeningTest, dict[str, bytes]]:
    """Make a test of sounds, all equally loud; a MUSHRA test gets its anchor.

    Args:
        question, reference, words, seed: see `ListeningTest`; a seed of None is drawn.

    Returns:
        The test and its sounds, as `Store.add` takes them.

    Raises:
        UserError: a silent sound, or what `ListeningTest` refuses; too many trials.
    """
    if kind == "mushra":
        samples = [*samples, *(_anchor(item) for item in samples if item.condition == reference)]
    matched = match_loudness(
        [(f"{item.condition} / {item.prompt}", item.samples, item.sample_rate) for item in samples]
    )
    sounds, stimuli = {}, []
    for item, (wave, gain) in zip(samples, matched):
        data = pack(wave, item.sample_rate)
        settings = {**item.settings, "gain_db": round(gain, 3)}
        if item.prompt_sound is not None:
            settings["prompt_sound"] = digest(item.prompt_sound)
            sounds[settings["prompt_sound"]] = item.prompt_sound
        sounds[digest(data)] = data
        stimuli.append(
            Stimulus(
                condition=item.condition,
                prompt=item.prompt,
                digest=digest(data),
                settings=settings,
                word=item.word if kind == "emotion" else None,
            )  # fmt: skip
        )
    test = ListeningTest(
        kind=kind, title=title, stimuli=tuple(stimuli), question=question, reference=reference,
        words=words, seed=secrets.randbits(31) if seed is None else seed,
    )  # fmt: skip
    if (count := len(plan(test, 0))) > MAX_TRIALS:
        raise UserError("error_test_trials", count=count, limit=MAX_TRIALS)
    return test, sounds


def _anchor(item: Sample) -> Sample:
    return Sample(
        condition=ANCHOR,
        prompt=item.prompt,
        samples=anchor(item.samples, item.sample_rate),
        sample_rate=item.sample_rate,
        settings={"source": "anchor", "of": item.condition},
    )
