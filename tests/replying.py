"""What the tests of replies share: inputs, replies, and the lines that are logged."""

import contextlib
from threading import Barrier

import numpy as np
import pytest
import torch
from loguru import logger

from generate import generate_long
from models.audio import AudioClip
from models.stepping import Stepper
from models.westlake.dual_ar import SamplingConfig

SEEDED = SamplingConfig(seed=1)
COLD = 0.05  # a temperature at which no draw hangs on how a step of more rows rounds
RATE = 16_000
NUM_FRAMES = 14


def speech(seconds, seed=0, rate=RATE):
    generator = torch.Generator().manual_seed(seed)
    wave = torch.rand(int(seconds * rate), generator=generator) - 0.5
    return AudioClip(wave, rate)


def reply_to(model, **options):
    """The whole reply: its chunks, its text and its wave."""
    options = {"sampling": SEEDED, "max_new_tokens": NUM_FRAMES, "audio": None, **options}
    chunks = list(generate_long(model, **options))
    wave = np.concatenate([chunk.new_audio for chunk in chunks])
    return chunks, "".join(chunk.new_text for chunk in chunks), wave


def talk_of(model, *texts):
    """A conversation in which these were answered."""
    conversation = model.new_conversation()
    for text in texts:
        reply_to(model, text=text, conversation=conversation, max_new_tokens=4)
    return conversation


def meet(monkeypatch: pytest.MonkeyPatch, stepper: Stepper, number: int) -> list[int]:
    """Let the first step wait until so many replies are in it; the sizes of the steps, in order.

    However late their threads are: each is counted on before any of them is stepped.
    """
    step, next_frames = stepper.step, stepper.next_frames
    together, come, sizes = Barrier(number), set(), []

    def counting(replies):
        sizes.append(len(replies))
        return step(replies)

    def meeting(replies):
        if not come.issuperset(replies):
            come.update(replies)
            with stepper._changed:
                stepper._going.update(replies)
            together.wait(60)
        return next_frames(replies)

    monkeypatch.setattr(stepper, "step", counting)
    monkeypatch.setattr(stepper, "next_frames", meeting)
    monkeypatch.setattr(stepper, "GRACE_SECONDS", 60.0, raising=False)
    return sizes


@contextlib.contextmanager
def log_lines():
    lines = []
    sink = logger.add(lambda message: lines.append(message.rstrip("\n")), format="{message}")
    try:
        yield lines
    finally:
        logger.remove(sink)
