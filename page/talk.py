"""The tab to talk in: what is said, the composer, the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr

from models.voice_activity import load_detector

from . import words
from .calls import MODEL
from .limiter import Readers
from .sessions import Sessions
from .talking import Talking

EXAMPLE_FOLDER = Path(__file__).parent.parent / "examples"


def example_recordings() -> list[Path]:
    return sorted(EXAMPLE_FOLDER.glob("*.wav"))


class TalkTab:
    """The tab's components and what they do; to be made within a `gr.Blocks`.

    Args:
        sessions: a session for each visitor who has said something.
        readers: who reads the replies.
    """

    def __init__(self, demo: gr.Blocks, sessions: Sessions, readers: Readers) -> None:
        self.model, self.limits = sessions.model, sessions.limits
        with gr.Row(equal_height=False, elem_id="talk"):
            with gr.Column(scale=7, min_width=320, elem_id="card"):
                self._build_conversation()
            with gr.Column(scale=3, min_width=280, elem_id="side"):
                self._build_settings()
        self._connect(demo, Talking(sessions, readers, list(self.sampling)))
        Thread(target=load_detector).start()  # ready before the first microphone is

    def _build_conversation(self) -> None:
        self._html("bar", words.bar(self.model))
        recordings = example_recordings()
        self.chat = self._html("chat", words.chat(recordings), glosses=words.EXAMPLES)
        with gr.Row(elem_id="live"):
            rate = self.model.sample_rate
            self.player = self._html("player", words.player(), sample_rate=rate)
            self.status = self._html("status", words.status_line())
        self.heard = gr.HTML(
            "",
            html_template="",
            js_on_load="watch('value', () => window.pageHeard?.(JSON.parse(props.value)));",
            visible="hidden",
        )
        seconds = min(self.limits.max_audio_seconds, self.model.max_input_seconds)
        script = words.asset("composer.js") + words.asset("hands_free.js")
        self.composer = self._html("composer", words.composer(), script, max_seconds=seconds)

    @staticmethod
    def _html(name: str, template: str, script: str | None = None, **properties) -> gr.HTML:
        return gr.HTML(
            "",
            html_template=template,
            js_on_load=script or words.asset(f"{name}.js"),
            elem_id=name,
            apply_default_css=False,
            **properties,
        )

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
            self.sampling["seed"] = gr.Number(-1, precision=0, elem_id="seed")
            for name, component in self.sampling.items():
                component.label = words.label(name)
                component.info = words.label(f"{name}_info")
            longest, length = self.limits.max_reply_seconds, self.limits.reply_seconds
            self.length = gr.Slider(1, longest, length, step=1, label=words.label("length"))

    def _connect(self, demo: gr.Blocks, talking: Talking) -> None:
        talking.chat, talking.player = self.chat, self.player
        talking.status, talking.taken = self.status, self.composer
        settings = [self.style, self.length, *self.sampling.values()]
        shown = [self.chat, self.player, self.status, self.composer]
        reply: dict[str, Any] = {
            "concurrency_id": MODEL,
            "concurrency_limit": self.limits.max_replies,
        }
        quick: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": 16}
        replies = [
            self._ask("answer", talking.answer, settings, shown, **reply),
            self._ask("heard", talking.answer_heard, settings, shown, **reply),
            self._ask("again", talking.again, settings, shown, **reply),
        ]
        seen = [self.chat, self.status]
        self._ask("stop", talking.stop, [], seen, cancels=replies, **quick)
        self._ask("reset", talking.reset, [], seen, cancels=replies, **quick)
        self._ask("load", talking.load, [], [*seen, *settings], cancels=replies, **quick)
        self._ask("cut", talking.cut, [], [self.chat], **quick)
        self._ask("rate", talking.rate, [], [self.chat], **quick)
        self._ask("save", talking.save, settings, [self.composer, self.status], **quick)
        self._ask("prepare", talking.prepare, [], [self.status], **quick)
        self._ask("open", talking.open_microphone, [], [self.status], **quick)
        hearing: dict[str, Any] = {
            "concurrency_id": "hear",
            "concurrency_limit": self.limits.max_microphones,
        }
        self._ask("hear", talking.hear, [], [self.heard, self.status], **hearing)
        self._ask("seed", None, [], [self.sampling["seed"]], js="({ seed }) => Number(seed)")
        demo.load(
            talking.restore,
            None,
            self.chat,
            show_progress="hidden",
            api_visibility="private",
            **quick,
        )

    @staticmethod
    def _ask(
        name: str, handler: Callable | None, inputs: Sequence, outputs: Sequence, **options: Any
    ):
        """What the page's scripts ask of the server: `pageAsk.<name>(value)`."""
        wire = gr.HTML(
            "",
            html_template="",
            js_on_load=f"window.pageAsk['{name}'] = (value) => "
            "{ props.value = value; trigger('input'); };",
            visible="hidden",
        )
        return wire.input(
            handler,
            [wire, *inputs],
            list(outputs),
            preprocess=False,  # any value is checked by the handler, and told in its words
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
            **options,
        )
