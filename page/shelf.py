"""The models that may be compared: the one that is served, and those that were named."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, count
from threading import Lock
from typing import Any

from loguru import logger

from models.contract import SpeechModel
from models.devices import find_device
from models.errors import UserError, shown
from models.hub import public_name
from models.load import check_checkpoint, load_model

from .words import each

MAX_LOADED = 2  # beside the served one; the one that was used longest ago goes


class Shelf:
    """Models by name; all but the served one are loaded when they are first asked for.

    Args:
        served: the page's own.
        names: of others, as "checkpoint" or "checkpoint:dtype"; of equal labels, later ones get a
            number.
        device: of the others; None for that of the served one.
    """

    def __init__(
        self, served: SpeechModel, names: Sequence[str] = (), device: str | None = None
    ) -> None:
        self._served, self._device = served, device or served.device
        self._own = label_of(served)
        self._sources = _labelled(names, served)
        self.names = (self._own, *self._sources)
        self._loaded: OrderedDict[str, SpeechModel] = OrderedDict()
        self._lock = Lock()

    def must_load(self, name: str) -> bool:
        """Whether `get` has to load it first."""
        return name in self.names and name != self._own and name not in self._loaded

    def get(self, name: str) -> SpeechModel:
        """A model.

        Raises:
            UserError: it is none of `names`, or can't be loaded.
        """
        if name == self._own:
            return self._served
        if name not in self.names:
            raise UserError("error_model_name", name=shown(name), allowed=", ".join(self.names))
        with self._lock:
            model = self._loaded.pop(name, None)
            if model is None:
                if len(self._loaded) >= MAX_LOADED:
                    self._loaded.popitem(last=False)
                checkpoint, _, dtype = self._sources[name].partition(":")
                try:
                    model = load_model(checkpoint, self._device, dtype or "auto")
                except (ValueError, RuntimeError) as error:
                    logger.error(f"{name} can't be loaded: {error}")
                    raise UserError("error_model_not_loaded", name=shown(name)) from error
            self._loaded[name] = model
        return model


def read_names(text: str, device: str = "cpu") -> list[str]:
    """The names of an option, each checked; nothing is loaded.

    Args:
        text: names with commas between, as "checkpoint" or "checkpoint:dtype".

    Raises:
        ValueError: one that can't be loaded here.
    """
    names = [name for part in text.split(",") if (name := part.strip())]
    find_device(device)  # its own fault is told as such
    for name in names:
        checkpoint, _, dtype = name.partition(":")
        try:
            check_checkpoint(checkpoint, device, dtype or "auto")
        except ValueError as error:
            raise ValueError(f"--compare-with {shown(name)}: {error}") from error
    return names


def label_of(model: SpeechModel) -> str:
    """What a loaded model is called: its checkpoint and its dtype."""
    return f"{public_name(model.name)}:{model.dtype}"


def offer_of(model: SpeechModel) -> dict[str, Any]:
    """What may be set of a model's replies, as the page's scripts need it."""
    return {
        "styles": {style: each(style) for style in model.styles},
        "voices": list(model.voices),
        "fields": [
            {**dataclasses.asdict(field), "value": getattr(model.sampling, field.name)}
            for field in model.sampling_fields
        ],
    }


def _labelled(names: Sequence[str], served: SpeechModel) -> dict[str, str]:
    """Names by what visitors choose them by, but for the served model's own."""
    own, labelled = label_of(served), dict[str, str]()
    for name in dict.fromkeys(names):
        if name != f"{served.name}:{served.dtype}":
            labels = chain([_label(name)], (f"{_label(name)} ({number})" for number in count(2)))
            labelled[next(label for label in labels if label not in (own, *labelled))] = name
    return labelled


def _label(name: str) -> str:
    """A name without the place of a folder; several folders may have the same."""
    checkpoint, colon, dtype = name.partition(":")
    return f"{public_name(checkpoint)}{colon}{dtype}"
