"""What the talk tab does to save a conversation, and to go on with a saved one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from models.errors import UserError

from . import words
from .archive import read_archive, write_archive
from .calls import visitor_of
from .chat import chat_value
from .session import Session
from .showing import Showing, numbered, object_of, path_of
from .told import fault_of

ARCHIVE = "conversation.zip"


class Saving:
    """The handlers of Save and Load. What comes from the page, anybody can send."""

    def __init__(self, showing: Showing) -> None:
        self.showing, self.sessions = showing, showing.sessions

    def save(self, request: gr.Request, given, *settings) -> tuple:
        """Make the conversation a file to download; gives it and a notice."""
        try:
            path, num_left_out = self._save(self.showing.session(request), settings)
        except Exception as error:
            return gr.skip(), words.fault_status(fault_of(error))
        notice = words.status()
        if num_left_out:
            notice = words.status("note", "saved_in_part", count=num_left_out)
        return json.dumps({"saved": path}), notice

    def _save(self, session: Session | None, settings: tuple) -> tuple[str, int]:
        """The file's path, and how many of the first turns are not in it."""
        turns = [turn for turn in session.turns if turn.ended] if session else []
        if session is None or not turns:
            is_early = session is not None and session.turns
            raise UserError("error_save_early" if is_early else "error_nothing_to_save")
        state, kept = session.transcript.state, self.showing.settings.kept(settings)
        if state is None:
            raise UserError("error_cannot_save")
        num_left_out = 0

        def write(path: Path) -> None:
            nonlocal num_left_out
            num_left_out = write_archive(path, session.model, turns, state, kept, session.limits)

        return session.files.make(ARCHIVE, write, session.owner), num_left_out

    def load(self, request: gr.Request, given) -> tuple:
        """Go on with a conversation from a file; gives chat, status and the settings."""
        unchanged = self.showing.settings.unchanged
        try:
            visitor = visitor_of(request.session_hash)
            path = self.sessions.files.check(path_of(object_of(given).get("file")), visitor)
            with self.showing.ended(request, given, begun=True):
                session, settings = self._load(visitor, path)
            value = chat_value(session, session.turns, all_turns=True)
            values = self.showing.settings.restored(settings) or unchanged
        except Exception as error:
            told = words.fault_status(fault_of(error))
            return gr.skip(), numbered(told, given), *unchanged
        return value, numbered(words.status("note", "loaded"), given), *values

    def _load(self, visitor: str, path: str) -> tuple[Session, dict[str, Any]]:
        session, files = self.sessions.open(visitor), self.sessions.files
        made: list[Path] = []

        def new_file(name: str) -> Path:
            made.append(files.new_folder() / name)
            return made[-1]

        try:
            conversation, turns, state, settings = read_archive(
                path, session.model, session.limits, new_file
            )
            for file in made:
                files.add(file, visitor, kept=True)
            session.restore(conversation, turns, state)
            session.settings = settings
        except BaseException:
            for file in made:
                files.remove(str(file))
                shutil.rmtree(file.parent, ignore_errors=True)
            raise
        finally:
            files.remove(path)
        return session, settings
