"""The tab to talk in: what is said, the composer, the settings, and what they do."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from models.audio import load_audio
from models.errors import UserError

from . import words
from .calls import MODEL, visitor_of
from .chat import chat_value, cleared_value, nothing_value
from .checks import check_text, reply_options
from .limiter import Readers
from .session import Session
from .sessions import Sessions
from .told import page_error, told
from .turn import ShownTurn

EXAMPLE_FOLDER = Path(__file__).parent.parent / "examples"
KINDS = ("speech", "both", "written", "talk")
PIECE_SECONDS = 0.5  # of the open microphone's sound
MAX_PIECE_SECONDS = 10.0  # that came late, several in one
NEAR_SECONDS = 15  # of room left: from here on it is said

SILENCE = "() => window.dispatchEvent(new Event('silence'))"
SHOW_KIND = "kind => { document.querySelector('#composer').dataset.kind = kind }"
# Only what was taken leaves the composer: not what was typed or recorded since.
TAKE = """(taken, audio, text) => {
  const given = JSON.parse(taken || "{}");
  const rest = given.text && text.startsWith(given.text) ? text.slice(given.text.length) : text;
  return [audio?.path === given.audio ? null : audio, rest.trimStart()];
}"""
SAVE_DRAFT = "text => { try { sessionStorage.setItem('draft', text) } catch {} }"
LOAD_DRAFT = "() => { try { return sessionStorage.getItem('draft') ?? '' } catch { return '' } }"


def example_recordings() -> list[Path]:
    return sorted(EXAMPLE_FOLDER.glob("*.wav"))


class TalkTab:
    """The tab's components and what they do; to be made within a `gr.Blocks`.

    Args:
        sessions: a session for each visitor who has said something.
        readers: who reads the replies.
    """

    def __init__(self, demo: gr.Blocks, sessions: Sessions, readers: Readers) -> None:
        self.sessions, self.readers = sessions, readers
        self.model, self.limits = sessions.model, sessions.limits
        self._opening: OrderedDict[str, None] = OrderedDict()  # microphones not yet heard
        self._lock = Lock()
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=320, elem_id="card"):
                self._build_conversation()
                self._build_composer()
            with gr.Column(scale=3, min_width=280, elem_id="side"):
                self._build_settings()
                self._build_examples()
                gr.HTML("", html_template=words.download(), elem_id="download")
        self._connect(demo)

    def _build_conversation(self) -> None:
        self.chat = gr.HTML(
            "", html_template=words.chat(), js_on_load=words.asset("chat.js"), elem_id="chat"
        )
        with gr.Row(elem_id="live"):
            self.player = gr.HTML(
                "",
                html_template=words.player(),
                js_on_load=words.asset("player.js"),
                sample_rate=self.model.sample_rate,
                elem_id="player",
            )
            self.status = gr.HTML("", elem_id="status")
        self.taken = gr.Textbox(visible="hidden")

    def _build_composer(self) -> None:
        with gr.Column(elem_id="composer"):
            self.kind = gr.Radio(
                [(words.label(f"kind_{kind}"), kind) for kind in KINDS],
                value="speech",
                label=words.label("kind"),
                show_label=False,
                elem_id="kind",
            )
            self.audio = gr.Audio(
                sources=["microphone", "upload"],
                type="filepath",
                buttons=["download"],
                label=words.label("audio"),
                show_label=False,
                elem_id="audio",
            )
            with gr.Column(elem_id="talk"):
                gr.HTML(words.status("talk_hint"))
                self.microphone = gr.Audio(
                    sources=["microphone"],
                    streaming=True,
                    type="filepath",
                    label=words.label("talk"),
                    show_label=False,
                    elem_id="microphone",
                )
            self.text = gr.Textbox(
                label=words.label("text"),
                show_label=False,
                placeholder=words.label("text_hint"),
                max_lines=6,
                elem_id="text",
            )
            with gr.Row(elem_id="actions"):
                self.send = gr.Button(words.label("send"), variant="primary", elem_id="send")
                self.stop = gr.Button(words.label("stop"), elem_id="stop")
                self.new = gr.Button(words.label("new"), elem_id="new")

    def _build_settings(self) -> None:
        sampling, styles = self.model.sampling, self.model.styles
        self.style = gr.Radio(
            [(words.label("auto"), ""), *((words.label(style), style) for style in styles)],
            value="",
            label=words.label("style"),
            info=words.label("style_info"),
            visible=bool(styles),
            elem_id="style",
        )
        with gr.Accordion(words.label("advanced"), open=False, elem_id="advanced"):
            self.sampling: dict[str, gr.Slider | gr.Number] = {
                field.name: gr.Slider(
                    field.low, field.high, getattr(sampling, field.name), step=field.step
                )
                for field in self.model.sampling_fields
            }
            self.sampling["seed"] = gr.Number(-1, precision=0)
            for name, component in self.sampling.items():
                component.label = words.label(name)
                component.info = words.label(f"{name}_info")
            longest, length = self.limits.max_reply_seconds, self.limits.reply_seconds
            self.length = gr.Slider(1, longest, length, step=1, label=words.label("length"))

    def _build_examples(self) -> None:
        texts = list(words.EXAMPLES)
        self.examples = [gr.Examples(texts, self.text, label=words.label("examples"))]
        if recordings := example_recordings():
            self.examples.append(
                gr.Examples(
                    list(map(str, recordings)),
                    self.audio,
                    label=words.label("example_recordings"),
                    elem_id="recordings",
                    example_labels=[words.recording(path.stem) for path in recordings],
                )
            )

    def _connect(self, demo: gr.Blocks) -> None:
        settings = [self.style, self.length, *self.sampling.values()]
        outputs = [self.chat, self.player, self.status, self.taken]
        private: dict[str, Any] = {"api_visibility": "private"}
        reply: dict[str, Any] = {
            "show_progress": "minimal",
            "show_progress_on": [self.status],
            "concurrency_id": MODEL,
            "concurrency_limit": self.limits.max_replies,
            **private,
        }
        quick: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_id": "quick",
            "concurrency_limit": 16,
            **private,
        }
        given = [self.kind, self.audio, self.text, *settings]
        triggers = [self.send.click, self.text.submit]
        replies = [
            gr.on(triggers, self._answer, given, outputs, **reply),
            self.microphone.stop_recording(self._answer_heard, settings, outputs, **reply),
        ]
        self.taken.change(
            None, [self.taken, self.audio, self.text], [self.audio, self.text], js=TAKE, **private
        )
        self.audio.change(self._prepare, [self.kind, self.audio], None, **quick)
        self.microphone.start_recording(
            self._listen, None, self.status, js=SILENCE, cancels=replies, **quick
        )
        self.microphone.stream(
            self._hear,
            self.microphone,
            self.status,
            stream_every=PIECE_SECONDS,
            concurrency_limit=None,
            show_progress="hidden",
            **private,
        )
        stopped = [self.chat, self.status]
        self.stop.click(self._stop, None, stopped, js=SILENCE, cancels=replies, **quick)
        self.new.click(self._reset, None, stopped, js=SILENCE, cancels=replies, **quick)
        self.kind.change(None, self.kind, js=SHOW_KIND, **private)
        self.text.change(None, self.text, js=SAVE_DRAFT, **private)
        for examples, kind in zip(self.examples, ("written", "speech")):
            examples.load_input_event.then(None, None, self.kind, js=f"() => '{kind}'", **private)
        demo.load(None, None, self.text, js=LOAD_DRAFT, **private)
        demo.load(self._restore, None, self.chat, **quick)

    def _session(self, request: gr.Request) -> Session | None:
        return self.sessions.get(visitor_of(request.session_hash))

    def _options(self, style, seconds, *sampling) -> dict:
        named = dict(zip(self.sampling, sampling))
        return reply_options(self.model, self.limits, style, seconds, named)

    def _prepare(self, request: gr.Request, kind, audio) -> None:
        """Read a recording while the user has not sent it yet, if no text can come with it."""
        try:
            if kind == "speech" and audio:
                visitor = visitor_of(request.session_hash)
                path = self.sessions.files.check(audio, visitor)
                self.sessions.open(visitor).prepare(path)
        except UserError as error:
            raise page_error(error) from error

    def _answer(self, request: gr.Request, kind, audio, text, *settings) -> Generator[dict]:
        """Answer what was recorded or written."""
        steps = self._answer_given(request, kind, audio, text, *settings)
        yield from told(steps, page_error, {self.status: ""})

    def _answer_given(self, request, kind, audio, text, *settings) -> Generator[dict]:
        visitor = visitor_of(request.session_hash)
        audio = self.sessions.files.check(audio, visitor) if audio and kind != "written" else None
        text = check_text(text, self.limits) if kind != "speech" else ""
        if not audio and not text:
            raise UserError("error_nothing_given")
        options = self._options(*settings)
        if not self.readers.is_read(request.session_hash or ""):
            return
        session = self.sessions.open(visitor)
        if not session.is_prepared(audio, text):  # else there is nothing to wait for
            yield {self.status: words.status("listening")}
        yield from self._show(session, lambda: session.answer(audio, text, **options))

    def _answer_heard(self, request: gr.Request, *settings) -> Generator[dict]:
        """Answer what the open microphone heard."""
        steps = self._answer_microphone(request, *settings)
        yield from told(steps, page_error, {self.status: ""})

    def _answer_microphone(self, request, *settings) -> Generator[dict]:
        options, session = self._options(*settings), self._session(request)
        if self._is_opening(visitor_of(request.session_hash)):
            raise UserError("error_nothing_heard")
        if session:
            yield {self.status: words.status("listening")}
            yield from self._show(session, lambda: session.answer_heard(**options))

    def _show(
        self, session: Session, answer: Callable[[], Generator[ShownTurn]]
    ) -> Generator[dict]:
        """The reply while it grows; what the user gave is taken away once it is understood."""
        with closing(answer()) as turns:
            for turn in turns:
                shown = {self.chat: chat_value(session)}
                if turn.last is None and not turn.ended:
                    taken = json.dumps({"text": turn.text, "audio": turn.audio, "turn": turn.name})
                    yield {**shown, self.taken: taken, self.status: words.status("thinking")}
                elif turn.last and not turn.ended:
                    progress = words.progress(turn.last.total_seconds, turn.last.max_seconds)
                    yield {**shown, self.player: turn.stream, self.status: progress}
                else:
                    status = words.status("too_long" if turn.cut_off else "")
                    yield {**shown, self.player: turn.stream_end, self.status: status}

    def _listen(self, request: gr.Request) -> str:
        """The microphone opens; what it hears makes a session, if there is none."""
        if session := self._session(request):
            session.interrupt()
        with self._lock:
            self._opening[visitor_of(request.session_hash)] = None
            if len(self._opening) > 2 * self.limits.max_microphones:
                self._opening.popitem(last=False)
        return words.status("hearing")

    def _is_opening(self, visitor: str) -> bool:
        """Whether a microphone was opened of which nothing has been heard; once."""
        with self._lock:
            return self._opening.pop(visitor, self) is None

    def _hear(self, request: gr.Request, piece):
        """A piece of the open microphone's sound; says when its room ends."""
        if not piece:
            return gr.skip()
        visitor = visitor_of(request.session_hash)
        try:
            path = self.sessions.files.check(piece, visitor)
            clip = load_audio(path, MAX_PIECE_SECONDS)
            self.sessions.files.remove(path)
            if self._is_opening(visitor):
                self.sessions.open(visitor).listen()
        except UserError as error:
            raise page_error(error) from error
        session = self.sessions.get(visitor)
        left = session.hear(clip) if session else None
        if left is None or left > NEAR_SECONDS:
            return gr.skip()
        return words.status("hearing_left" if left else "hearing_full", seconds=round(left))

    def _stop(self, request: gr.Request) -> dict:
        session = self._session(request)
        if session is None:
            return {self.status: ""}
        session.interrupt()
        session.wait()
        return {self.chat: chat_value(session), self.status: words.status("stopped")}

    def _reset(self, request: gr.Request) -> dict:
        session = self._session(request)
        name = ""
        try:
            if session:
                session.reset()
                name = session.name
        except UserError as error:
            raise page_error(error) from error
        return {self.chat: cleared_value(name), self.status: ""}

    def _restore(self, request: gr.Request) -> str:
        """What was said before the page was loaded again."""
        session = self._session(request)
        if session and session.turns:
            return chat_value(session, len(session.turns))
        return nothing_value()
