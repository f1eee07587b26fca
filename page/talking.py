"""What the talk tab does when something is said, sent or clicked."""

from __future__ import annotations

from functools import partial

import gradio as gr

from models.errors import UserError

from . import words
from .calls import called_at, visitor_of
from .chat import chat_value, cleared_value, nothing_value
from .checks import check_text
from .limiter import Readers
from .listener import read_speech
from .once_more import again
from .session import Session
from .showing import SHOWN_KINDS, IsOver, Showing, Steps, call_of, numbered, object_of
from .told import fault_of


class Talking:
    """The handlers of the tab's events. What comes from the page, anybody can send.

    Args:
        readers: who reads the replies.
    """

    def __init__(self, showing: Showing, readers: Readers) -> None:
        self.showing, self.readers = showing, readers
        self.sessions, self.settings = showing.sessions, showing.settings
        self.chat, self.status = showing.chat, showing.status

    def answer(self, request: gr.Request, given, *settings) -> Steps:
        """Answer what was recorded, uploaded or written."""
        steps = partial(self._answer, request, given, settings)
        yield from self.showing.asked_for(request, given, steps)

    def _answer(
        self, request: gr.Request, given: object, settings: tuple, is_over: IsOver
    ) -> Steps:
        visitor, said = visitor_of(request.session_hash), object_of(given)
        text = check_text(said.get("text", ""), self.sessions.limits)
        files = self.showing.files_of(said, ("audio", *SHOWN_KINDS), visitor)
        if not (files or text):
            raise UserError("error_nothing_given")
        audio, image, video = map(files.get, ("audio", *SHOWN_KINDS))
        options = self.settings.options(settings) | {"image": image, "since": called_at(request)}
        options["asked"] = call_of(request, given)
        if not self.readers.is_read(request.session_hash or ""):
            return
        session = self.sessions.open(visitor, self.settings.system_of(settings))
        session.settings = self.settings.kept(settings)
        if not session.is_prepared(audio, text, image, video):  # else there is nothing to wait for
            yield {self.status: words.status("busy", "listening")}
        try:
            answer = partial(session.answer, audio, text, video=video, **options)
            yield from self.showing.reply(session, answer, is_over)
        except UserError as error:
            if error.code != "error_no_pictures" or audio or video is None:
                raise
            answer = partial(session.answer, video, text, **options)  # a recording, called a video
            yield from self.showing.reply(session, answer, is_over)

    def prepare(self, request: gr.Request, given, *system) -> str | dict:
        """Look at a recording that the user has not sent yet, and read it if it is `alone`.

        That nothing can be answered in it is told at once.
        """
        try:
            visitor, said = visitor_of(request.session_hash), object_of(given)
            if files := self.showing.files_of(said, ["audio"], visitor):
                if said.get("alone") is True:
                    told = self.settings.system(*system)
                    self.sessions.open(visitor, told).prepare(files["audio"])
                read_speech(files["audio"], self.sessions.limits)
        except Exception as error:
            return numbered(words.fault_status(fault_of(error)), given)
        return gr.skip()

    def again(self, request: gr.Request, given, *settings) -> Steps:
        """Answer a turn once more, with another seed."""
        steps = partial(self._again, request, given, settings)
        yield from self.showing.asked_for(request, given, steps)

    def _again(self, request: gr.Request, given: object, settings: tuple, is_over: IsOver) -> Steps:
        options, session = self.settings.options(settings, seed=-1), self.showing.session(request)
        if session is None:
            raise UserError("error_no_such_turn")
        yield {self.status: words.status("busy", "thinking")}
        name, call = object_of(given).get("turn"), call_of(request, given)
        answer = partial(again, session, name, since=called_at(request), asked=call, **options)
        yield from self.showing.reply(session, answer, is_over)

    def stop(self, request: gr.Request, given) -> dict:
        """End what is under way, here or on the page; keep of the reply what was heard.

        One that the page has replaced, or another page of the visitor's has asked for, is kept as
        far as it was made.
        """
        session = self.showing.session(request)
        over = [turn for turn in session.turns if turn.ended] if session else []
        name, asked = call_of(request, given)
        last = name, self.showing.asked.last_before(name, asked)
        with self.showing.ended(request, given) as are_any:
            if are_any is None:
                return self.cut(request, given)
            if session := self.showing.session(request):
                session.wait()
            turns = session.turns if session else []
            under_way = [turn for turn in turns if turn not in over]
            ends = under_way or are_any or object_of(given).get("ends") is True
            told = words.status(*(("note", "stopped") if ends else ()))
            status = {self.status: numbered(told, given)}
            if session is None:
                return status
            own = next((turn.name for turn in under_way if turn.asked == last), None)
            if own and object_of(given).get("turn") != own:
                given = {"turn": own, "seconds": 0}  # nothing was heard of it
            return {**self._cut(session, given), **status}

    def cut(self, request: gr.Request, given) -> dict:
        """The user spoke over a reply: keep what was heard of it."""
        session = self.showing.session(request)
        return self._cut(session, given) if session else {self.chat: gr.skip()}

    def _cut(self, session: Session, given: object) -> dict:
        turns = []
        try:
            name, seconds = object_of(given).get("turn"), object_of(given).get("seconds")
            if name and isinstance(seconds, (int, float)) and seconds >= 0:
                session.transcript.cut(name, seconds)
                turns = [session.transcript.turn(name)]
        except UserError:
            pass  # a turn of a conversation before this one
        return {self.chat: chat_value(session, turns)}

    def rate(self, request: gr.Request, given) -> dict:
        """A reply is good or bad."""
        session, rated = self.showing.session(request), object_of(given)
        if session is None or rated.get("rating") not in (-1, 0, 1):
            return {self.chat: gr.skip()}
        try:
            turn = session.transcript.turn(rated.get("turn"))
        except UserError:
            return {self.chat: gr.skip()}
        turn.rating = rated["rating"]
        return {self.chat: chat_value(session, [turn])}

    def reset(self, request: gr.Request, given) -> dict:
        """Begin a new conversation."""
        name = ""
        try:
            with self.showing.ended(request, given, begun=True):
                if session := self.showing.session(request):
                    session.reset()
                    name = session.transcript.name
        except UserError as error:
            told = self.showing.fault(error)[self.status]
            return {self.chat: gr.skip(), self.status: numbered(told, given)}
        return {self.chat: cleared_value(name), self.status: numbered(words.status(), given)}

    def restore(self, request: gr.Request) -> tuple:
        """What was said before the page was loaded again, and the settings of that time."""
        session = self.showing.session(request)
        if session is None or not session.turns:
            return nothing_value(), *self.settings.unchanged
        settings = self.settings.restored(session.settings) or self.settings.unchanged
        return chat_value(session, session.turns, all_turns=True), *settings
