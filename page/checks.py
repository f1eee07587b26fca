"""What a visitor gives, checked before any work is done with it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from generate import known, num_frames
from listening.definition import is_unicode
from models.contract import SamplingField, SpeechModel
from models.errors import UserError
from strings import STRINGS, Text

from .limits import SHORTEST_REPLY, Limits

MAX_SEED = 2**53 - 1  # the largest whole number that every browser keeps


def check_text(text: object, limits: Limits) -> str:
    """A written turn, without the spaces around it.

    Raises:
        UserError: it is no string, has too many characters, or half ones.
    """
    if not isinstance(text, str):
        raise UserError("error_text_type", type=type(text).__name__)
    if len(text) > limits.max_text_characters:
        limit = limits.max_text_characters
        raise UserError("error_text_too_long", characters=len(text), limit=limit)
    if not is_unicode(text):
        raise UserError("error_text_not_unicode")
    return text.strip()


def read_object(value: object) -> dict[str, Any]:
    """What a tab's script sends as JSON.

    Raises:
        UserError: it is no object.
    """
    try:
        given = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UserError("error_request")
    return given


def reply_options(
    model: SpeechModel,
    limits: Limits,
    style: object,
    seconds: object,
    sampling: dict[str, object],
    *,
    voice: object = "",
    text_only: object = False,
) -> dict[str, Any]:
    """Settings as arguments of `generate_long`.

    Args:
        style: one of the model's; empty leaves it to the model.
        seconds: the longest reply.
        sampling: values of the model's `sampling_fields` and the seed, by name; a seed below 0
            draws one.
        voice: one of the model's; empty leaves it to the model.
        text_only: True answers without speech, where the model can.

    Raises:
        UserError: a value of another type or out of range.
    """
    fields = {field.name: field for field in model.sampling_fields}
    values: dict[str, Any] = {
        name: _number(fields[name], value) for name, value in sampling.items() if name in fields
    }
    seed = sampling.get("seed")
    if seed is not None:
        field = SamplingField(name="seed", low=-1, high=MAX_SEED, step=1)
        seed = int(_number(field, seed))
    values["seed"] = None if seed is None or seed < 0 else seed
    if not isinstance(text_only, bool) or text_only and not hasattr(model.sampling, "speaks"):
        raise UserError("error_no_setting", name="text_only")
    if text_only:
        values["speaks"] = False
    longest = limits.max_reply_seconds
    length = SamplingField(name="length", low=SHORTEST_REPLY, high=longest, step=1)
    return {
        "style": known("style", style or None, model.styles),
        "voice": known("voice", voice or None, model.voices),
        "max_new_tokens": num_frames(model, _number(length, seconds)),
        "sampling": dataclasses.replace(model.sampling, **values),
    }


def _number(field: SamplingField, value: object) -> float:
    number = value if isinstance(value, (int, float)) else math.nan
    if isinstance(value, bool) or not field.low <= number <= field.high:  # NaN is never within
        name = Text(field.name) if field.name in STRINGS["en"] else field.name
        low, high = map(_whole, (field.low, field.high))
        raise UserError("error_setting", name=name, value=repr(value)[:40], low=low, high=high)
    return number


def _whole(limit: float) -> float:
    """A limit as it is written: without a fraction where it has none."""
    return int(limit) if float(limit).is_integer() else limit
