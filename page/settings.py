"""What a visitor may set of the replies, by what the model offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from models.contract import SpeechModel, SystemPrompts
from models.errors import UserError

from . import words
from .checks import check_text, reply_options
from .limits import Limits

SYSTEM_LINES = 2


class Settings:
    """The settings' components and what their values mean; to be made within a `gr.Blocks`.

    Fields:
        components: by name, in the order in which their values come.
    """

    def __init__(self, model: SpeechModel, limits: Limits) -> None:
        self.model, self.limits = model, limits
        style = self._choice("style", [(words.label(each), each) for each in model.styles])
        others: dict[str, Any] = {}
        if model.voices:
            others["voice"] = self._choice("voice", [(each, each) for each in model.voices])
        with gr.HTML(
            "",
            html_template=words.disclosure("advanced") + "@children",
            js_on_load=words.asset("settings.js"),
            elem_id="advanced",
            apply_default_css=False,
        ):
            others |= self._optional()
            self._sampling = self._sliders()
            longest, length = limits.max_reply_seconds, limits.reply_seconds
            seconds = gr.Slider(1, longest, length, step=1, label=words.label("length"))
        self._others = others
        self.components = {"style": style, "length": seconds, **self._sampling, **others}

    @staticmethod
    def _choice(name: str, choices: list[tuple[Any, str]]) -> gr.Radio:
        return gr.Radio(
            [(words.label("auto"), ""), *choices],
            value="",
            label=words.label(name),
            info=words.label(f"{name}_info"),
            visible=bool(choices),
            elem_id=name,
        )

    def _optional(self) -> dict[str, Any]:
        """What only some models can."""
        made: dict[str, Any] = {}
        if hasattr(self.model.sampling, "speaks"):
            made["text_only"] = gr.Checkbox(
                not self.model.sampling.speaks,
                label=words.label("text_only"),
                info=words.label("text_only_info"),
                elem_id="text-only",
            )
        if isinstance(self.model, SystemPrompts):
            made["system"] = gr.Textbox(
                "",
                lines=SYSTEM_LINES,
                max_length=self.limits.max_text_characters,
                label=words.label("system"),
                info=words.label("system_info"),
                elem_id="system",
            )
        return made

    def _sliders(self) -> dict[str, Any]:
        sampling = self.model.sampling
        made: dict[str, Any] = {
            field.name: gr.Slider(
                field.low, field.high, getattr(sampling, field.name), step=field.step
            )
            for field in self.model.sampling_fields
        }
        made["seed"] = gr.Number(-1, precision=0, elem_id="seed")
        for name, component in made.items():
            component.label = words.label(name)
            component.info = words.label(f"{name}_info")
        return made

    @property
    def unchanged(self) -> list:
        """What leaves the components as they are."""
        return [gr.skip()] * len(self.components)

    def kept(self, values: Sequence) -> dict[str, Any]:
        """The components' values as they are saved with a conversation.

        Raises:
            UserError: a value of another type or out of range.
        """
        self.options(values)
        self.system_of(values)
        named = dict(zip(self.components, values))
        sampling = {name: named.pop(name) for name in self._sampling}
        return {**named, "sampling": sampling}

    def options(self, values: Sequence, **changes: Any) -> dict[str, Any]:
        """The components' values as arguments of `generate_long`.

        Args:
            changes: of single values, by name.

        Raises:
            UserError: a value of another type or out of range.
        """
        named = dict(zip(self.components, values)) | changes
        return reply_options(
            self.model,
            self.limits,
            named["style"],
            named["length"],
            {name: named[name] for name in self._sampling},
            voice=named.get("voice"),
            text_only=named.get("text_only", False),
        )

    def system(self, value: object = "") -> str | None:
        """How the model shall be; None where it can't be told.

        Raises:
            UserError: no text, or a long one.
        """
        return check_text(value, self.limits) if "system" in self.components else None

    def system_of(self, values: Sequence) -> str | None:
        """The same among the components' values."""
        return self.system(dict(zip(self.components, values)).get("system", ""))

    def restored(self, kept: dict[str, Any]) -> list | None:
        """The components' values of what `kept` gave; None if they are not allowed here."""
        sampling = kept.get("sampling")
        named = {**kept, **(sampling if isinstance(sampling, dict) else {})}
        optional = {**self._others, **self._sampling}
        unset = {name: component.value for name, component in optional.items()}
        values = [named.get(name, unset.get(name)) for name in self.components]
        try:
            self.options(values)
            self.system(named.get("system", ""))
        except UserError:
            return None
        return values
