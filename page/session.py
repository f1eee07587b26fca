"""One visitor's conversation: what they say is answered, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from models.audio import AudioClip
from models.contract import Conversation, SpeechModel, SystemPrompts
from models.errors import UserError

from .answering import reply_to
from .files import Files
from .hearing import Hearing
from .limiter import Limiter
from .limits import Limits
from .listener import Floor, read_speech
from .once_more import new_conversation
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
        settings: of the page when it last asked for an answer, as `Settings.kept` gives them.

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
        self.settings: dict[str, Any] = {}
        self.system: str | None = ""  # how the model shall be; None if it isn't known
        self.transcript = Transcript(owner, files)
        self.floor = Floor(model.new_conversation())
        self.hearing = Hearing(self.floor, limiter, limits)
        self.opened = self.hearing.last_used

    @property
    def conversation(self) -> Conversation:
        return self.floor.conversation

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
        self.floor.conversation, self.system = new_conversation(self.model, system), system
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
            self.floor.conversation, self.system = conversation, None
            self.transcript.replace(turns, state)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the floor meanwhile.

        Raises:
            UserError: the turn under way does not end.
        """
        if self.hearing.take_floor(CLOSE_SECONDS) is None:
            raise UserError("error_busy")
        with self.turn_under_way():
            yield

    @contextmanager
    def turn_under_way(self) -> Iterator[None]:
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
        """The user begins to speak into the microphone; see `Hearing.listen`."""
        self.hearing.listen(shown)

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, unless it was sent already; see `Hearing`."""
        if not audio or all(turn.audio != audio for turn in self.turns):
            self.hearing.prepare(audio)

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
                yield from reply_to(self, turn, "", audio, listener.stop, **options)
            return
        stop = self.hearing.take_floor(self.limits.wait_seconds)
        if stop is None:
            return
        with self.floor.given_at_fault():
            clip = read_speech(audio, self.limits) if audio else None
        yield from reply_to(self, clip, text, audio, stop, image=image, video=video, **options)

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
        with self.floor.given_at_fault():
            self._check_system(system)
            if system != self.system and not self.turns:
                self._begin_with(system)
        yield from reply_to(self, clip, text, None, stop, **options)

    def answer_heard(self, **options) -> Generator[ShownTurn | None]:
        """Answer what was said into the microphone, if the user has finished; like `answer`.

        It waits long for its slot, as what was said is not to be said again; None comes meanwhile.
        """
        listener, path = self.hearing.take_heard(), None
        if listener is None:
            return
        try:
            turn = listener.finish(self.hearing.seconds)
            if turn is None:
                return
            try:
                path = self.transcript.keep_heard(listener)
            except BaseException:
                with self.floor.held():
                    turn.abandon()
                raise
            yield from reply_to(
                self, turn, "", path, listener.stop,
                patient=True, shown=listener.shown, **options,
            )  # fmt: skip
        finally:
            self.hearing.settle(listener.stop)
            if path and all(shown.audio != path for shown in self.turns):
                self.files.remove(path)
