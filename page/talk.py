"""The tab to talk in: what is said, the composer, the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from models.contract import SpeechModel

from . import words
from .calls import LOADING, MODEL, QUICK
from .comparing import Comparing
from .hands_free import HandsFree
from .limiter import Readers
from .saving import Saving
from .sessions import Sessions
from .settings import Settings
from .shelf import Shelf
from .showing import Showing
from .talking import Talking

MAX_LOOKS = 4  # at recordings at once, which are decoded for it
EXAMPLE_FOLDER = Path(__file__).parent.parent / "examples"


def example_recordings() -> list[Path]:
    return sorted(EXAMPLE_FOLDER.glob("*.wav"))


def recordings_for(model: SpeechModel) -> list[Path]:
    """The example recordings, which are Chinese, if the model answers them."""
    return example_recordings() if "zh" in model.languages else []


def offered_recordings(model: SpeechModel) -> list[dict[str, Any]]:
    """The same as the scripts of the other tabs need them: {path, name}, the name by language."""
    return [
        {"path": str(path), "name": words.recording(path.stem)} for path in recordings_for(model)
    ]


class TalkTab:
    """The tab's components and what they do; to be made within a `gr.Blocks`.

    Args:
        sessions: a session for each visitor who has said something.
        readers: who reads the replies.
        shelf: the models whose replies may be compared.
    """

    def __init__(self, demo: gr.Blocks, sessions: Sessions, readers: Readers, shelf: Shelf) -> None:
        self.model, self.limits, self.shelf = sessions.model, sessions.limits, shelf
        with gr.Row(equal_height=False, elem_id="talk"):
            with gr.Column(scale=7, min_width=320, elem_id="card"):
                self._build_conversation()
            with gr.Column(scale=3, min_width=280, elem_id="side"):
                self.settings = Settings(self.model, self.limits)
        showing = Showing(
            sessions, self.settings,
            chat=self.chat, player=self.player, status=self.status, taken=self.composer,
        )  # fmt: skip
        self._connect(demo, showing, readers)

    def _build_conversation(self) -> None:
        self._html("bar", words.bar(self.model))
        recordings = recordings_for(self.model)
        script = "".join(map(words.asset, ("actions.js", "follow.js", "chat.js", "beside.js")))
        self.chat = self._html(
            "chat", words.chat(self.model, recordings), script,
            models=list(self.shelf.names),
        )  # fmt: skip
        with gr.Row(elem_id="live"):
            rate = self.model.sample_rate
            self.player = self._html("player", words.player(), sample_rate=rate)
            self.status = self._html("status", words.status_line())
        self.heard, self.offered = self._told("pageHeard"), self._told("pageOffered")
        self.notice = self._told("pageNotice")  # the status of what is no reply, and ends none
        self.unusable = self._told("pageUnusable")  # the same, of what was not sent yet
        seconds = min(self.limits.max_audio_seconds, self.model.max_input_seconds)
        script = words.asset("composer.js") + words.asset("hands_free.js")
        self.composer = self._html(
            "composer", words.composer(self.model), script, max_seconds=seconds
        )

    @staticmethod
    def _told(script: str) -> gr.HTML:
        """What hands its value, JSON, to a function of the page's scripts."""
        return gr.HTML(
            "",
            html_template="",
            js_on_load=f"watch('value', () => window.{script}?.(JSON.parse(props.value)));",
            visible="hidden",
        )

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

    def _connect(self, demo: gr.Blocks, showing: Showing, readers: Readers) -> None:
        talking, hands_free = Talking(showing, readers), HandsFree(showing)
        saving = Saving(showing)
        settings = list(self.settings.components.values())
        system = [
            self.settings.components[name]
            for name in ("system",)
            if name in self.settings.components
        ]
        shown = [self.chat, self.player, self.status, self.composer]
        reply: dict[str, Any] = {
            "concurrency_id": MODEL,
            "concurrency_limit": self.limits.max_replies,
        }
        self._ask("answer", talking.answer, settings, shown, **reply)
        self._ask("heard", hands_free.answer_heard, settings, shown, **reply)
        self._ask("again", talking.again, settings, shown, **reply)
        comparing = Comparing(showing, self.shelf)
        self._ask("compare", comparing.compare, settings, shown, **reply)
        self._ask("offer", comparing.offer, [], [self.offered, self.notice], **LOADING)
        seen = [self.chat, self.status]
        self._ask("stop", talking.stop, [], seen, **QUICK)
        self._ask("reset", talking.reset, [], seen, **QUICK)
        self._ask("load", saving.load, [], [*seen, *settings], **QUICK)
        self._ask("cut", talking.cut, [], [self.chat], **QUICK)
        self._ask("rate", talking.rate, [], [self.chat], **QUICK)
        self._ask("save", saving.save, settings, [self.composer, self.notice], **QUICK)
        looking: dict[str, Any] = {"concurrency_id": "look", "concurrency_limit": MAX_LOOKS}
        self._ask("prepare", talking.prepare, system, [self.unusable], **looking)
        self._ask("open", hands_free.open_microphone, system, [self.heard, self.notice], **QUICK)
        hearing: dict[str, Any] = {
            "concurrency_id": "hear",
            "concurrency_limit": self.limits.max_microphones,
        }
        self._ask("hear", hands_free.hear, [], [self.heard, self.notice], **hearing)
        seed = self.settings.components["seed"]
        self._ask("seed", None, [], [seed], js="({ seed }) => Number(seed)")
        demo.load(
            talking.restore,
            None,
            [self.chat, *settings],
            show_progress="hidden",
            api_visibility="private",
            **QUICK,
        )

    @staticmethod
    def _ask(
        name: str, handler: Callable | None, inputs: Sequence, outputs: Sequence, **options: Any
    ) -> None:
        """What the page's scripts ask of the server: `pageAsk.<name>(value)`, numbered in order."""
        wire = gr.HTML(
            "",
            html_template="",
            js_on_load=f"window.pageAsk['{name}'] = (value) => "
            "{ props.value = { ...value, asked: (window.pageCalls += 1) }; trigger('input'); };",
            visible="hidden",
        )
        wire.input(
            handler,
            [wire, *inputs],
            list(outputs),
            preprocess=False,  # any value is checked by the handler, and told in its words
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
            **options,
        )
