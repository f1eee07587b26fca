"""What one visitor of the page holds: a conversation, its turns as shown, a microphone."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Lock
from uuid import uuid4

from generate import generate_long
from models.audio import AudioClip, load_audio
from models.contract import Conversation, SpeechModel, UserTurn
from models.errors import UserError
from models.level import level_speech

from .files import Files, written
from .limiter import Limiter
from .limits import Limits
from .listener import Floor, Listener
from .metrics import measured
from .turn import ShownTurn

CLOSE_SECONDS = 2.0  # the longest wait for a turn that was told to end
PATIENT_SECONDS = 120.0  # that what was said live waits for a slot, as nobody wants to repeat it
NOTICE_SECONDS = 2.0  # after which one who waits is told, again and again
SHORTEST_SECONDS = 0.05  # a reply of which less was heard was not heard


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
        self._unanswered: list[AudioClip] = []  # heard by the microphone, and waits for its answer
        self._state: Path | None = None  # the conversation as it is, in a file; None if it is new
        self._can_repeat = True  # whether `_state` is known

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
            self._replace(self.conversation, [], None)
        finally:
            self._floor.give()

    def restore(self, conversation: Conversation, turns: list[ShownTurn], state: Path) -> None:
        """Go on with a conversation that was saved.

        Args:
            turns: as they are shown; their files are this session's.
            state: the file of the conversation.

        Raises:
            UserError: the turn under way does not end.
        """
        if self._take_floor(CLOSE_SECONDS) is None:
            raise UserError("error_busy")
        try:
            self._replace(conversation, turns, state)
        finally:
            self._floor.give()

    def _replace(
        self, conversation: Conversation, turns: list[ShownTurn], state: Path | None
    ) -> None:
        old = [path for turn in self.turns for path in turn.paths]
        old += [str(self._state)] if self._state else []
        self.conversation, self.turns, self.name = conversation, turns, uuid4().hex[:12]
        self._state, self._can_repeat = state, True
        for path in old:
            self.files.remove(path)

    @property
    def state(self) -> Path | None:
        """The file of the conversation as it is; None if there is none."""
        return self._state if self._can_repeat else None

    def turn(self, name: object) -> ShownTurn:
        """The turn of a name.

        Raises:
            UserError: there is none.
        """
        for turn in self.turns:
            if turn.name == name:
                return turn
        raise UserError("error_no_such_turn")

    def cut(self, name: object, seconds: float) -> None:
        """A reply was heard for so long only; what was not heard goes."""
        turn, end = self.turn(name), time.monotonic() + CLOSE_SECONDS
        while not turn.ended and time.monotonic() < end:
            time.sleep(0.01)
        if seconds < SHORTEST_SECONDS and turn.reply_audio:
            self.files.remove(turn.reply_audio)
            turn.reply, turn.reply_audio, turn.seconds, turn.stopped = "", None, 0.0, True
        elif seconds < turn.seconds - SHORTEST_SECONDS:
            turn.cut(seconds)

    def close(self) -> None:
        """Free what the session holds."""
        self.interrupt()
        self.wait()
        self.files.remove_all(self.owner)

    def listen(self) -> None:
        """The microphone was opened."""
        seconds = self.limits.max_reply_seconds + self.limits.wait_seconds
        listener = self._new_listener(seconds, self.limits.silent_seconds)
        unanswered = self._unanswered
        self._begin(listener.stop, listener)
        for clip in unanswered:  # who goes on speaking has not finished
            listener.push(clip)

    def stop_listening(self) -> None:
        """The microphone was closed; what it heard and nobody has asked to answer is forgotten."""
        with self._guard:
            listener, self._listener = self._listener, None
        if listener:
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

    def answer(self, audio: str | None, text: str, **options) -> Generator[ShownTurn | None]:
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

    def answer_clip(
        self, clip: AudioClip | None, text: str, **options
    ) -> Generator[ShownTurn | None]:
        """Answer speech that was read already, of which no file is kept; like `answer`."""
        stop = self._take_floor(self.limits.wait_seconds)
        if stop is not None:
            yield from self._reply(clip, text, None, stop, **options)

    def again(self, name: object, **options) -> Generator[ShownTurn | None]:
        """Answer a turn once more, from where the conversation was then; as `answer`.

        If it is the last turn, the conversation goes on from the new reply.

        Raises:
            UserError: as `answer`; there is no such turn, or what was before it is not kept.
        """
        turn = self.turn(name)
        if not turn.can_repeat:
            raise UserError("error_cannot_repeat")
        stop = self._take_floor(self.limits.wait_seconds)
        if stop is None:
            return
        try:
            load, new = self.model.load_conversation, self.model.new_conversation
            conversation = load(turn.before) if turn.before else new()
            clip = read_speech(turn.audio, self.limits) if turn.audio else None
        except BaseException:
            self._floor.give()
            raise
        yield from self._reply(
            clip, turn.text, turn.audio, stop, again=turn, conversation=conversation, **options
        )

    def answer_heard(self, **options) -> Generator[ShownTurn | None]:
        """Answer what the microphone heard, if it is open; like `answer`.

        It waits long for its slot, as what was said is not to be said again; None comes meanwhile.
        """
        with self._guard:
            listener, self._listener = self._listener, None
        if listener and (turn := listener.finish(self._listen_seconds)):
            with self._guard:
                if self._stop is listener.stop:
                    self._unanswered = list(listener.heard)
            path = self._keep_heard(listener, turn)
            try:
                yield from self._reply(turn, "", path, listener.stop, patient=True, **options)
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
            self._listener, self._recording, self._unanswered = listener, None, []
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
        *,
        again: ShownTurn | None = None,
        conversation: Conversation | None = None,
        patient: bool = False,
        **options,
    ) -> Generator[ShownTurn | None]:
        """Has the floor when it begins, and gives it when it ends.

        Args:
            again: the turn that is answered once more, in a `conversation` that is as it was then.
            patient: wait long for a slot; None comes while it waits.
        """
        turn, conversation = None, conversation or self.conversation
        since = time.monotonic()
        try:
            with ExitStack() as slot:
                if not (yield from self._wait_for_slot(slot, stop, patient)):
                    return
                reply = generate_long(
                    self.model,
                    audio=source,
                    text=text or None,
                    conversation=conversation,
                    stop=stop,
                    log_content=self.log_content,
                    **options,
                )
                chunks = measured(reply, since)
                turn = self._new_turn(text, audio, _seconds(source), again, options)
                self._unanswered = []
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
                    try:
                        self._keep_sound(turn)
                    finally:
                        turn.ended = True
                yield turn
                turn.forget_sound()
        finally:
            if turn is None and isinstance(source, UserTurn):  # no slot became free, for instance
                source.abandon()
            if turn in self.turns and (again is None or _root(self.turns[-1]) == _root(turn)):
                self.conversation = conversation
                self._keep_state()
            self.last_used = time.monotonic()
            self._floor.give()

    def _wait_for_slot(
        self, slot: ExitStack, stop: Event, patient: bool
    ) -> Generator[None, None, bool]:
        """Enter a slot for the reply; False if another turn has begun meanwhile."""
        end = time.monotonic() + PATIENT_SECONDS
        while not stop.is_set():
            try:
                slot.enter_context(self.limiter.reply(NOTICE_SECONDS if patient else None))
                return True
            except UserError:
                if not patient or time.monotonic() > end:
                    raise
            yield None
        return False

    def _new_turn(
        self,
        text: str,
        audio: str | None,
        seconds: float,
        again: ShownTurn | None,
        options: dict,
    ) -> ShownTurn:
        turn = ShownTurn(text, audio, self.model.sample_rate, seconds)
        turn.settings = {
            "style": options.get("style"),
            "max_frames": options.get("max_new_tokens"),
            **(dataclasses.asdict(options["sampling"]) if options.get("sampling") else {}),
        }
        turn.before, turn.can_repeat = self._state, self._can_repeat
        place = len(self.turns)
        if again:
            turn.before, turn.can_repeat = again.before, True
            turn.again_of = _root(again)
            place = 1 + max(i for i, each in enumerate(self.turns) if _root(each) == _root(again))
        self.turns.insert(place, turn)
        return turn

    def _keep_state(self) -> None:
        """Write the conversation, to come back to this place; if that fails, there is no way."""
        self._can_repeat = False
        with suppress(OSError, UserError):
            folder = self.files.new_folder()
            try:
                self.conversation.save(folder / "conversation")
                self.files.add(folder / "conversation", self.owner, kept=True)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._state, self._can_repeat = folder / "conversation", True

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


def _root(turn: ShownTurn) -> str:
    """The name of the turn that this one answers, once more or not."""
    return turn.again_of or turn.name


def _seconds(source: AudioClip | UserTurn | None) -> float:
    if source is None:
        return 0.0
    return source.seconds if isinstance(source, AudioClip) else source.seconds_heard
