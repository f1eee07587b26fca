"""What assistants are told of the page's tools: their arguments, and what they give."""

from __future__ import annotations

import inspect
import re
from typing import Any

from mcp_types import Tool, ToolAnnotations

from models.contract import SpeechCodec, SpeechModel, SystemPrompts

from .api import Api
from .checks import MAX_SEED
from .limits import Limits

FILE = "a whole file's bytes in base64, or a data URL of them"
ABOUT = {
    "speak": "Say something to a voice assistant, in speech, in writing or both, and hear its "
    "answer: its text, how it was said, and its sound as wav.",
    "encode": "The codec's codes of a sound: a list for each codebook, a code for each frame.",
    "decode": "The sound of codes, as wav.",
}
# What an argument is, where that differs from what it is to callers of the API.
ARGUMENTS = {
    "audio": f"the speech or sound (wav, flac, ogg, mp3, m4a, webm ...): {FILE}",
    "image": f"a picture that the user shows: {FILE}",
    "video": f"a video that the user shows: {FILE}",
    "conversation": "the handle that the answer to an earlier turn gave, to go on with that "
    "conversation, which ends some minutes after its last turn; empty begins a new one",
    "codes": "as encode gives them",
}
CODES = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
}


def tools_of(model: SpeechModel, limits: Limits) -> dict[str, Tool]:
    """The tools by name, with what this model can."""
    tools = [_tool("speak", _spoken(model, limits), [], _answered())]
    if isinstance(model, SpeechCodec):
        codes = {"type": "object", "properties": {"codes": CODES}, "required": ["codes"]}
        tools += [
            _tool("encode", {"audio": {"type": "string"}}, ["audio"], codes),
            _tool("decode", {"codes": CODES}, ["codes"], None),
        ]
    return {tool.name: tool for tool in tools}


def _tool(name: str, properties: dict[str, dict], required: list[str], gives: dict | None) -> Tool:
    told = {**_sentences(getattr(Api, name)), **ARGUMENTS}
    described = {key: {**each, "description": told[key]} for key, each in properties.items()}
    takes = {
        "type": "object",
        "properties": described,
        "required": required,
        "additionalProperties": False,
    }
    return Tool(
        name=name,
        description=ABOUT[name],
        input_schema=takes,
        output_schema=gives,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _spoken(model: SpeechModel, limits: Limits) -> dict[str, dict[str, Any]]:
    """The arguments of `speak`, and which values this model allows."""
    text = {"type": "string", "maxLength": limits.max_text_characters}
    sampling = {
        field.name: {
            "type": "number",
            "minimum": field.low,
            "maximum": field.high,
            "default": getattr(model.sampling, field.name),
        }
        for field in model.sampling_fields
    }
    properties: dict[str, dict[str, Any]] = {
        kind: text if kind == "text" else {"type": "string"}
        for kind in ("audio", "text", "image", "video")
        if kind in model.accepts
    }
    for name, words in (("style", model.styles), ("voice", model.voices)):
        if words:
            properties[name] = {"type": "string", "enum": ["", *words]}
    properties["seed"] = {"type": "integer", "minimum": -1, "maximum": MAX_SEED, "default": -1}
    properties["sampling"] = {
        "type": "object",
        "properties": sampling,
        "additionalProperties": False,
    }
    if hasattr(model.sampling, "speaks"):
        properties["text_only"] = {"type": "boolean", "default": False}
    if isinstance(model, SystemPrompts):
        properties["system"] = text
    return {**properties, "conversation": {"type": "string"}}


def _answered() -> dict[str, Any]:
    """What `speak` gives beside the sound."""
    said = {"type": ["string", "null"]}
    properties = {
        "text": {"type": "string", "description": "what the assistant said"},
        "emotion": {**said, "description": "the user's, as the model perceives it"},
        "style": {**said, "description": "of the answer"},
        "heard": {**said, "description": "what the model wrote down of the user's speech"},
        "seconds": {"type": "number", "description": "of speech"},
        "whole": {
            "type": "boolean",
            "description": "false if it ended at its longest length, or by a later turn",
        },
        "seed": {"type": "integer", "description": "which gives the same answer again"},
        "conversation": {"type": "string", "description": "the handle to go on with"},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _sentences(function: Any) -> dict[str, str]:
    """What a docstring says of each argument."""
    arguments = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n     +.+)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
