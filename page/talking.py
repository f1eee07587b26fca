"""What the talk tab does when something is said, clicked or heard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from models.errors import UserError

from . import words
from .archive import read_archive, write_archive
from .calls import visitor_of
from .chat import chat_value, cleared_value, nothing_value
from .checks import check_text, reply_options
from .ears import Ears, read_piece
from .limiter import Readers
from .session import Session
from .sessions import Sessions
from .told import fault_of
from .turn import ShownTurn

NEAR_SECONDS = 15  # of room left in a turn: from here on it is said
ARCHIVE = "conversation.zip"
AHEAD_SECONDS = 1.0  # of sound made and not yet heard: then a reply's growth is shown less often
SPARSE_SECONDS = 0.1

Steps = Generator[dict[Any, Any]]


class Talking:
    """The handlers of the tab's events. What comes from the page, anybody can send.

    Args:
        sessions: a session for each visitor who has said something.
        readers: who reads the replies.
        sampling: the names of the sampling settings, in the order in which their values come.
    """

    def __init__(self, sessions: Sessions, readers: Readers, sampling: Sequence[str]) -> None:
        self.sessions, self.readers, self.sampling = sessions, readers, tuple(sampling)
        self.model, self.limits = sessions.model, sessions.limits
        self.ears = Ears(sessions, sessions.limits)
        self.chat: Any = None  # this and the next three are components, set by the tab
        self.player: Any = None
        self.status: Any = None
        self.taken: Any = None

    def answer(self, request: gr.Request, given, *settings) -> Steps:
        """Answer what was recorded, uploaded or written."""
        yield from self._told(self._answer(request, given, settings))

    def _answer(self, request: gr.Request, given: object, settings) -> Steps:
        visitor, said = visitor_of(request.session_hash), _object(given)
        audio, text = _path(said.get("audio")), check_text(said.get("text", ""), self.limits)
        audio = self.sessions.files.check(audio, visitor) if audio else None
        if not audio and not text:
            raise UserError("error_nothing_given")
        options = self._options(settings)
        if not self.readers.is_read(request.session_hash or ""):
            return
        session = self.sessions.open(visitor)
        if not session.is_prepared(audio, text):  # else there is nothing to wait for
            yield {self.status: words.status("busy", "listening")}
        yield from self._show(session, lambda: session.answer(audio, text, **options))

    def prepare(self, request: gr.Request, given) -> str | dict:
        """Read a recording while the user has not sent it yet."""
        try:
            if audio := _path(_object(given).get("audio")):
                visitor = visitor_of(request.session_hash)
                path = self.sessions.files.check(audio, visitor)
                self.sessions.open(visitor).prepare(path)
        except UserError as error:
            return words.fault_status(fault_of(error))
        return gr.skip()

    def again(self, request: gr.Request, given, *settings) -> Steps:
        """Answer a turn once more, with another seed."""
        yield from self._told(self._again(request, given, settings))

    def _again(self, request: gr.Request, given: object, settings) -> Steps:
        options, session = self._options(settings), self._session(request)
        if session is None:
            raise UserError("error_no_such_turn")
        if options.get("sampling") is not None:
            options["sampling"] = reply_options(
                self.model, self.limits, None, 1, {**self._named(settings), "seed": -1}
            )["sampling"]
        yield {self.status: words.status("busy", "thinking")}
        name = _object(given).get("turn")
        yield from self._show(session, lambda: session.again(name, **options))

    def open_microphone(self, request: gr.Request, given) -> str | dict:
        """Hands-free talk begins, or ends."""
        visitor, session = visitor_of(request.session_hash), self._session(request)
        try:
            if _object(given).get("open"):
                self.ears.open(visitor)
            else:
                self.ears.close(visitor)
                if session:
                    session.stop_listening()
        except UserError as error:
            return words.fault_status(fault_of(error))
        return gr.skip()

    def hear(self, request: gr.Request, given) -> tuple[str, Any]:
        """A piece of the open microphone's sound: what it brought, and what is shown of that."""
        visitor, number = visitor_of(request.session_hash), None
        try:
            piece = _object(given)
            number = piece.get("number")
            if type(number) is not int:
                raise UserError("error_request")
            clip = read_piece(piece.get("pcm"), piece.get("rate"))
            heard = self.ears.hear(visitor, number, clip, piece.get("echo") is True)
        except UserError as error:
            self.ears.close(visitor)
            return json.dumps({"number": number, "closed": True}), words.fault_status(
                fault_of(error)
            )
        if heard is None:
            return json.dumps({"number": number, "closed": True}), gr.skip()
        left, shown = heard.seconds_left, gr.skip()
        if heard.change == "speech":
            shown = words.status("hearing", "hearing")
        elif left is not None and left < NEAR_SECONDS:
            shown = words.status("hearing", "hearing_left", seconds=round(left))
        return json.dumps({"number": heard.number, "change": heard.change}), shown

    def answer_heard(self, request: gr.Request, given, *settings) -> Steps:
        """Answer what the open microphone heard."""
        yield from self._told(self._answer_heard(request, settings))

    def _answer_heard(self, request: gr.Request, settings) -> Steps:
        options, session = self._options(settings), self._session(request)
        if session:
            yield {self.status: words.status("busy", "thinking")}
            yield from self._show(session, lambda: session.answer_heard(**options))

    def _told(self, steps: Steps) -> Steps:
        """An event's steps; a fault among them is shown as the status."""
        with closing(steps):
            try:
                yield from steps
            except Exception as error:
                yield {self.status: words.fault_status(fault_of(error))}

    def _show(self, session: Session, answer: Callable[[], Generator[ShownTurn | None]]) -> Steps:
        """The reply while it grows; what the user gave is taken away once it is understood."""
        begun = shown_at = time.monotonic()
        num_shown = 0
        with closing(answer()) as turns:
            for turn in turns:
                now = time.monotonic()
                if turn is None:
                    yield {self.status: words.status("busy", "waiting")}
                    continue
                shown = {self.chat: chat_value(session, [turn])}
                if turn.last is None and not turn.ended:
                    begun = now
                    taken = json.dumps({"text": turn.text, "audio": turn.audio, "turn": turn.name})
                    status = words.status("busy", "thinking")
                    yield {**shown, self.taken: taken, self.status: status}
                elif turn.last and not turn.ended:
                    is_ahead = turn.seconds - (now - begun) > AHEAD_SECONDS
                    if is_ahead and now - shown_at < SPARSE_SECONDS:
                        continue
                    shown_at, num_shown = now, turn.num_pieces
                    progress = {"done": turn.seconds, "max": turn.last.max_seconds}
                    status = words.status("busy", "making", progress=progress)
                    yield {**shown, self.player: turn.stream, self.status: status}
                else:
                    status = words.status("note", "too_long") if turn.cut_off else words.status()
                    yield {**shown, self.player: turn.stream_end(num_shown), self.status: status}

    def stop(self, request: gr.Request, given) -> dict:
        """End what is under way; keep of the reply what was heard."""
        session = self._session(request)
        if session is None:
            return {self.status: words.status()}
        last = session.turns[-1] if session.turns else None
        under_way = last.name if last and not last.ended else None
        session.interrupt()
        session.wait()
        if under_way and _object(given).get("turn") != under_way:
            given = {"turn": under_way, "seconds": 0}  # nothing was heard of it
        return {**self._cut(session, given), self.status: words.status("note", "stopped")}

    def cut(self, request: gr.Request, given) -> dict:
        """The user spoke over a reply: keep what was heard of it."""
        session = self._session(request)
        return self._cut(session, given) if session else {self.chat: gr.skip()}

    def _cut(self, session: Session, given: object) -> dict:
        turns: list[ShownTurn] = []
        try:
            name, seconds = _object(given).get("turn"), _object(given).get("seconds")
            if name and isinstance(seconds, (int, float)) and seconds >= 0:
                session.cut(name, seconds)
                turns = [session.turn(name)]
        except UserError:
            pass  # a turn of a conversation before this one
        return {self.chat: chat_value(session, turns)}

    def rate(self, request: gr.Request, given) -> dict:
        """A reply is good or bad."""
        session, rated = self._session(request), _object(given)
        if session is None or rated.get("rating") not in (-1, 0, 1):
            return {self.chat: gr.skip()}
        try:
            turn = session.turn(rated.get("turn"))
        except UserError:
            return {self.chat: gr.skip()}
        turn.rating = rated["rating"]
        return {self.chat: chat_value(session, [turn])}

    def reset(self, request: gr.Request, given) -> dict:
        """Begin a new conversation."""
        session, name = self._session(request), ""
        try:
            if session:
                session.reset()
                name = session.name
        except UserError as error:
            return {self.chat: gr.skip(), self.status: words.fault_status(fault_of(error))}
        return {self.chat: cleared_value(name), self.status: words.status()}

    def restore(self, request: gr.Request) -> str:
        """What was said before the page was loaded again."""
        session = self._session(request)
        if session and session.turns:
            return chat_value(session, session.turns, all_turns=True)
        return nothing_value()

    def save(self, request: gr.Request, given, *settings) -> dict:
        """Make the conversation a file to download."""
        session = self._session(request)
        if session is None or not session.turns or session.state is None:
            fault = UserError("error_nothing_to_save")
            return {self.taken: gr.skip(), self.status: words.fault_status(fault_of(fault))}
        style, length, *values = settings
        kept = {"style": style, "length": length, "sampling": dict(zip(self.sampling, values))}
        files = self.sessions.files
        path = files.new_folder() / ARCHIVE
        turns = [turn for turn in session.turns if turn.ended]
        write_archive(path, self.model, turns, session.state, kept)
        files.add(path, session.owner)
        return {self.taken: json.dumps({"saved": str(path)}), self.status: words.status()}

    def load(self, request: gr.Request, given) -> tuple:
        """Go on with a conversation from a file; gives chat, status and the settings."""
        unchanged = [gr.skip()] * (2 + len(self.sampling))
        try:
            visitor = visitor_of(request.session_hash)
            path = self.sessions.files.check(_path(_object(given).get("file")), visitor)
            session, settings = self._load(visitor, path)
        except UserError as error:
            return gr.skip(), words.fault_status(fault_of(error)), *unchanged
        value = chat_value(session, session.turns, all_turns=True)
        values = self._settings_of(settings) or unchanged
        return value, words.status("note", "loaded"), *values

    def _load(self, visitor: str, path: str) -> tuple[Session, dict]:
        session, files = self.sessions.open(visitor), self.sessions.files
        made: list[Path] = []

        def new_file(name: str) -> Path:
            made.append(files.new_folder() / name)
            return made[-1]

        try:
            conversation, turns, state, settings = read_archive(
                path, self.model, self.limits, new_file
            )
            for file in made:
                files.add(file, visitor, kept=True)
            session.restore(conversation, turns, state)
        except BaseException:
            for file in made:
                files.add(file, visitor) if file.exists() else file.parent.rmdir()
                files.remove(str(file))
            raise
        finally:
            files.remove(path)
        return session, settings

    def _settings_of(self, kept: dict) -> list | None:
        """The values of the settings' components; None if they are not allowed here."""
        sampling = kept.get("sampling")
        sampling = sampling if isinstance(sampling, dict) else {}
        values = [kept.get("style"), kept.get("length"), *map(sampling.get, self.sampling)]
        try:
            self._options(values)
        except UserError:
            return None
        return values

    def _session(self, request: gr.Request) -> Session | None:
        return self.sessions.get(visitor_of(request.session_hash))

    def _named(self, settings: Sequence) -> dict[str, Any]:
        return dict(zip(self.sampling, settings[2:]))

    def _options(self, settings: Sequence) -> dict[str, Any]:
        style, seconds = settings[:2]
        return reply_options(self.model, self.limits, style, seconds, self._named(settings))


def _object(given: object) -> dict[str, Any]:
    """What the page sent; empty if it is no object."""
    return given if isinstance(given, dict) else {}


def _path(file: object) -> object:
    """The path of a file that the page sent, if it is one."""
    return file.get("path") if isinstance(file, dict) else file
