"""Reading the user's speech while it is spoken, or before it is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Condition, Event, Lock, Thread

import numpy as np

from models.audio import AudioClip, load_audio, to_pcm16
from models.audio_output import write_pcm16
from models.contract import Conversation, UserTurn
from models.errors import UserError
from models.level import StreamLeveller, level_speech

from .limiter import PATIENT_SECONDS, Limiter
from .limits import Limits

BLOCK_SECONDS = 1.0  # of speech read at once; in between it can be cancelled
SPARE_SECONDS = 0.5  # of the model's room, that rounding may take


class Floor:
    """Whose turn it is in a conversation: one of its turns has the floor, the others wait.

    Fields:
        conversation: read and replaced by who has the floor.
        is_closed: nobody can take it any more; its holder keeps it.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._changed = Condition()
        self._taken = self.is_closed = False

    def take(self, stop: Event, seconds: float) -> bool:
        """Have the floor, as soon as it is free; False if `stop` was set, it took too long, or it
        is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken or self.is_closed or stop.is_set(), seconds
            )
            if self._taken or self.is_closed or stop.is_set():
                return False
            self._taken = True
            return True

    def give(self) -> None:
        """The turn that has the floor is over."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Who has the floor gives it at the end, whatever happens."""
        try:
            yield
        finally:
            self.give()

    @contextmanager
    def given_at_fault(self) -> Iterator[None]:
        """Who has the floor gives it if this fails, and else keeps it."""
        try:
            yield
        except BaseException:
            self.give()
            raise

    def close(self, seconds: float) -> bool:
        """Let nobody take it any more; whether its holder gives it within so many seconds."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._taken, seconds)

    def stop(self, stop: Event) -> None:
        """Set an event, and wake who waits with it."""
        with self._changed:
            stop.set()
            self._changed.notify_all()

    @property
    def is_free(self) -> bool:
        return not self._taken


class Listener:
    """Reads the user's speech into the conversation while it comes in.

    A thread of its own does it: pieces of sound arrive faster than a busy machine reads them, and
    none may be lost. It takes the floor, and `finish` hands the floor on to its caller. It gives
    up by itself if the floor is not free in time, or if nothing comes for too long: not so soon
    once the speech has ended.

    Fields:
        stop: cancels it when set by `Floor.stop`.
        heard: the microphone's sound so far, as it came.
        speech_ended: `finish` may follow.
        shown: paths of what is shown with it, by kind: "image", "video".

    Args:
        floor: of the conversation that it reads into.
        limiter: of the work that all conversations make together.
        silent_seconds: the longest wait for the next piece.
        shown: see the field; None if there is nothing.
    """

    def __init__(
        self,
        floor: Floor,
        limiter: Limiter,
        limits: Limits,
        silent_seconds: float,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        self.stop, self.shown = Event(), dict(shown or {})
        self._floor, self._limiter, self._limits = floor, limiter, limits
        self._floor_seconds = limits.max_reply_seconds + limits.wait_seconds  # and for a slot
        self._silent_seconds = silent_seconds
        self.heard: list[AudioClip] = []
        self.speech_ended, self._patient_until = False, 0.0
        self._leveller: StreamLeveller | None = None
        self._turn: UserTurn | None = None
        self._seconds_left = limits.max_audio_seconds
        self._error: Exception | None = None
        self._ended, self._handing = Event(), Lock()
        self._has_floor = False
        self._pieces: Queue[AudioClip | str | None] = Queue()
        Thread(target=self._run, daemon=True).start()

    @property
    def seconds_left(self) -> float:
        """Seconds of speech that it can still hear."""
        return self._seconds_left

    @property
    def has_given_up(self) -> bool:
        """Whether it has ended by itself; to be asked before `finish`."""
        return self._ended.is_set()

    def push(self, piece: AudioClip | str) -> None:
        """Hear the next piece, a clip or a file; returns at once."""
        if not self._ended.is_set():
            self._pieces.put(piece)

    def end_speech(self) -> None:
        """Nothing more is said; what was said waits for `finish`, as for a slot."""
        self._patient_until = time.monotonic() + PATIENT_SECONDS
        self.speech_ended = True

    def finish(self, seconds: float) -> UserTurn | None:
        """The user's turn, all of it read; the caller has the floor from now on.

        None comes if it was cancelled.

        Args:
            seconds: the longest wait.

        Raises:
            UserError: nothing was heard, or it took too long. The floor is free then.
        """
        self._pieces.put(None)
        self._ended.wait(seconds)
        with self._handing:
            if self._has_floor and not self.stop.is_set():
                self._has_floor = False
                return self._turn
        cancelled = self.stop.is_set()
        self.cancel()
        if cancelled:
            return None
        raise self._error or UserError("error_busy")

    def cancel(self) -> None:
        """Forget what was heard."""
        self._floor.stop(self.stop)
        self._pieces.put(None)
        with self._handing:
            if self._has_floor:  # it has ended, and nobody took it on
                self._give_up()

    def write(self, path: Path) -> None:
        """Write what was heard as a wav file."""
        samples = np.concatenate([to_pcm16(clip.samples) for clip in self.heard])
        write_pcm16(path, samples, self.heard[0].sample_rate)

    def _run(self) -> None:
        if not self._floor.take(self.stop, self._floor_seconds):
            self._error = UserError("error_busy")
            self._ended.set()
            return
        try:
            self._listen()
        except Exception as error:  # raised again where the turn is asked for
            self._error = error
        try:
            with self._handing:
                self._has_floor = True
                if self._error or self.stop.is_set():
                    self._give_up()
        finally:
            self._ended.set()

    def _listen(self) -> None:
        """Until the speech has ended or it is cancelled."""
        while not self.stop.is_set():
            try:
                piece = self._pieces.get(timeout=self._silent_seconds)
            except Empty:
                if time.monotonic() < self._patient_until:
                    continue
                code = "error_busy" if self.speech_ended else "error_microphone_silent"
                raise UserError(code) from None
            if piece is None:
                break
            if isinstance(piece, str):
                self._read(read_speech(piece, self._limits))
            else:
                self._hear(piece)
        if self._turn is None:
            raise UserError("error_nothing_heard")
        if self._leveller:
            self._leveller.check()
            self._turn.push(self._leveller.finish())

    def _hear(self, clip: AudioClip) -> None:
        """A piece of the microphone's sound, up to the model's room."""
        room = int(self._seconds_left * clip.sample_rate)
        clip = AudioClip(clip.samples[:room], clip.sample_rate)
        if not len(clip.samples) or self.heard and clip.sample_rate != self.heard[0].sample_rate:
            return
        if self._leveller is None:
            self._leveller = StreamLeveller(clip.sample_rate)
        self.heard.append(clip)
        self._read(AudioClip(self._leveller.push(clip.samples), clip.sample_rate))

    def _read(self, clip: AudioClip) -> None:
        if self._turn is None:
            with self._limiter.listening(self._floor_seconds):
                conversation = self._floor.conversation
                self._turn = conversation.begin_turn(None, clip.sample_rate, **self.shown)
        size = int(BLOCK_SECONDS * clip.sample_rate)
        for first in range(0, len(clip.samples), size):
            if self.stop.is_set():
                return
            with self._limiter.listening(self._floor_seconds):
                self._turn.push(clip.samples[first : first + size])
        heard = sum(clip.seconds for clip in self.heard)
        room = self._turn.seconds_left - SPARE_SECONDS
        self._seconds_left = max(0.0, min(room, self._limits.max_audio_seconds - heard))

    def _give_up(self) -> None:
        """Forget the turn and free the floor; holds `_handing`."""
        self._has_floor = False
        with self._floor.held():
            if self._turn is not None:
                self._turn.abandon()


def read_speech(path: str, limits: Limits) -> AudioClip:
    """A sound file's speech, its level raised if it is quiet.

    Raises:
        UserError: as `load_audio` and `level_speech`.
    """
    return level_speech(load_audio(path, limits.max_audio_seconds, limits.max_upload_bytes))
