"""The tab of listening tests: they are built, rated, and their results shown."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from itertools import count
from math import isfinite
from pathlib import Path
from threading import Event, Lock
from typing import Any

import gradio as gr

from listening.limits import MAX_ANSWER_SECONDS
from listening.package import read_package, write_package
from listening.results import summarise, to_csv
from listening.room import Maker
from listening.sounds import as_wav
from listening.store import Rater, Store
from models.contract import SpeechModel

from . import words
from .building import Builder
from .calls import BUILD, LOADING, QUICK, WHO, visitor_of
from .checks import read_object
from .sessions import Sessions
from .shelf import Shelf, offer_of
from .talk import offered_recordings
from .told import fault_of

MAX_RATERS_HERE = 256  # visitors whose last sounds are known
SCRIPTS = ("dom.js", "compare.js", "build.js", "rate.js", "results.js")
# Whoever was sent the address of a test comes to its tab.
OPEN_TEST = """() => {
  const isAsked = new URLSearchParams(location.search).has("test");
  if (isAsked) document.querySelector("#compare-tab-button").click();
}"""


class CompareTab:
    """The tab's components and what they do; to be made within a `gr.Tab`.

    Args:
        sessions: what all tabs share: the model, the files, the limits.
        store: where tests and ratings are kept.
        shelf: the models that tests may use.
    """

    def __init__(self, sessions: Sessions, store: Store, shelf: Shelf) -> None:
        self.files, self.store, self.shelf = sessions.files, store, shelf
        self.builder = Builder(
            shelf, self.files, sessions.limiter, sessions.limits, store.limits,
            sessions.log_content,
        )  # fmt: skip
        self._offered: OrderedDict[str, list[str]] = OrderedDict()  # a rater's sounds, by visitor
        self._stops: dict[str, Event] = {}
        self._numbers = count()  # of answers: the same one twice is heard twice
        self._lock = Lock()
        served = shelf.get(shelf.names[0])
        gr.HTML(
            "",
            html_template='<div class="tests"></div>',
            js_on_load="".join(map(words.asset, SCRIPTS)),
            elem_id="compare",
            apply_default_css=False,
            offer=self._offer(served),
            examples=words.example_texts(served),
        )
        self.heard = gr.HTML(
            "",
            html_template="",
            js_on_load="watch('value', () => window.testsHeard?.(JSON.parse(props.value)));",
            visible="hidden",
        )
        built = self._wire(BUILD, self._build, concurrency_id=BUILD, concurrency_limit=1)
        self._wire("stop", self._stop, cancels=[built], **QUICK)
        self._wire("settings", self._settings, trigger_mode="multiple", **LOADING)
        for name, steps in (
            ("take", self._take),
            ("rate", self._rate),
            ("results", self._results),
            ("hear", self._hear),
            ("export", self._export),
            ("bring", self._bring),
            ("remove", self._remove),
        ):
            self._wire(name, steps, **QUICK)

    def _offer(self, served: SpeechModel) -> dict[str, Any]:
        """What conditions may be made of, as build.js needs it; of other models see `_settings`."""
        return {
            "models": list(self.shelf.names),
            **offer_of(served),
            "recordings": offered_recordings(served),
        }

    def _settings(self, value: dict, request: gr.Request) -> Iterator[dict]:
        """What may be set of a model's replies; it is loaded, if it was not."""
        name = str(value.get("model"))
        yield {"offer": {"model": name, **offer_of(self.shelf.get(name))}}

    def _wire(self, name: str, steps: Callable[..., Iterator[dict]], **queue: Any) -> Any:
        """What the scripts ask of the server: `testsAsk.<name>(value)`; the event that it is."""
        wire = gr.HTML(
            "",
            html_template="",
            js_on_load=f"(window.testsAsk ??= {{}})['{name}'] = (value) => "
            "{ props.value = JSON.stringify(value); trigger('input'); };",
            visible="hidden",
        )

        def handle(request: gr.Request, value: object) -> Generator[str]:
            for step in _told(lambda given: steps(given, request), value):
                answer = {"to": name, "number": next(self._numbers), **step}
                yield json.dumps(answer).replace("<", "\\u003c")

        handle.__name__ = f"_tests_{name}"
        return wire.input(
            handle, wire, self.heard, show_progress="hidden", api_visibility="private", **queue
        )

    def _build(self, wish: dict, request: gr.Request) -> Iterator[dict]:
        visitor = visitor_of(request.session_hash)
        stop = Event()
        with self._lock:
            self._stops[visitor] = stop
        try:
            for step in self.builder.build(wish, visitor, stop):
                if step.test is None or step.sounds is None:
                    yield {"done": step.done, "total": step.total}
                    continue
                code, key = self.store.add(step.test, step.sounds, maker=_maker(request))
                is_told = False
                try:
                    if not stop.is_set():
                        yield {"built": {"code": code, "key": key, "title": step.test.title}}
                        is_told = not stop.is_set()
                finally:
                    if not is_told:  # nobody has its key
                        self.store.remove(key)
            if stop.is_set():
                yield {"stopped": True}
        finally:
            stop.set()
            with self._lock:
                if self._stops.get(visitor) is stop:
                    del self._stops[visitor]

    def _stop(self, value: dict, request: gr.Request) -> Iterator[dict]:
        """End what is built; one that still waits has left the queue with this event."""
        visitor = visitor_of(request.session_hash)
        with self._lock:
            stop = self._stops.get(visitor)
        if stop:
            stop.set()
        yield {}

    def _take(self, value: dict, request: gr.Request) -> Iterator[dict]:
        """A rater begins, or goes on."""
        yield self._trial(value.get("code"), self._rater(value), visitor_of(request.session_hash))

    def _rate(self, value: dict, request: gr.Request) -> Iterator[dict]:
        code: Any = value.get("code")
        position: Any = value.get("position")
        seconds: Any = value.get("seconds")
        is_time = type(seconds) in (int, float) and 0 <= seconds <= MAX_ANSWER_SECONDS
        rater, seconds = self._rater(value), float(seconds) if is_time else 0.0
        num_done = self.store.rate(code, rater, position, value.get("answer"), seconds)
        rater = dataclasses.replace(rater, num_done=num_done)
        yield self._trial(code, rater, visitor_of(request.session_hash))

    def _rater(self, value: dict) -> Rater:
        return self.store.join(value.get("code", ""), value.get("name", ""), value.get("key", ""))

    def _trial(self, code: Any, rater: Rater, visitor: str) -> dict:
        """What the rater is asked next; of the sounds nothing but the sounds."""
        test, total = rater.test, len(rater.trials)
        shown: dict[str, Any] = {
            "code": code, "name": rater.name, "key": rater.key, "title": test.title,
            "kind": test.kind, "question": test.question, "position": rater.num_done,
            "total": total,
        }  # fmt: skip
        self._take_back(visitor)
        if rater.num_done == total:
            return {"trial": shown | {"sounds": []}}
        trial = rater.trials[rater.num_done]
        heard = [*trial.sounds, *([] if trial.reference is None else [trial.reference])]
        sounds = [self._sound(code, test.stimuli[index].digest, visitor) for index in heard]
        shown["sounds"] = sounds[: len(trial.sounds)]
        shown["reference"] = sounds[-1] if trial.reference is not None else None
        shown["words"] = [{"value": word, **words.each(word)} for word in test.words]
        return {"trial": shown}

    def _sound(self, code: str, digest: str, visitor: str) -> str:
        """A file whose name tells nothing."""
        sound = as_wav(self.store.sound(code, digest))
        path = self.files.make("sound.wav", lambda path: path.write_bytes(sound), visitor)
        with self._lock:
            self._offered.setdefault(visitor, []).append(path)
        return path

    def _take_back(self, visitor: str) -> None:
        """Remove the sounds of the question before, which the page holds itself."""
        with self._lock:
            paths = self._offered.pop(visitor, [])
            if len(self._offered) > MAX_RATERS_HERE:
                self._offered.popitem(last=False)
        for path in paths:
            self.files.remove(path)

    def _results(self, value: dict, request: gr.Request) -> Iterator[dict]:
        visitor = visitor_of(request.session_hash)
        code, test = self.store.owned(value.get("key", ""))
        ratings = self.store.ratings(code)
        found = summarise(test, ratings)
        self._take_back(visitor)
        table = to_csv(test, ratings).encode("utf-8-sig")
        csv = self.files.make("ratings.csv", lambda path: path.write_bytes(table), visitor)
        sounds = [
            {
                "condition": stimulus.condition, "prompt": stimulus.prompt,
                "settings": stimulus.settings, "digest": stimulus.digest,
            }
            for stimulus in test.stimuli
        ]  # fmt: skip
        yield {
            "results": {
                "code": code, "key": value["key"], "title": test.title, "kind": test.kind,
                "estimates": {
                    name: {key: number if isfinite(number) else None for key, number in
                           vars(estimate).items()}
                    for name, estimate in found.estimates.items()
                },
                "comparisons": [vars(comparison) for comparison in found.comparisons],
                "confusions": [
                    {"meant": meant, "chosen": chosen, "count": count}
                    for (meant, chosen), count in found.confusions.items()
                ],
                "words": {word: words.each(word) for word in test.words},
                "num_raters": found.num_raters, "num_ratings": found.num_ratings,
                "left_out": found.left_out, "csv": csv, "sounds": sounds,
            }
        }  # fmt: skip

    def _hear(self, value: dict, request: gr.Request) -> Iterator[dict]:
        """A sound of the results, for the one who built the test."""
        visitor = visitor_of(request.session_hash)
        code, _ = self.store.owned(value.get("key", ""))
        digest = str(value.get("digest", ""))
        yield {"digest": digest, "path": self._sound(code, digest, visitor)}

    def _export(self, value: dict, request: gr.Request) -> Iterator[dict]:
        visitor = visitor_of(request.session_hash)
        code, _ = self.store.owned(value.get("key", ""))
        name = f"listening-test-{code}.zip"
        path = self.files.make(name, lambda path: write_package(path, self.store, code), visitor)
        yield {"package": path}

    def _bring(self, value: dict, request: gr.Request) -> Iterator[dict]:
        """Take up what another instance has exported."""
        visitor = visitor_of(request.session_hash)
        path = self.files.check(value.get("package"), visitor)
        test, sounds, ratings = read_package(Path(path), self.store.limits)
        code, key = self.store.add(test, sounds, ratings, _maker(request))
        self.files.remove(path)
        yield {"built": {"code": code, "key": key, "title": test.title}}

    def _remove(self, value: dict, request: gr.Request) -> Iterator[dict]:
        self.store.remove(str(value.get("key", "")))
        yield {"removed": value.get("key", "")}


def _maker(request: gr.Request) -> Maker:
    user, address = getattr(request.state, WHO)
    return Maker(user=user, address=address)


def _told(steps: Callable[[dict], Iterator[dict]], value: object) -> Iterator[dict]:
    """The steps of what was asked; a fault is said where it was asked."""
    try:
        yield from steps(read_object(value))
    except Exception as error:
        fault = fault_of(error)
        yield {"fault": words.each(fault.code, **fault.values)}
