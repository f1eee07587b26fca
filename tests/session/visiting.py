"""What a visitor of the page does, without a browser and with a model that costs nothing."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import numpy as np
import soundfile
import torch

from models.audio import AudioClip
from page.limits import Limits
from page.session import Session
from page.turn import ShownTurn

LIMITS = Limits(
    wait_seconds=2,
    silent_seconds=2,
    linger_seconds=0.2,
    idle_seconds=0.6,
    max_sessions=3,
    max_reply_seconds=30,
    max_audio_seconds=30,
)
RATE = 16_000
NewSession = Callable[[], Session]


def speech(seconds: float, amplitude: float = 0.2) -> torch.Tensor:
    noise = torch.rand(int(seconds * RATE), generator=torch.Generator().manual_seed(0)) * 2 - 1
    pauses = torch.arange(len(noise)) % 4000 > 2500
    return noise.masked_fill(pauses, 0) * amplitude


def recording(session: Session, seconds: float = 1.0, amplitude: float = 0.2) -> str:
    """An upload of the session's visitor."""
    path = session.files.new_folder() / "speech.wav"
    soundfile.write(path, speech(seconds, amplitude).numpy(), RATE)
    session.files.add(path, session.owner)
    return str(path)


def listen(session: Session, *seconds: float, amplitude: float = 0.2) -> None:
    """The user says so much, piece by piece, and has finished."""
    session.listen()
    for piece in speech(sum(seconds), amplitude).split([int(RATE * each) for each in seconds]):
        session.hearing.hear(AudioClip(piece, RATE))
    session.hearing.end_speech()


def say(session: Session, text: str, **options) -> ShownTurn:
    *_, turn = session.answer(None, text, **options)
    return turn


def read_stream(turn: ShownTurn, value: str) -> tuple[np.ndarray, bool]:
    """What the page's player makes of a value: the samples, and whether they are all."""
    name, *lines = value.splitlines()
    assert name == f"{turn.name} {turn.sample_rate}"
    pieces = [line.split() for line in lines if not line.startswith("END")]
    raw = b"".join(base64.b64decode(data) for _, data in pieces)
    return np.frombuffer(raw, "<i2"), lines[-1].startswith("END")


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")
