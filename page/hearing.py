"""What a visitor says, as it comes in: by an open microphone, or in a recording to be sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event, Lock

from models.audio import AudioClip
from models.errors import UserError

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
        self._said: list[AudioClip] = []  # into the microphone, whose answer has not begun

    @property
    def seconds(self) -> float:
        """The longest wait until all that was said is read."""
        return self._limits.wait_seconds + self._limits.max_audio_seconds

    @property
    def is_open(self) -> bool:
        """Somebody speaks into the microphone."""
        return self._listener is not None

    def begin(self, stop: Event, listener: Listener | None = None) -> None:
        """A turn with this `stop` follows: all that is under way ends.

        Args:
            listener: of the microphone; what was said into it and waits for its answer belongs to
                this turn, as who goes on speaking has not finished.
        """
        with self._guard:
            before, self._stop = self._stop, stop
            old = [self._listener, self._recording and self._recording[1]]
            if listener is None or (self._listener and self._listener.has_given_up):
                self._said = []
            if listener:
                for clip in self._said:
                    listener.push(clip)
            self._listener, self._recording = listener, None
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
        """The user begins to speak into the microphone.

        Args:
            shown: paths of what is shown with what will be said, by kind: "image", "video".
        """
        listener = self._new_listener(self._limits.silent_seconds, shown)
        self.begin(listener.stop, listener)

    def end_speech(self) -> None:
        """The user has finished; from now on `take_heard` gives what was said."""
        if listener := self._listener:
            listener.end_speech()

    def stop_listening(self) -> None:
        """The microphone was closed; what it heard and nobody has asked to answer is forgotten."""
        with self._guard:
            listener, self._listener = self._listener, None
            if listener:
                self._said = []
        if listener:
            listener.cancel()

    def hear(self, clip: AudioClip) -> float | None:
        """The next sound of the microphone; dropped when nobody listens any more.

        Returns:
            The seconds for which there still is room; None if nobody listens.
        """
        with self._guard:
            listener = self._listener
            if listener is None:
                return None
            self.last_used = time.monotonic()
            if sum(each.seconds for each in self._said) < self._limits.max_audio_seconds:
                self._said.append(clip)
            listener.push(clip)
            return listener.seconds_left

    def take_heard(self) -> Listener | None:
        """The microphone's listener, for its caller from now on; None while the user speaks."""
        with self._guard:
            listener = self._listener
            if listener is None or not listener.speech_ended:
                return None
            self._listener = None
            return listener

    def settle(self, stop: Event) -> bool:
        """What was said into the microphone waits no longer: its answer begins, or there is none.

        Returns:
            False if the turn of this `stop` is over, as another one has begun: nothing is changed.
        """
        with self._guard:
            if self._stop is not stop:
                return False
            self._said = []
            return True

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, as soon as no reply is under way; returns at once.

        Only the last one is kept; None forgets it.
        """
        recording = None
        if audio:
            recording = audio, self._new_listener(self._limits.upload_seconds)
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
        self, silent_seconds: float, shown: Mapping[str, str] | None = None
    ) -> Listener:
        return Listener(self._floor, self._limiter, self._limits, silent_seconds, shown)
