"""A conversation's turns as they are shown, and the files that belong to them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import soundfile

from models.contract import Conversation
from models.errors import UserError

from .files import Files
from .listener import Listener
from .turn import ShownTurn

CLOSE_SECONDS = 2.0  # the longest wait for a turn that was told to end
SHORTEST_SECONDS = 0.05  # a reply of which less was heard was not heard


class Transcript:
    """What was said in one visitor's conversation.

    Fields:
        name: of the conversation; another one after `replace`.
        turns: as they are shown, each before those that answer it once more.

    Args:
        owner: the visitor, as `files` knows them.
        files: where its sounds lie.
    """

    def __init__(self, owner: str, files: Files) -> None:
        self.owner, self.files = owner, files
        self.name = uuid4().hex[:12]
        self.turns: list[ShownTurn] = []
        self._state: Path | None = None  # the conversation as it is, in a file; None if it is new
        self._can_repeat = True  # whether `_state` is known

    @property
    def state(self) -> Path | None:
        """The file of the conversation as it is; None if there is none, or it made room."""
        is_there = self._can_repeat and self._state and self._state.is_file()
        return self._state if is_there else None

    def turn(self, name: object) -> ShownTurn:
        """The turn of a name.

        Raises:
            UserError: there is none.
        """
        for turn in self.turns:
            if turn.name == name:
                return turn
        raise UserError("error_no_such_turn")

    def add(self, turn: ShownTurn, again: ShownTurn | None = None) -> None:
        """Put a turn at the end, or behind all that answer the same once more."""
        turn.before, turn.can_repeat = self._state, self._can_repeat
        place = len(self.turns)
        if again:
            turn.before, turn.can_repeat = again.before, True
            turn.again_of = again.root
            place = 1 + max(i for i, each in enumerate(self.turns) if each.root == again.root)
        self.turns.insert(place, turn)

    def goes_on_from(self, turn: ShownTurn) -> bool:
        """Whether the conversation goes on from this turn's reply."""
        return turn in self.turns and not turn.beside and self.turns[-1].root == turn.root

    def replace(self, turns: list[ShownTurn], state: Path | None) -> None:
        """Another conversation takes the place of this one, whose files go.

        Args:
            turns: what was said in it.
            state: its file; None if it is new.
        """
        old = [path for turn in self.turns for path in turn.paths]
        old += [str(self._state)] if self._state else []
        self.turns, self.name = turns, uuid4().hex[:12]
        self._state, self._can_repeat = state, True
        for path in old:
            self.files.remove(path)

    def cut(self, name: object, seconds: float) -> None:
        """A reply was heard for so long only; what was not heard goes."""
        turn, end = self.turn(name), time.monotonic() + CLOSE_SECONDS
        while not turn.ended and time.monotonic() < end:
            time.sleep(0.01)
        if not turn.ended or not turn.seconds:  # in writing all of it is there at once
            return
        if seconds < SHORTEST_SECONDS:
            self._forget_sound(turn)
            turn.reply, turn.seconds, turn.stopped = "", 0.0, True
        elif seconds < turn.seconds - SHORTEST_SECONDS:
            turn.cut(seconds)
            try:
                turn.cut_sound(seconds)
            except (OSError, soundfile.SoundFileError):  # no room, or the file has gone
                self._forget_sound(turn)

    def _forget_sound(self, turn: ShownTurn) -> None:
        if turn.reply_audio:
            self.files.remove(turn.reply_audio)
            turn.reply_audio = None

    def keep_heard(self, listener: Listener) -> str:
        """Write what the microphone heard; its path.

        Raises:
            UserError: it can't be written; nothing is left of it.
        """
        return self.files.make("speech.wav", listener.write, self.owner, kept=True)

    def keep_state(self, conversation: Conversation) -> None:
        """Write the conversation, to come back to this place; if that fails, there is no way.

        The place that it was at goes, unless the last turn begins there.
        """
        self._can_repeat = False
        with suppress(UserError):
            path = self.files.make("conversation", conversation.save, self.owner, kept=True)
            before, self._state = self._state, Path(path)
            self._can_repeat = True
            if before and self.turns[-1].before != before:
                self.files.remove(str(before))

    def keep_sound(self, turn: ShownTurn) -> None:
        """Write the reply's sound; where there is no room it was heard, and can't be again."""
        if not turn.has_sound:
            return
        name = f"reply-{len(self.turns)}.wav"
        with suppress(UserError):
            turn.reply_audio = self.files.make(name, turn.write, self.owner, kept=True)
