"""What strangers send to the page's server by hand."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile
from fake_model import FakeModel, held
from page_client import API, Visitor, function

import app
from page.limits import Limits
from strings import say

SETTINGS = ["", 5, 0.7, -1]  # style, seconds, temperature, seed
FOREIGN = say("error_foreign_file", "en")


LIMITS = Limits(
    max_request_bytes=64 * 1024,
    max_upload_bytes=1024 * 1024,
    max_user_bytes=2 * 1024 * 1024,
    max_total_bytes=4 * 1024 * 1024,
    max_text_characters=100,
    receive_seconds=2,
    linger_seconds=3,
    wait_seconds=2,
    silent_seconds=1,
    max_waiting=4,
    max_replies=2,
    max_sessions=4,
)


def wav(seconds: float = 0.5) -> bytes:
    """Bursts of noise, which count as speech."""
    samples = np.random.default_rng(0).integers(-6000, 6000, int(16_000 * seconds))
    samples[np.arange(len(samples)) % 4000 > 2500] = 0
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.int16), 16_000, format="WAV")
    return file.getvalue()


def file_of(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def written(text: str) -> list:
    return [{"text": text, "audio": None}, *SETTINGS]


def shown_faults(message: dict) -> list[str]:
    """What an event's last message says of faults, in Chinese."""
    values = [value for value in message["output"].get("data", []) if isinstance(value, str)]
    shown = [json.loads(value) for value in values if value.startswith('{"kind": "fault"')]
    return [value["text"]["zh"] for value in shown]


def wait_until(condition) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


@contextmanager
def full(url: str, page: app.Page, model: FakeModel) -> Iterator[None]:
    """Strangers' replies take all places meanwhile."""
    others, streams = [Visitor(url) for _ in range(LIMITS.max_replies)], []
    with held(model):
        for other in others:
            assert other.join(function(page, "answer"), written("你好"))[0] == 200
            streams.append(other.open("GET", f"{API}/queue/data?session_hash={other.session}"))
        wait_until(lambda: page.calls.num_replies == len(others) and not page.calls.num_waiting)
        yield
    for stream in streams:
        stream.close()
    wait_until(lambda: model.num_running == 0)
