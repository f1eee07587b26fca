"""The models that listening tests may use: the one that is served, and those that were named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from models.contract import SpeechModel
from models.devices import find_device
from models.errors import UserError, shown
from models.hub import public_name
from models.load import check_checkpoint, load_model

MAX_LOADED = 2  # beside the served one; the one that was used longest ago goes


class Shelf:
    """Models by name; all but the served one are loaded when they are first asked for.

    Args:
        served: the page's own.
        names: of others, as "checkpoint" or "checkpoint:dtype".
    """

    def __init__(self, served: SpeechModel, names: Sequence[str] = ()) -> None:
        self._served = served
        self._own = f"{public_name(served.name)}:{served.dtype}"
        self._sources = {_label(name): name for name in names}
        self.names = tuple(dict.fromkeys([self._own, *self._sources]))
        self._loaded: OrderedDict[str, SpeechModel] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str) -> SpeechModel:
        """A model.

        Raises:
            UserError: it is none of `names`.
            ValueError: it can't be loaded.
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
                model = load_model(checkpoint, self._served.device, dtype or "auto")
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


def _label(name: str) -> str:
    """What visitors choose it by."""
    checkpoint, colon, dtype = name.partition(":")
    return f"{public_name(checkpoint)}{colon}{dtype}"
