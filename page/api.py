"""The page's API: `speak`, which answers one turn."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

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

CHUNK_FRAMES = 1024  # at most; chunks double until then


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
            turn, num_written = ShownTurn(text, None, model.sample_rate), 0
            for chunk in measured(reply, since):
                turn.add(chunk)
                if chunk.total_frames >= 2 * num_written:
                    num_written = chunk.total_frames
                    yield turn.reply, self._write(turn, visitor)
            if turn.last and turn.last.total_frames > num_written:
                yield turn.reply, self._write(turn, visitor)

    def _write(self, turn: ShownTurn, visitor: str) -> dict | None:
        """The speech so far as a file of its own, since a client may still read the one before.

        One is written when the speech has doubled, so that all take twice the reply's size.
        """
        if not turn.has_sound:
            return None
        wav = self.sessions.files.new_folder() / "reply.wav"
        turn.write(wav)
        self.sessions.files.add(wav, visitor)
        return gr.FileData(path=str(wav)).model_dump()
