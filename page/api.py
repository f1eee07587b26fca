"""The page's API: `speak`, which answers one turn."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import gradio as gr

from generate import generate_long
from models.errors import UserError

from .calls import visitor_of
from .checks import check_text, num_frames
from .limiter import READER_SECONDS, Readers
from .metrics import measured
from .session import read_speech
from .sessions import Sessions
from .told import api_error, told
from .turn import ShownTurn

CHUNK_FRAMES = 32  # each chunk comes as a file with all speech so far


class Api:
    """The functions that other programs may call.

    Args:
        sessions: what they share with the page: its limits, its files, its limiter.
    """

    def __init__(self, sessions: Sessions, readers: Readers) -> None:
        self.sessions, self.readers = sessions, readers

    def speak(
        self, request: gr.Request, audio: gr.FileData | None = None, text: str = ""
    ) -> Iterator[tuple[str, gr.FileData | None]]:
        """Answer a sound file, a text, or both, in one turn.

        Each yield has the text so far and the speech so far, as a wav file; the last one has all.
        """
        yield from told(self._speak(request, audio, text), api_error)

    def _speak(self, request: gr.Request, audio: object, text: object) -> Generator[tuple]:
        limits, model, files = self.sessions.limits, self.sessions.model, self.sessions.files
        visitor = visitor_of(request.session_hash)
        text = check_text("" if text is None else text, limits)
        clip = None
        if audio is not None:
            if not isinstance(audio, dict):
                raise UserError("error_file_kind", kind=type(audio).__name__)
            path = files.check(audio.get("path"), visitor)
        if audio is None and not text:
            raise UserError("error_nothing_given")
        if not self.readers.is_read(request.session_hash or ""):
            raise UserError("error_not_read", seconds=READER_SECONDS)
        since = time.monotonic()
        with self.sessions.limiter.reply():
            clip = read_speech(path, limits) if audio is not None else None
            reply = generate_long(
                model,
                audio=clip,
                text=text or None,
                max_new_tokens=num_frames(model, limits.reply_seconds),
                chunk_frames=CHUNK_FRAMES,
                log_content=self.sessions.log_content,
            )
            turn = ShownTurn(text, None, model.sample_rate)
            wav = files.new_folder() / "reply.wav"
            for chunk in measured(reply, since):
                turn.add(chunk)
                sound = None
                if turn.has_sound:
                    _replace(turn, wav)
                    files.add(wav, visitor)
                    sound = gr.FileData(path=str(wav)).model_dump()
                yield turn.reply, sound


def _replace(turn: ShownTurn, wav: Path) -> None:
    """Write the speech so far; who reads the file meanwhile has the one before."""
    growing = wav.with_suffix(".part")
    turn.write(growing)
    os.replace(growing, wav)
