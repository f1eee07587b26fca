"""Open microphones of hands-free talk: who speaks when, and what is handed to the listener."""

from __future__ import annotations

import base64
import binascii
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np

from models.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, AudioClip, load_audio
from models.errors import UserError
from models.voice_activity import SpeechDetector

from .limits import Limits
from .sessions import Sessions

BEFORE_SECONDS = 0.9  # heard before speech was told, which belongs to it
FULL_SECONDS = 0.05  # of room left: the turn ends


@dataclass(frozen=True)
class Heard:
    """What a piece of sound brought.

    Fields:
        number: of the piece.
        change: "speech" has begun, has "ended", or None.
        seconds_left: for which there is room; None while nobody speaks.
        seconds_to_end: of silence after which speech will have ended; None while nobody speaks.
    """

    number: int
    change: str | None = None
    seconds_left: float | None = None
    seconds_to_end: float | None = None


class Ear:
    """One visitor's open microphone."""

    def __init__(self, visitor: str, sessions: Sessions, system: str | None) -> None:
        self.visitor, self.sessions, self.system = visitor, sessions, system
        self.last_used = time.monotonic()
        self._detector: SpeechDetector | None = None
        self._before: deque[AudioClip] = deque()
        self._last = Heard(-1)
        self._lock = Lock()

    def hear(self, number: int, clip: AudioClip, echo: bool, shown: Mapping[str, str]) -> Heard:
        """Take the next piece of sound; one that came already is told as before.

        Args:
            number: counts the pieces from 0.
            echo: a reply is being heard.
            shown: what goes with speech that begins in this piece; see `Listener`.
        """
        with self._lock:
            self.last_used = time.monotonic()
            if number > self._last.number:
                change, left = self._take(clip, echo, shown)
                to_end = self._detector.seconds_to_end if self._detector else None
                self._last = Heard(number, change, left, to_end)
            return self._last

    def _take(
        self, clip: AudioClip, echo: bool, shown: Mapping[str, str]
    ) -> tuple[str | None, float | None]:
        if self._detector is None:
            self._detector = SpeechDetector(clip.sample_rate)
        was_speech = self._detector.is_speech
        changes = self._detector.push(clip.samples, echo=echo)
        begun = not was_speech and True in changes
        self._before.append(clip)
        if not (was_speech or begun):
            while sum(piece.seconds for piece in self._before) - clip.seconds > BEFORE_SECONDS:
                self._before.popleft()
            return None, None
        if begun:
            session = self.sessions.open(self.visitor, self.system)
            session.listen(shown)
        current, left = self.sessions.get(self.visitor), None
        for piece in self._before:
            left = current.hearing.hear(piece) if current else None
        self._before.clear()
        if left is not None and left < FULL_SECONDS or changes[-1:] == [False]:
            self._detector = None
            if current:
                current.hearing.end_speech()
            return "ended", None
        return ("speech" if begun else None), left


class Ears:
    """The open microphones of all visitors, at most `Limits.max_microphones`."""

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self.sessions, self.limits = sessions, limits
        self._ears: dict[str, Ear] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._ears)

    def open(self, visitor: str, system: str | None = None) -> None:
        """A visitor opens the microphone.

        Args:
            system: see `Sessions.open`.

        Raises:
            UserError: too many are open.
        """
        before = time.monotonic() - self.limits.silent_seconds
        with self._lock:
            self._ears.pop(visitor, None)
            self._ears = {who: ear for who, ear in self._ears.items() if ear.last_used >= before}
            if len(self._ears) >= self.limits.max_microphones:
                raise UserError("error_busy")
            self._ears[visitor] = Ear(visitor, self.sessions, system)

    def close(self, visitor: str) -> None:
        with self._lock:
            self._ears.pop(visitor, None)

    def hear(
        self,
        visitor: str,
        number: int,
        clip: AudioClip,
        echo: bool,
        shown: Mapping[str, str] | None = None,
    ) -> Heard | None:
        """A piece of a visitor's sound, see `Ear.hear`; None if no microphone is open any more."""
        ear = self._ears.get(visitor)
        return ear.hear(number, clip, echo, shown or {}) if ear else None


def read_piece(pcm: object, rate: object) -> AudioClip:
    """A piece of sound as the page sends it.

    Args:
        pcm: base64 of int16, little-endian, mono.
        rate: in Hz.

    Raises:
        UserError: it is none.
    """
    if not isinstance(pcm, str) or type(rate) is not int:
        raise UserError("error_request")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise UserError("error_request")
    try:
        raw = base64.b64decode(pcm, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("error_request") from None
    if not raw or len(raw) % 2:
        raise UserError("error_request")
    return load_audio((rate, np.frombuffer(raw, "<i2")))
