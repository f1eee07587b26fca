"""One visitor's conversation: what they say is answered, turn by turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

from generate import generate_long
from models.audio import AudioClip
from models.contract import Conversation, ReplyChunk, SpeechModel, SystemPrompts, UserTurn
from models.errors import UserError

from .files import Files
from .hearing import Hearing, read_speech
from .limiter import Limiter
from .limits import Limits
from .listener import Floor
from .metrics import measured
from .once_more import OnceMore, new_conversation
from .shelf import label_of
from .transcript import CLOSE_SECONDS, Transcript
from .turn import ShownTurn


class Session:
    """One visitor's conversation; only one of its turns is under way at a time.

    A new turn ends the reply before it, as in talking. Every wait has an end, see `Limits`.

    Fields:
        transcript: what was said.
        hearing: the microphone, and a recording that is read before it is sent.
        floor: whose turn is under way.
        opened: when it was asked for last, by time.monotonic.

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
        self.system: str | None = ""  # how the model shall be; None if it isn't known
        self.transcript = Transcript(owner, files)
        self.floor = Floor()
        self.hearing = Hearing(self.floor, limiter, limits)
        self.opened = self.hearing.last_used

    @property
    def turns(self) -> list[ShownTurn]:
        return self.transcript.turns

    @property
    def is_busy(self) -> bool:
        """A turn is under way."""
        return not self.floor.is_free

    def interrupt(self) -> None:
        """Let the reply or the listening that is under way end; returns at once."""
        self.hearing.begin(Event())

    def wait(self) -> bool:
        """Whether no turn is under way any more, soon after `interrupt`."""
        if not self.floor.take(Event(), CLOSE_SECONDS):
            return False
        self.floor.give()
        return True

    def reset(self) -> None:
        """Begin a new conversation.

        Raises:
            UserError: the turn under way does not end.
        """
        with self._alone():
            self.conversation.reset()
            self.transcript.replace([], None)

    def direct(self, system: str) -> None:
        """Tell how the model shall be; it counts in a conversation in which nothing was said.

        Raises:
            UserError: the model can't be told, or so much; the turn under way does not end.
        """
        if system == self.system or self.turns:
            return
        with self._alone():
            if not self.turns:  # the turn that was under way may have left some
                self._begin_with(system)

    def _begin_with(self, system: str) -> None:
        """Begin a conversation with a system prompt; the caller has the floor."""
        if not isinstance(self.model, SystemPrompts):
            raise UserError("error_no_systems")
        self.conversation, self.system = new_conversation(self.model, system), system
        self.transcript.replace([], None)

    def _check_system(self, system: str) -> None:
        """Raise a UserError if it would count no more."""
        if system and system != self.system and self.turns:
            raise UserError("error_system_late")

    def restore(self, conversation: Conversation, turns: list[ShownTurn], state: Path) -> None:
        """Go on with a conversation that was saved.

        Args:
            turns: as they are shown; their files are this session's.
            state: the file of the conversation.

        Raises:
            UserError: the turn under way does not end.
        """
        with self._alone():
            self.conversation, self.system = conversation, None
            self.transcript.replace(turns, state)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the floor meanwhile.

        Raises:
            UserError: the turn under way does not end.
        """
        if self.hearing.take_floor(CLOSE_SECONDS) is None:
            raise UserError("error_busy")
        with self._turn_under_way():
            yield

    @contextmanager
    def _turn_under_way(self) -> Iterator[None]:
        """Give the floor at the end; if the session was closed meanwhile, free what it holds."""
        with self.floor.held():
            try:
                yield
            finally:
                self.hearing.last_used = time.monotonic()
                if self.floor.is_closed:
                    self.transcript.replace([], None)

    def close(self) -> None:
        """Free what the session holds; no further turn begins in it."""
        self.interrupt()
        if self.floor.close(CLOSE_SECONDS):  # else the turn under way does it at its end
            self.transcript.replace([], None)
        self.files.remove_all(self.owner)

    def listen(self, shown: Mapping[str, str] | None = None) -> None:
        """The microphone was opened; see `Hearing.listen`."""
        self.hearing.listen(self.conversation, shown)

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, unless it was sent already; see `Hearing`."""
        if not audio or all(turn.audio != audio for turn in self.turns):
            self.hearing.prepare(self.conversation, audio)

    def is_prepared(self, audio: str | None, *others: str | None) -> bool:
        """Whether this turn, without anything else, has been or is being read by `prepare`."""
        return not any(others) and self.hearing.is_prepared(audio)

    def answer(
        self,
        audio: str | None,
        text: str,
        *,
        image: str | None = None,
        video: str | None = None,
        **options,
    ) -> Generator[ShownTurn | None]:
        """Answer a complete turn; yields it each time it has grown.

        Nothing comes if yet another turn has begun before.

        Args:
            audio: the path of the user's sound file.
            text: what the user wrote.
            image, video: paths of what the user shows.
            options: further arguments of `generate_long`, and of `reply_to`.

        Raises:
            UserError: as `generate_long`, there is no speech in the sound, or another turn does
                not end; the conversation is as before.
        """
        listener = None
        if self.is_prepared(audio, text, image, video):
            listener = self.hearing.take_prepared(audio)
        if listener:
            if turn := listener.finish(self.hearing.seconds):
                yield from self.reply_to(turn, "", audio, listener.stop, **options)
            return
        stop = self.hearing.take_floor(self.limits.wait_seconds)
        if stop is None:
            return
        try:
            clip = read_speech(audio, self.limits) if audio else None
        except BaseException:
            self.floor.give()
            raise
        yield from self.reply_to(clip, text, audio, stop, image=image, video=video, **options)

    def answer_clip(
        self, clip: AudioClip | None, text: str, *, system: str, **options
    ) -> Generator[ShownTurn | None]:
        """Answer speech that was read already, of which no file is kept; like `answer`.

        Args:
            system: how the model shall be; may be empty after the first turn.

        Raises:
            UserError: as `answer`, or something was said with another `system`.
        """
        self._check_system(system)
        stop = self.hearing.take_floor(self.limits.wait_seconds)
        if stop is None:
            return
        try:
            self._check_system(system)
            if system != self.system and not self.turns:
                self._begin_with(system)
        except BaseException:
            self.floor.give()
            raise
        yield from self.reply_to(clip, text, None, stop, **options)

    def answer_heard(self, **options) -> Generator[ShownTurn | None]:
        """Answer what the microphone heard, if it is open; like `answer`.

        It waits long for its slot, as what was said is not to be said again; None comes meanwhile.
        """
        listener = self.hearing.take_heard()
        if listener and (turn := listener.finish(self.hearing.seconds)):
            self.hearing.keep_unanswered(listener)
            try:
                path = self.transcript.keep_heard(listener)
            except BaseException:
                with self.floor.held():
                    turn.abandon()
                raise
            try:
                yield from self.reply_to(
                    turn, "", path, listener.stop, patient=True, shown=listener.shown, **options
                )
            finally:
                if all(shown.audio != path for shown in self.turns):
                    self.files.remove(path)

    def reply_to(
        self,
        source: AudioClip | UserTurn | None,
        text: str,
        audio: str | None,
        stop: Event,
        *,
        again: OnceMore | None = None,
        patient: bool = False,
        since: float | None = None,
        shown: Mapping[str, str] | None = None,
        **options,
    ) -> Generator[ShownTurn | None]:
        """Answer a turn; the caller has the floor, and the end of the reply gives it.

        Args:
            again: where the turn was answered before.
            patient: wait long for a slot; None comes while it waits.
            since: when the turn was complete, by time.monotonic; None for now.
            shown: paths of what a `source` that is a turn already holds, by kind.
        """
        turn, model, conversation = None, self.model, self.conversation
        if again:
            model, conversation = again.model, again.conversation
        since = time.monotonic() if since is None else since
        with self._turn_under_way():
            try:
                with ExitStack() as slot:
                    if not (yield from self.limiter.reply_when_free(slot, stop, patient)):
                        return
                    reply = generate_long(
                        model,
                        audio=source,
                        text=text or None,
                        conversation=conversation,
                        stop=stop,
                        log_content=self.log_content,
                        **options,
                    )
                    chunks = measured(reply, since, stop)
                    turn = ShownTurn(text, audio, model.sample_rate, _seconds(source))
                    seen = shown or options
                    turn.image, turn.video = seen.get("image"), seen.get("video")
                    turn.settings, turn.model = _settings(options), label_of(model)
                    if again:
                        again.mark(turn)
                    self.transcript.add(turn, again.turn if again else None)
                    self.hearing.answered()
                    for path in turn.given:
                        self.files.keep(path)
                    yield from self._grow(turn, chunks, stop)
                    yield turn
            finally:
                if turn:
                    turn.forget_sound()
                if turn is None and isinstance(source, UserTurn):  # no slot became free, perhaps
                    source.abandon()
                if turn and self.transcript.goes_on_from(turn):
                    self.conversation = conversation
                    self.transcript.keep_state(conversation)

    def _grow(
        self, turn: ShownTurn, chunks: Generator[ReplyChunk], stop: Event
    ) -> Generator[ShownTurn]:
        """Let a turn grow by its reply; whatever ends it, what was said of it is kept."""
        is_left = False
        try:
            try:
                yield turn
                for chunk in chunks:
                    turn.add(chunk)
                    yield turn
            except GeneratorExit:  # the page went on
                is_left = True
                raise
            finally:
                is_left = is_left or stop.is_set()
                stop.set()
                for chunk in chunks:  # the last frames of a reply that is left
                    turn.add(chunk)
        except Exception:
            if turn.last is None:
                self.turns.remove(turn)
            raise
        finally:
            turn.stopped = is_left and not (turn.last and turn.last.is_whole)
            try:
                self.transcript.keep_sound(turn)
            finally:
                turn.ended = True


def _settings(options: dict) -> dict:
    """The options of a reply as they are kept with it."""
    return {
        "style": options.get("style"),
        "voice": options.get("voice"),
        "max_frames": options.get("max_new_tokens"),
        **(dataclasses.asdict(options["sampling"]) if options.get("sampling") else {}),
    }


def _seconds(source: AudioClip | UserTurn | None) -> float:
    if source is None:
        return 0.0
    return source.seconds if isinstance(source, AudioClip) else source.seconds_heard
