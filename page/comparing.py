"""What the talk tab does to answer a turn once more beside its reply: by a model, with settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import gradio as gr

from models.contract import SpeechModel
from models.errors import UserError

from . import words
from .calls import called_at
from .checks import reply_options
from .once_more import beside
from .shelf import Shelf, offer_of
from .showing import IsOver, Showing, Steps, call_of, object_of
from .told import fault_of


class Comparing:
    """The handlers of a comparison. What comes from the page, anybody can send.

    Args:
        shelf: the models that may answer.
    """

    def __init__(self, showing: Showing, shelf: Shelf) -> None:
        self.showing, self.shelf = showing, shelf
        self._numbers = count()  # of offers: the same one twice is told twice

    def offer(self, request: gr.Request, given) -> Iterator[tuple]:
        """What may be set of a model's replies, and a notice; it is loaded, if it was not."""
        name = str(object_of(given).get("model"))
        try:
            if self.shelf.must_load(name):
                yield gr.skip(), words.status("busy", "loading_model", name=name)
            offer = {"model": name, **offer_of(self.shelf.get(name)), "number": next(self._numbers)}
            yield json.dumps(offer), words.status()
        except Exception as error:
            yield gr.skip(), words.fault_status(fault_of(error))

    def compare(self, request: gr.Request, given, *settings) -> Steps:
        """Answer a turn once more, beside its reply."""
        steps = partial(self._compare, request, object_of(given), settings)
        yield from self.showing.asked_for(request, given, steps)

    def _compare(
        self, request: gr.Request, wish: dict[str, Any], settings: tuple, is_over: IsOver
    ) -> Steps:
        session, name = self.showing.session(request), str(wish.get("model"))
        if session is None:
            raise UserError("error_no_such_turn")
        if self.shelf.must_load(name):  # which `offer` does, in a place of its own
            raise UserError("error_model_must_load", name=name)
        model = self.shelf.get(name)
        options = self._options(model, wish, self.showing.settings.kept(settings))
        options |= {"since": called_at(request), "asked": call_of(request, wish)}
        yield {self.showing.status: words.status("busy", "thinking")}
        yield from self.showing.reply(
            session, lambda: beside(session, wish.get("turn"), model, name, **options), is_over
        )

    def _options(
        self, model: SpeechModel, wish: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        seed, text_only = wish.get("seed"), settings.get("text_only") is True
        sampling = {**object_of(wish.get("sampling")), "seed": -1 if seed is None else seed}
        return reply_options(
            model,
            self.showing.sessions.limits,
            wish.get("style"),
            settings["length"],
            sampling,
            voice=wish.get("voice"),
            text_only=text_only and hasattr(model.sampling, "speaks"),
        )
