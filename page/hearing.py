"""What a visitor says, as it comes in: by an open microphone, or in a recording to be sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event, Lock

from models.audio import AudioClip, load_audio
from models.errors import UserError
from models.level import level_speech

from .limiter import Limiter
from .limits import Limits
from .listener import Floor, Listener


class Hearing:
    """Listens for one conversation, and knows which of its turns is the current one.

    A new turn ends all that was under way. Every wait has an end, see `Limits`.

    Fields:
        last_used: when a turn began or something was heard, by time.monotonic.

    Args:
        floor: whose turn it is in the conversation.
        limiter: of the work that all conversations make together.
    """

    def __init__(self, floor: Floor, limiter: Limiter, limits: Limits) -> None:
        self.last_used = time.monotonic()
        self._floor, self._limiter, self._limits = floor, limiter, limits
        self._stop = Event()  # of the turn that has the floor, or waits for it
        self._guard = Lock()  # of the three that follow; never held while something is waited for
        self._listener: Listener | None = None
        self._recording: tuple[str, Listener] | None = None  # what `prepare` reads
        self._unanswered: list[AudioClip] = []  # heard by the microphone, and waits for its answer

    @property
    def seconds(self) -> float:
        """The longest wait until all that was said is read."""
        return self._limits.wait_seconds + self._limits.max_audio_seconds

    def begin(self, stop: Event, listener: Listener | None = None) -> None:
        """A turn with this `stop` follows: all that is under way ends."""
        with self._guard:
            before, self._stop = self._stop, stop
            old = [self._listener, self._recording and self._recording[1]]
            self._listener, self._recording, self._unanswered = listener, None, []
            self.last_used = time.monotonic()
        self._floor.stop(before)
        for other in filter(None, old):
            other.cancel()

    def take_floor(self, seconds: float) -> Event | None:
        """Begin a turn, and have the floor within so many seconds.

        Returns:
            The turn's `stop`; None if another one has begun.

        Raises:
            UserError: the turn under way does not end.
        """
        stop = Event()
        self.begin(stop)
        if self._floor.take(stop, seconds):
            return stop
        if stop.is_set():
            return None
        raise UserError("error_busy")

    def listen(self, shown: Mapping[str, str] | None = None) -> None:
        """The microphone was opened.

        Args:
            shown: paths of what is shown with what will be said, by kind: "image", "video".
        """
        seconds = self._limits.max_reply_seconds + self._limits.wait_seconds
        listener = self._new_listener(seconds, self._limits.silent_seconds, shown)
        unanswered = self._unanswered
        self.begin(listener.stop, listener)
        for clip in unanswered:  # who goes on speaking has not finished
            listener.push(clip)

    def stop_listening(self) -> None:
        """The microphone was closed; what it heard and nobody has asked to answer is forgotten."""
        if listener := self.take_heard():
            listener.cancel()

    def hear(self, clip: AudioClip) -> float | None:
        """The next sound of the microphone; dropped when nobody listens any more.

        Returns:
            The seconds for which there still is room; None if nobody listens.
        """
        listener = self._listener
        if listener is None:
            return None
        self.last_used = time.monotonic()
        listener.push(clip)
        return listener.seconds_left

    def take_heard(self) -> Listener | None:
        """The open microphone's listener, which listens for its caller from now on."""
        with self._guard:
            listener, self._listener = self._listener, None
        return listener

    def keep_unanswered(self, listener: Listener) -> None:
        """What was heard waits for its answer; until that begins, more may follow."""
        with self._guard:
            if self._stop is listener.stop:
                self._unanswered = list(listener.heard)

    def answered(self) -> None:
        """The answer to what was heard has begun."""
        self._unanswered = []

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, as soon as no reply is under way; returns at once.

        Only the last one is kept; None forgets it.
        """
        recording = None
        if audio:
            limits = self._limits
            seconds = limits.max_reply_seconds + limits.wait_seconds
            recording = audio, self._new_listener(seconds, limits.upload_seconds)
            recording[1].push(audio)
        with self._guard:
            before, self._recording = self._recording, recording
        if before:
            before[1].cancel()

    def is_prepared(self, audio: str | None) -> bool:
        """Whether a recording has been read, or is being read, by `prepare`, and still waits."""
        recording = self._recording
        if not audio or recording is None:
            return False
        path, listener = recording
        return path == audio and not listener.has_given_up

    def take_prepared(self, audio: str | None) -> Listener | None:
        """The listener that has read a recording, whose turn is the current one from now on."""
        with self._guard:
            if self._recording is None or not self.is_prepared(audio):
                return None
            _, listener = self._recording
            self._recording = None
        self.begin(listener.stop)
        return listener

    def _new_listener(
        self, floor_seconds: float, silent_seconds: float, shown: Mapping[str, str] | None = None
    ) -> Listener:
        return Listener(
            self._floor,
            self._limiter,
            floor_seconds=floor_seconds,
            silent_seconds=silent_seconds,
            max_seconds=self._limits.max_audio_seconds,
            shown=shown,
        )


def read_speech(path: str, limits: Limits) -> AudioClip:
    """A sound file's speech, its level raised if it is quiet.

    Raises:
        UserError: as `load_audio`, or there is no speech in it.
    """
    return level_speech(load_audio(path, limits.max_audio_seconds, limits.max_upload_bytes))
