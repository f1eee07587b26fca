"""The tab that looks inside: a sound, how the model reads it, and what a reply is made of."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any

import gradio as gr
import numpy as np

from listening.sounds import as_wav, pack
from models.audio import load_audio
from models.errors import UserError

from . import words
from .calls import MODEL, called_at, visitor_of
from .checks import check_text, read_object, reply_options
from .inspecting import look
from .limiter import Readers
from .sessions import Sessions
from .talk import offered_recordings
from .told import fault_of


class InspectTab:
    """The tab's components and what they do; to be made within a `gr.Tab`.

    Args:
        sessions: what all tabs share: the model, the files, the limits.
        readers: who reads the answers.
    """

    def __init__(self, sessions: Sessions, readers: Readers) -> None:
        self.sessions, self.readers = sessions, readers
        self._numbers = count()  # of what was asked
        model = sessions.model
        gr.HTML(
            "",
            html_template='<div class="inspect"></div>',
            js_on_load="".join(map(words.asset, ("dom.js", "draw.js", "inspect.js"))),
            elem_id="inspect",
            apply_default_css=False,
            recordings=offered_recordings(model),
            words={word: words.each(word) for word in (*model.emotions, *model.styles)},
            max_seconds=sessions.limits.max_audio_seconds,
        )
        seen = gr.HTML(
            "",
            html_template="",
            js_on_load="watch('value', () => window.inspectSeen?.(props.value));",
            visible="hidden",
        )
        wire = gr.HTML(
            "",
            html_template="",
            js_on_load="window.inspectAsk = (value) => "
            "{ props.value = JSON.stringify(value); trigger('input'); };",
            visible="hidden",
        )
        wire.input(
            self._look, wire, seen, show_progress="hidden", api_visibility="private",
            concurrency_id=MODEL, concurrency_limit=sessions.limits.max_replies,
        )  # fmt: skip

    def _look(self, request: gr.Request, value: object) -> Generator[str]:
        """A line of JSON for each step; the value only grows, so a page may miss one of them."""
        lines = f"{next(self._numbers)}\n"
        for step in self._told(request, value):
            lines += json.dumps(step, allow_nan=False).replace("<", "\\u003c") + "\n"
            yield lines

    def _told(self, request: gr.Request, value: object) -> Iterator[dict[str, Any]]:
        try:
            yield from self._steps(request, value)
            yield {"done": True}
        except Exception as error:
            fault = fault_of(error)
            yield {"fault": words.each(fault.code, **fault.values)}

    def _steps(self, request: gr.Request, value: object) -> Iterator[dict[str, Any]]:
        sessions, limits = self.sessions, self.sessions.limits
        visitor, given = visitor_of(request.session_hash), read_object(value)
        path = sessions.files.check(given["path"], visitor) if given.get("path") else None
        text = check_text(given.get("text", ""), limits)
        answers = given.get("answers") is True
        if path is None and not (answers and text):
            raise UserError("error_nothing_to_inspect")
        seed = given.get("seed")
        sampling = {"seed": -1 if seed is None else seed}
        options = reply_options(sessions.model, limits, "", limits.reply_seconds, sampling)
        if not self.readers.is_read(request.session_hash or ""):
            return

        def keep(samples: np.ndarray, sample_rate: int) -> str:
            sound = as_wav(pack(samples, sample_rate))
            return sessions.files.make("sound.wav", lambda path: path.write_bytes(sound), visitor)

        with sessions.limiter.reply():
            seconds, num_bytes = limits.max_audio_seconds, limits.max_upload_bytes
            clip = load_audio(path, seconds, num_bytes) if path else None
            yield from look(
                sessions.model, clip, text, options, keep,
                answers=answers, since=called_at(request), log_content=sessions.log_content,
            )  # fmt: skip
