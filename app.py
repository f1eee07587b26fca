"""The page: speak or write, and hear the reply while it is made. All that is Gradio is here."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr  # noqa: E402
from gradio.i18n import I18nData  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402

from generate import add_model_arguments  # noqa: E402
from models.contract import SpeechModel  # noqa: E402
from models.load import load_model  # noqa: E402
from page import texts  # noqa: E402
from page.session import Session, ShownTurn, speak  # noqa: E402

EXAMPLE_RECORDINGS = Path(__file__).parent / "examples"
REPLY_SECONDS, MAX_REPLY_SECONDS = 30.0, 90.0
MODEL = {"concurrency_id": "model", "concurrency_limit": 4}  # for every event that runs it
PRIVATE = {"api_visibility": "private"}
HOUR = 3600

I18N = gr.I18n(**texts.LOCALES)
FONT = ("system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=FONT,
    font_mono=("ui-monospace", "monospace"),
).set(
    body_background_fill="#f4f6f6",
    body_background_fill_dark="#0c1216",
    block_background_fill_dark="#141c22",
)


class VoicePage:
    """The page's components and what they do; a session for each tab that has said something."""

    def __init__(self, model: SpeechModel, reply_seconds: float) -> None:
        self.model = model
        self.reply_seconds = reply_seconds
        self.frame_rate = model.frame_rate
        self.sessions: dict[str, Session] = {}
        with gr.Blocks(
            title="情感语音对话 · Emotional voice chat", delete_cache=(HOUR, 24 * HOUR)
        ) as self.demo:
            gr.HTML(texts.header(model.name, model.device))
            with gr.Row(equal_height=False):
                with gr.Column(scale=7, min_width=320, elem_id="card"):
                    self._build_conversation()
                    self._build_composer()
                with gr.Column(scale=3, min_width=280, elem_id="side"):
                    self._build_settings()
                    self._build_examples()
                    self.download = gr.DownloadButton(
                        _t("download"), interactive=False, elem_id="download"
                    )
            self._connect()
        self.demo.queue(max_size=16, default_concurrency_limit=4)

    def _build_conversation(self) -> None:
        self.chat = gr.Chatbot(
            label=_t("chat"),
            show_label=False,
            placeholder=_t("empty"),
            height="clamp(320px, 100vh - 460px, 640px)",
            render_markdown=False,
            buttons=[],
            feedback_options=None,
            elem_id="chat",
        )
        with gr.Row(elem_id="live"):
            self.player = gr.HTML(
                "",
                html_template=texts.player(),
                js_on_load=texts.asset("player.js"),
                sample_rate=self.model.sample_rate,
                elem_id="player",
            )
            self.status = gr.HTML("", elem_id="status")

    def _build_composer(self) -> None:
        with gr.Column(elem_id="composer"):
            kinds = ("speech", "both", "written", "talk")
            self.kind = gr.Radio(
                [(_t(f"kind_{kind}"), kind) for kind in kinds],
                value="speech",
                label=_t("kind"),
                show_label=False,
                elem_id="kind",
            )
            self.audio = gr.Audio(
                sources=["microphone", "upload"],
                type="filepath",
                buttons=["download"],
                label=_t("audio"),
                show_label=False,
                elem_id="audio",
            )
            with gr.Column(elem_id="talk"):
                gr.HTML(texts.status("talk_hint"))
                self.microphone = gr.Audio(
                    sources=["microphone"],
                    streaming=True,
                    label=_t("talk"),
                    show_label=False,
                    elem_id="microphone",
                )
            self.text = gr.Textbox(
                label=_t("text"),
                show_label=False,
                placeholder=_t("text_hint"),
                max_lines=6,
                elem_id="text",
            )
            with gr.Row(elem_id="actions"):
                self.send = gr.Button(_t("send"), variant="primary", elem_id="send")
                self.stop = gr.Button(_t("stop"), elem_id="stop")
                self.new = gr.Button(_t("new"), elem_id="new")

    def _build_settings(self) -> None:
        sampling, styles = self.model.sampling, self.model.styles
        self.style = gr.Radio(
            [(_t("auto"), ""), *((_t(style), style) for style in styles)],
            value="",
            label=_t("style"),
            info=_t("style_info"),
            visible=bool(styles),
            elem_id="style",
        )
        with gr.Accordion(_t("advanced"), open=False, elem_id="advanced"):
            self.sampling = {
                "temperature": gr.Slider(0.05, 1.95, sampling.temperature, step=0.05),
                "top_p": gr.Slider(0.05, 1, sampling.top_p, step=0.05),
                "repetition_penalty": gr.Slider(0.5, 1.95, sampling.repetition_penalty, step=0.05),
                "seed": gr.Number(-1, precision=0),
            }
            for name, component in self.sampling.items():
                component.label, component.info = _t(name), _t(f"{name}_info")
            self.length = gr.Slider(
                1, MAX_REPLY_SECONDS, self.reply_seconds, step=1, label=_t("length")
            )

    def _build_examples(self) -> None:
        self.examples = [gr.Examples(list(texts.EXAMPLES), self.text, label=_t("examples"))]
        if recordings := sorted(EXAMPLE_RECORDINGS.glob("*.wav")):
            self.examples.append(
                gr.Examples(
                    list(map(str, recordings)),
                    self.audio,
                    label=_t("example_recordings"),
                    elem_id="recordings",
                    example_labels=[texts.recording(path.stem) for path in recordings],
                )
            )

    def _connect(self) -> None:
        settings = [self.style, self.length, *self.sampling.values()]
        outputs = [self.chat, self.player, self.status, self.download, self.audio, self.text]
        shown = {"show_progress": "minimal", "show_progress_on": [self.status], **PRIVATE}
        replies = [
            gr.on(
                [self.send.click, self.text.submit],
                self._answer,
                [self.kind, self.audio, self.text, *settings],
                outputs,
                **shown,
                **MODEL,
            ),
            self.microphone.stop_recording(self._answer_heard, settings, outputs, **shown, **MODEL),
        ]
        direct = {"queue": False, "show_progress": "hidden", **PRIVATE}
        self.audio.change(self._prepare, [self.kind, self.audio], None, **direct)
        self.microphone.start_recording(
            self._listen, None, self.status, js=texts.SILENCE, cancels=replies, **direct
        )
        self.microphone.stream(
            self._hear, self.microphone, stream_every=0.5, concurrency_limit=None, **PRIVATE
        )
        stopped = [self.chat, self.status, self.download]
        self.stop.click(self._stop, None, None, js=texts.SILENCE, cancels=replies, **direct).then(
            self._show_stopped, None, stopped, **direct
        )
        self.new.click(self._reset, None, stopped, js=texts.SILENCE, cancels=replies, **direct)
        self.kind.change(None, self.kind, js=texts.SHOW_KIND, **PRIVATE)
        for examples, kind in zip(self.examples, ("written", "speech")):
            examples.load_input_event.then(None, None, self.kind, js=f"() => '{kind}'", **PRIVATE)
        self.demo.unload(self._close)
        gr.api(self._speak, api_name="speak", **MODEL)

    def _session(self, request: gr.Request) -> Session:
        if request.session_hash not in self.sessions:
            session = Session(self.model, get_upload_folder())
            self.sessions[request.session_hash] = session
        return self.sessions[request.session_hash]

    def _num_frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.frame_rate))

    def _options(self, style: str, seconds: float, *sampling) -> dict:
        """The settings, as arguments of `generate_long`."""
        values = dict(zip(self.sampling, sampling))
        if values["seed"] is None or values["seed"] < 0:
            values["seed"] = None
        return {
            "style": style or None,
            "max_new_tokens": self._num_frames(seconds),
            "sampling": dataclasses.replace(self.model.sampling, **values),
        }

    def _prepare(self, request: gr.Request, kind: str, audio: str | None) -> None:
        """Read a recording while the user has not sent it yet, if no text can come with it."""
        if kind == "speech" and audio:
            self._session(request).prepare(audio)

    def _answer(self, request: gr.Request, kind, audio, text, *settings) -> Iterator[dict]:
        """Answer what was recorded or written."""
        audio = audio if kind != "written" else None
        text = text.strip() if kind != "speech" else ""
        if not audio and not text:
            raise _error(texts.both("nothing_given"))
        session = self._session(request)
        if not session.is_prepared(audio, text):  # else there is nothing to wait for
            yield {self.status: texts.status("listening")}
        yield from self._show(
            session, lambda: session.answer(audio, text, **self._options(*settings))
        )

    def _answer_heard(self, request: gr.Request, *settings) -> Iterator[dict]:
        """Answer what the open microphone heard."""
        session = self._session(request)
        yield {self.status: texts.status("listening")}
        yield from self._show(session, lambda: session.answer_heard(**self._options(*settings)))

    def _show(self, session: Session, answer: Callable[[], Iterator[ShownTurn]]) -> Iterator[dict]:
        """The reply while it grows; what the user gave is taken away once it is understood."""
        try:
            with closing(answer()) as turns:
                for turn in turns:
                    shown = {self.chat: _messages(session.turns)}
                    if turn.last is None:
                        given = {self.audio: None, self.text: ""}
                        yield {**shown, **given, self.status: texts.status("thinking")}
                    elif not turn.ended:
                        frames = turn.last.total_frames, turn.last.max_frames
                        progress = texts.progress(*frames, self.frame_rate)
                        yield {**shown, self.player: turn.stream, self.status: progress}
                    else:
                        yield {
                            **shown,
                            self.player: turn.stream_end,
                            self.status: texts.status("too_long" if turn.cut_off else ""),
                            self.download: _download(turn),
                        }
        except ValueError as error:
            yield {self.status: ""}
            raise _error(texts.fault(str(error))) from error

    def _listen(self, request: gr.Request) -> str:
        self._session(request).listen()
        return texts.status("hearing")

    def _hear(self, request: gr.Request, piece: tuple | None) -> None:
        if piece:
            self._session(request).hear(*piece)

    def _stop(self, request: gr.Request) -> None:
        self._session(request).interrupt()

    def _show_stopped(self, request: gr.Request) -> dict:
        session = self._session(request)
        session.wait()
        shown = {self.chat: _messages(session.turns), self.status: texts.status("stopped")}
        return {**shown, **({self.download: _download(session.turns[-1])} if session.turns else {})}

    def _reset(self, request: gr.Request) -> dict:
        self._session(request).reset()
        return {self.chat: [], self.status: "", self.download: gr.update(interactive=False)}

    def _close(self, request: gr.Request) -> None:
        if session := self.sessions.pop(request.session_hash, None):
            session.close()

    def _speak(
        self, audio: gr.FileData | None = None, text: str = ""
    ) -> Iterator[tuple[str, gr.FileData | None]]:
        """Answer a sound file, a text, or both, in one turn.

        Each yield has the text so far and the speech so far, as a wav file; the last one has all.
        """
        try:
            path, num_frames = audio and audio["path"], self._num_frames(self.reply_seconds)
            for turn in speak(self.model, path, text, num_frames):
                path = turn.reply_audio  # as a dict, for only so Gradio copies it to its cache
                yield turn.reply, gr.FileData(path=path).model_dump() if path else None
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error


def _t(key: str) -> I18nData | str:
    """The text in the browser's language; another checkpoint's words stand for themselves."""
    return I18N(texts.PREFIX + key) if key in texts.STRINGS["en"] else key


def _error(message: str) -> gr.Error:
    """An error on the page; the message is HTML."""
    return gr.Error(message, print_exception=False)


def _download(turn: ShownTurn) -> gr.DownloadButton:
    return gr.update(value=turn.reply_audio, interactive=turn.reply_audio is not None)


def _messages(turns: list[ShownTurn]) -> list[dict]:
    """The turns as the chat shows them: text, sound, and what the model says of the mood."""
    messages = []
    for turn in turns:
        emotion, style = (turn.last.emotion, turn.last.style) if turn.last else (None, None)
        reply = turn.reply or ("" if turn.ended else "…")
        messages += [
            _message("user", turn.text, turn.audio, emotion and texts.badge("perceived", emotion)),
            _message("assistant", reply, turn.reply_audio, style and texts.badge("tone", style)),
        ]
    return messages


def _message(role: str, text: str, audio: str | None, badge: str | None) -> dict:
    content = [text] if text else []
    if audio:
        content.append({"path": audio, "mime_type": "audio/wav"})
    if badge:
        content.append(gr.HTML(badge))
    return {"role": role, "content": content}


def build_demo(model: SpeechModel, *, reply_seconds: float = REPLY_SECONDS) -> gr.Blocks:
    """The page for a model; `launch` it with `LAUNCH`.

    Args:
        model: from `load_model`.
        reply_seconds: the longest reply, until the user sets another.
    """
    return VoicePage(model, reply_seconds).demo


LAUNCH = {
    "theme": THEME,
    "css": texts.asset("page.css"),
    "head": texts.HEAD,
    "i18n": I18N,
    "footer_links": ["api", "gradio"],
    "max_file_size": "50mb",
    "run_history": False,
    "ssr_mode": False,
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The page: speak or write, and hear the reply.")
    add_model_arguments(parser)
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--host", default=host, help="0.0.0.0 serves the whole network")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--share", action="store_true", help="a public link, through Gradio")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        model = load_model(options.checkpoint, options.device, options.dtype, options.revision)
    except (ValueError, RuntimeError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    model.warm_up()
    demo = build_demo(model)
    demo.launch(server_name=options.host, server_port=options.port, share=options.share, **LAUNCH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
