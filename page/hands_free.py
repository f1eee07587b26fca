"""What the talk tab does with an open microphone."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import gradio as gr

from models.errors import UserError

from . import words
from .calls import called_at, visitor_of
from .ears import Ears, read_piece
from .showing import SHOWN_KINDS, IsOver, Showing, Steps, call_of, object_of

NEAR_SECONDS = 15  # of room left in a turn: from here on it is said


class HandsFree:
    """The handlers of hands-free talk's events. What comes from the page, anybody can send."""

    def __init__(self, showing: Showing) -> None:
        self.showing, self.settings = showing, showing.settings
        self.ears = Ears(showing.sessions, showing.sessions.limits)

    def open_microphone(self, request: gr.Request, given, *system) -> tuple[Any, Any]:
        """Hands-free talk begins, which is told under a number as of a piece; or it ends."""
        visitor, session = visitor_of(request.session_hash), self.showing.session(request)
        asked = object_of(given)
        if not asked.get("open"):
            self.ears.close(visitor)
            if session:
                session.hearing.stop_listening()
            return gr.skip(), gr.skip()
        number = asked.get("number")
        try:
            if type(number) is not int:
                raise UserError("error_request")
            self.ears.open(visitor, self.settings.system(*system))
        except UserError as error:
            return self._closed(number, error)
        return json.dumps({"number": number, "change": None}), gr.skip()

    @staticmethod
    def _closed(number: object, error: UserError) -> tuple[str, str]:
        return json.dumps({"number": number, "closed": True}), words.fault_status(error)

    def hear(self, request: gr.Request, given) -> tuple[str, Any]:
        """A piece of the open microphone's sound: what it brought, and what is shown of that."""
        visitor, number = visitor_of(request.session_hash), None
        try:
            piece = object_of(given)
            number = piece.get("number")
            if type(number) is not int:
                raise UserError("error_request")
            clip = read_piece(piece.get("pcm"), piece.get("rate"))
            files = self.showing.files_of(piece, SHOWN_KINDS, visitor)
            heard = self.ears.hear(visitor, number, clip, piece.get("echo") is True, files)
        except UserError as error:
            self.ears.close(visitor)
            return self._closed(number, error)
        if heard is None:  # told by the page if it still listens: this may come after its end
            closed = {"number": number, "closed": True, "fault": "error_microphone_silent"}
            return json.dumps(closed), gr.skip()
        left, shown = heard.seconds_left, gr.skip()
        if heard.change == "speech":
            shown = words.status("hearing", "hearing")
        elif left is not None and left < NEAR_SECONDS:
            shown = words.status("hearing", "hearing_left", seconds=round(left))
        told = {"number": heard.number, "change": heard.change, "to_end": heard.seconds_to_end}
        return json.dumps(told), shown

    def answer_heard(self, request: gr.Request, given, *settings) -> Steps:
        """Answer what the open microphone heard."""
        steps = partial(self._answer_heard, request, call_of(request, given), settings)
        yield from self.showing.asked_for(request, given, steps)

    def _answer_heard(
        self, request: gr.Request, call: tuple[str, int], settings: tuple, is_over: IsOver
    ) -> Steps:
        options, session = self.settings.options(settings), self.showing.session(request)
        if session:
            session.settings = self.settings.kept(settings)
            answer = partial(session.answer_heard, since=called_at(request), asked=call, **options)
            yield from self.showing.reply(session, answer, is_over)
        else:
            yield {self.showing.status: words.status("note", "lost_conversation")}
