"""What one visitor of the page holds: a conversation, its turns as shown, a microphone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from contextlib import suppress
from threading import Event, Lock
from uuid import uuid4

from generate import generate_long
from models.audio import AudioClip, load_audio
from models.contract import SpeechModel, UserTurn
from models.errors import UserError
from models.level import level_speech

from .files import Files, written
from .limiter import Limiter
from .limits import Limits
from .listener import Floor, Listener
from .metrics import measured
from .turn import ShownTurn

CLOSE_SECONDS = 2.0  # the longest wait for a turn that was told to end


class Session:
    """One visitor's conversation; only one of its turns is under way at a time.

    A new turn ends the reply before it, as in talking. Every wait has an end, see `Limits`.

    Args:
        owner: the visitor, as `files` knows them.
        files: where its sounds lie.
        limiter: of the work that all sessions make together.
        log_content: the log may hold what is said.
    """

    def __init__(
        self,
        owner: str,
        model: SpeechModel,
        files: Files,
        limiter: Limiter,
        limits: Limits,
        log_content: bool = False,
    ) -> None:
        self.owner, self.model, self.files = owner, model, files
        self.limiter, self.limits, self.log_content = limiter, limits, log_content
        self.conversation = model.new_conversation()
        self.name = uuid4().hex[:12]  # of the conversation; another one after `reset`
        self.turns: list[ShownTurn] = []
        self.last_used = time.monotonic()
        self._floor = Floor()
        self._stop = Event()  # of the turn that has the floor, or waits for it
        self._guard = Lock()  # of the three that follow; never held while something is waited for
        self._listener: Listener | None = None
        self._recording: tuple[str, Listener] | None = None  # what `prepare` reads

    @property
    def is_busy(self) -> bool:
        """A turn is under way."""
        return not self._floor.is_free

    def interrupt(self) -> None:
        """Let the reply or the listening that is under way end; returns at once."""
        self._begin(Event())

    def wait(self) -> bool:
        """Whether no turn is under way any more, soon after `interrupt`."""
        if not self._floor.take(Event(), CLOSE_SECONDS):
            return False
        self._floor.give()
        return True

    def reset(self) -> None:
        """Begin a new conversation.

        Raises:
            UserError: the turn under way does not end.
        """
        if self._take_floor(CLOSE_SECONDS) is None:
            raise UserError("error_busy")
        try:
            self.conversation.reset()
            self.name = uuid4().hex[:12]
            turns, self.turns = self.turns, []
        finally:
            self._floor.give()
        for turn in turns:
            for path in filter(None, (turn.audio, turn.reply_audio)):
                self.files.remove(path)

    def close(self) -> None:
        """Free what the session holds."""
        self.interrupt()
        self.wait()
        self.files.remove_all(self.owner)

    def listen(self) -> None:
        """The microphone was opened."""
        listener = self._new_listener(self.limits.wait_seconds, self.limits.silent_seconds)
        self._begin(listener.stop, listener)

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

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, as soon as no reply is under way; returns at once.

        Only the last one is kept; None forgets it. One that was sent already is not read again.
        """
        if audio and any(turn.audio == audio for turn in self.turns):
            return
        recording = None
        if audio:
            limits = self.limits
            seconds = limits.max_reply_seconds + limits.wait_seconds
            recording = audio, self._new_listener(seconds, limits.upload_seconds)
            recording[1].push(audio)
        with self._guard:
            before, self._recording = self._recording, recording
        if before:
            before[1].cancel()

    def is_prepared(self, audio: str | None, text: str) -> bool:
        """Whether this turn has been read, or is being read, by `prepare`."""
        recording = self._recording
        return bool(audio and not text and recording and recording[0] == audio)

    def answer(self, audio: str | None, text: str, **options) -> Generator[ShownTurn]:
        """Answer a complete turn; yields it each time it has grown.

        Nothing comes if yet another turn has begun before.

        Args:
            audio: the path of the user's sound file.
            text: what the user wrote.
            options: further arguments of `generate_long`.

        Raises:
            UserError: as `generate_long`, there is no speech in the sound, or another turn does
                not end; the conversation is as before.
        """
        listener = self._take_prepared(audio, text)
        if listener:
            if turn := listener.finish(self._listen_seconds):
                yield from self._reply(turn, "", audio, listener.stop, **options)
            return
        stop = self._take_floor(self.limits.wait_seconds)
        if stop is None:
            return
        try:
            clip = read_speech(audio, self.limits) if audio else None
        except BaseException:
            self._floor.give()
            raise
        yield from self._reply(clip, text, audio, stop, **options)

    def answer_clip(self, clip: AudioClip | None, text: str, **options) -> Generator[ShownTurn]:
        """Answer speech that was read already, of which no file is kept; like `answer`."""
        stop = self._take_floor(self.limits.wait_seconds)
        if stop is not None:
            yield from self._reply(clip, text, None, stop, **options)

    def answer_heard(self, **options) -> Generator[ShownTurn]:
        """Answer what the microphone heard, if it is open; like `answer`."""
        with self._guard:
            listener, self._listener = self._listener, None
        if listener and (turn := listener.finish(self._listen_seconds)):
            path = self._keep_heard(listener, turn)
            try:
                yield from self._reply(turn, "", path, listener.stop, **options)
            finally:
                if all(shown.audio != path for shown in self.turns):
                    self.files.remove(path)

    def _keep_heard(self, listener: Listener, turn: UserTurn) -> str:
        """Write what was heard; if that fails, the turn is over."""
        try:
            path = self.files.new_folder() / "speech.wav"
            try:
                with written():
                    listener.write(path)
                    self.files.add(path, self.owner, kept=True)
            except BaseException:
                shutil.rmtree(path.parent, ignore_errors=True)
                raise
        except BaseException:
            turn.abandon()
            self._floor.give()
            raise
        return str(path)

    @property
    def _listen_seconds(self) -> float:
        return self.limits.wait_seconds + self.limits.max_audio_seconds

    def _new_listener(self, floor_seconds: float, silent_seconds: float) -> Listener:
        return Listener(
            self.conversation,
            self._floor,
            self.limiter,
            floor_seconds=floor_seconds,
            silent_seconds=silent_seconds,
            max_seconds=self.limits.max_audio_seconds,
        )

    def _begin(self, stop: Event, listener: Listener | None = None) -> None:
        """A turn with this `stop` follows: all that is under way ends."""
        with self._guard:
            before, self._stop = self._stop, stop
            old = [self._listener, self._recording and self._recording[1]]
            self._listener, self._recording = listener, None
            self.last_used = time.monotonic()
        self._floor.stop(before)
        for other in filter(None, old):
            other.cancel()

    def _take_floor(self, seconds: float) -> Event | None:
        """Returns the `stop` of the turn that has the floor now; None if another has begun."""
        stop = Event()
        self._begin(stop)
        if self._floor.take(stop, seconds):
            return stop
        if stop.is_set():
            return None
        raise UserError("error_busy")

    def _take_prepared(self, audio: str | None, text: str) -> Listener | None:
        """The listener that has read this turn, which is the current one from now on."""
        with self._guard:
            if self._recording is None or not self.is_prepared(audio, text):
                return None
            _, listener = self._recording
            self._recording = None
        self._begin(listener.stop)
        return listener

    def _reply(
        self,
        source: AudioClip | UserTurn | None,
        text: str,
        audio: str | None,
        stop: Event,
        **options,
    ) -> Generator[ShownTurn]:
        """Has the floor when it begins, and gives it when it ends."""
        turn, since = None, time.monotonic()
        try:
            with self.limiter.reply():
                reply = generate_long(
                    self.model,
                    audio=source,
                    text=text or None,
                    conversation=self.conversation,
                    stop=stop,
                    log_content=self.log_content,
                    **options,
                )
                chunks = measured(reply, since)
                turn = ShownTurn(text, audio, self.model.sample_rate, _seconds(source))
                self.turns.append(turn)
                if audio:
                    self.files.keep(audio)
                try:
                    yield turn
                    for chunk in chunks:
                        turn.add(chunk)
                        yield turn
                except Exception:
                    if turn.last is None:
                        self.turns.remove(turn)
                    raise
                finally:
                    turn.stopped = stop.is_set()
                    stop.set()
                    for chunk in chunks:  # the page went on before the end: the last frames
                        turn.stopped = True
                        turn.add(chunk)
                    turn.ended = True
                    self._keep_sound(turn)
                yield turn
                turn.forget_sound()
        finally:
            if turn is None and isinstance(source, UserTurn):  # no slot became free, for instance
                source.abandon()
            self.last_used = time.monotonic()
            self._floor.give()

    def _keep_sound(self, turn: ShownTurn) -> None:
        """Write the reply's sound; where there is no room it was heard, and can't be again."""
        if not turn.has_sound:
            return
        with suppress(UserError):
            path = self.files.new_folder() / f"reply-{len(self.turns)}.wav"
            try:
                with written():
                    turn.write(path)
                    self.files.add(path, self.owner, kept=True)
            except UserError:
                turn.reply_audio = None
                shutil.rmtree(path.parent, ignore_errors=True)
                raise


def read_speech(path: str, limits: Limits) -> AudioClip:
    """A sound file's speech, its level raised if it is quiet.

    Raises:
        UserError: as `load_audio`, or there is no speech in it.
    """
    return level_speech(load_audio(path, limits.max_audio_seconds, limits.max_upload_bytes))


def _seconds(source: AudioClip | UserTurn | None) -> float:
    if source is None:
        return 0.0
    return source.seconds if isinstance(source, AudioClip) else source.seconds_heard
