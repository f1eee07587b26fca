"""Somebody who asks the page over HTTP, as its scripts and other programs do.

No wait is without end: each read has a time limit, and a clock ends the whole benchmark.
"""

import http.client
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import soundfile

API = "/gradio_api"
READ_SECONDS = 60.0  # without a byte; a stream of events sends some every 15 s
BUSY_SECONDS, BUSY = 0.2, "busy"  # a user who is told so asks again
TOLD_SECONDS = 10.0  # between two lines about how far it is


class TimeIsUpError(Exception):
    """The benchmark takes longer than it may."""


class Clock:
    """How long a benchmark has gone on and how far it is, told on the standard error output.

    Args:
        minutes: after which it ends.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.started = self._told = time.monotonic()
        self._name, self._num, self._done = "", 0, 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def begin(self, name: str, num: int) -> None:
        """What comes next, and of how many pieces it is."""
        self._name, self._num, self._done = name, num, 0
        self._tell()

    def count(self) -> None:
        """One piece more is done."""
        self._done += 1
        if time.monotonic() > self._told + TOLD_SECONDS:
            self._tell()

    def check(self) -> None:
        """Raise a TimeIsUpError when time is up."""
        if self.seconds > 60 * self.minutes:
            raise TimeIsUpError(
                f"stopped after {self.minutes:g} minutes: {self._name}, "
                f"{self._done} of {self._num} done"
            )

    def _tell(self) -> None:
        self._told = time.monotonic()
        line = f"{self.seconds:5.0f} s  {self._name}: {self._done} of {self._num}"
        print(line, file=sys.stderr, flush=True)


@dataclass
class Spoken:
    """A reply: its samples, int16, and the seconds from the request to its first sound and end."""

    samples: np.ndarray
    sample_rate: int
    first: float
    seconds: float
    num_refused: int

    @property
    def speech_seconds(self) -> float:
        return len(self.samples) / self.sample_rate


class Visitor:
    """A visitor of the page.

    Args:
        url: of the page.
        clock: that ends all waits.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self.address, self.clock = urlsplit(url).netloc, clock
        self.headers = {"X-Visitor": uuid4().hex, "Content-Type": "application/json"}
        self.num_bytes = 0  # of the streams of events

    def ask(self, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
        """A request's answer, whatever its status."""
        self.clock.check()
        connection = http.client.HTTPConnection(self.address, timeout=READ_SECONDS)
        raw = None if body is None else json.dumps(body)
        connection.request(method, path, raw, self.headers)
        return connection.getresponse()

    def get(self, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
        """The same; a ValueError if the status isn't 200."""
        response = self.ask(method, path, body)
        if response.status != 200:
            raise ValueError(f"{path}: {response.status} {response.read().decode()}")
        return response

    def lines(self, response: http.client.HTTPResponse) -> Iterator[str]:
        """The lines of a stream of events."""
        with response:
            for line in response:
                self.clock.check()
                self.num_bytes += len(line)
                yield line.decode().rstrip()

    def speak(self, text: str, seed: int, conversation: str) -> Spoken:
        """Ask the API for a reply until it is not too busy for it.

        Raises:
            ValueError: the page has refused it, or the reply is lost.
        """
        started, num_refused = time.perf_counter(), 0
        while (said := self._try(text, seed, conversation, started)) is None:
            num_refused += 1
            time.sleep(BUSY_SECONDS)
        first, seconds, path = said
        wav = self.get("GET", f"{API}/file={path}").read()
        samples, sample_rate = soundfile.read(io.BytesIO(wav), dtype="int16")
        return Spoken(samples, sample_rate, first, seconds, num_refused)

    def _try(
        self, text: str, seed: int, conversation: str, started: float
    ) -> tuple[float, float, str] | None:
        """Seconds to the first sound and to the end, and the sound's path; None if it is busy."""
        body = {"data": [None, text, "", seed, None, conversation, ""]}
        response = self.ask("POST", f"{API}/call/speak", body)
        answer = response.read().decode()
        if response.status != 200:
            _check_busy(f"{response.status} {answer}")
            return None
        path = f"{API}/call/speak/{json.loads(answer)['event_id']}"
        first, kind, sound = 0.0, "", None
        for line in self.lines(self.get("GET", path)):
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind == "error":
                _check_busy(value)
                return None
            elif name == "data" and kind in ("generating", "complete"):
                for _, spoken in json.loads(value) or []:  # the last event may hold nothing new
                    sound = spoken or sound
                if sound and not first:
                    first = time.perf_counter() - started
                if kind == "complete" and sound:
                    return first, time.perf_counter() - started, sound["path"]
        raise ValueError("a reply is lost: its stream has ended before it")


def _check_busy(message: str) -> None:
    """Raise a ValueError of what the page answers, unless it says that it is busy."""
    if BUSY not in message:
        raise ValueError(message)


def told_bars(bars: dict[str, tuple[float, float]]) -> bool:
    """Print what was to be reached.

    Args:
        bars: by name, what was seen and what is allowed at most.

    Returns:
        Whether all was reached.
    """
    for name, (seen, most) in bars.items():
        print(f"{'reached' if seen <= most else 'MISSED':8} {name}: {seen:.4g}, at most {most:.4g}")
    return all(seen <= most for seen, most in bars.values())
