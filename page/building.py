"""A visitor's wishes for a listening test -> the test, with its progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from listening.definition import ListeningTest
from listening.folder import read_folder
from listening.limits import MAX_CONDITIONS, TestLimits
from listening.making import Condition, Prompt, make_sample, recorded_prompt
from listening.sample import Sample, new_test
from models.contract import SpeechModel
from models.errors import UserError

from .checks import check_text, reply_options
from .files import Files
from .limiter import Limiter
from .limits import Limits
from .metrics import measured
from .shelf import Shelf

MEMORY = 8  # times what a test may take where it is stored, for its samples as floats
BUSY_TRIES = 12  # to get a slot, each of `Limits.wait_seconds`


@dataclass(frozen=True, kw_only=True)
class Progress:
    """So many of a test's sounds are made; `test` and its `sounds` come with the last."""

    done: int
    total: int
    test: ListeningTest | None = None
    sounds: dict[str, bytes] | None = None


class Builder:
    """Makes tests.

    Args:
        shelf: the models that may be used.
        files: where visitors' uploads lie.
        limiter: of the work that all make together.
        log_content: the log may hold what is said.
    """

    def __init__(
        self,
        shelf: Shelf,
        files: Files,
        limiter: Limiter,
        limits: Limits,
        sizes: TestLimits,
        log_content: bool = False,
    ) -> None:
        self.shelf, self.files, self.limiter = shelf, files, limiter
        self.limits, self.sizes, self.log_content = limits, sizes, log_content

    def build(self, wish: dict[str, Any], visitor: str, stop: Event) -> Iterator[Progress]:
        """Make a test.

        Args:
            wish: as compare.js sends it: kind, title, question, reference, and either `folder`,
                an uploaded zip file, or `conditions`, `texts` and `recordings`.
            stop: when set, no further sound is made.

        Raises:
            UserError: a wish that can't be.
        """
        kind, samples = str(wish.get("kind")), []
        if wish.get("folder"):
            path = Path(self.files.check(wish["folder"], visitor))
            for sample in read_folder(path, self.sizes):
                samples.append(sample)
                self._check_size(samples)
            words = tuple(dict.fromkeys(sample.condition for sample in samples))
            samples = [Sample(**{**vars(item), "word": item.condition}) for item in samples]
            total = len(samples)
        else:
            conditions = [self._condition(given) for given in _list(wish, "conditions")]
            prompts = self._prompts(wish, visitor)
            total = self._check_total(conditions, prompts)
            words = self._words(conditions)
            yield Progress(done=0, total=total)
            try:
                for sample in self._samples(conditions, prompts, stop):
                    samples.append(sample)
                    self._check_size(samples)
                    yield Progress(done=len(samples), total=total)
                    if stop.is_set():
                        return
            except UserError:
                if stop.is_set():  # a reply that it ended may have no sound
                    return
                raise
        reference = wish.get("reference") if kind == "mushra" else None
        test, sounds = new_test(
            kind, wish.get("title", ""), samples, question=wish.get("question", ""),
            reference=reference, words=words if kind == "emotion" else (),
        )  # fmt: skip
        yield Progress(done=total, total=total, test=test, sounds=sounds)

    def _condition(self, given: Any) -> Condition:
        if not isinstance(given, dict):
            raise UserError("error_request")
        source, name = given.get("source", "reply"), given.get("model", "")
        values: dict[str, Any] = {"name": given.get("name"), "source": source, "model": name}
        if source == "reply":
            values |= self._reply_settings(given, self.shelf.get(str(name)))
        return Condition(**values)

    def _reply_settings(self, given: dict, model: SpeechModel) -> dict[str, Any]:
        sampling = given.get("sampling")
        sampling = sampling if isinstance(sampling, dict) else {}
        seed = given.get("seed")
        asked = {**sampling, "seed": -1 if seed is None else seed}
        seconds = self.limits.reply_seconds
        style, voice = given.get("style") or "", given.get("voice") or ""
        options = reply_options(model, self.limits, style, seconds, asked, voice=voice)
        names = [field.name for field in model.sampling_fields if field.name in sampling]
        return {
            "style": options["style"],
            "voice": options["voice"],
            "sampling": {name: getattr(options["sampling"], name) for name in names},
            "seed": options["sampling"].seed,
            "max_seconds": seconds,
        }

    def _prompts(self, wish: dict, visitor: str) -> list[Prompt]:
        texts = [check_text(text, self.limits) for text in _list(wish, "texts")]
        prompts = [Prompt(name=_name(text, i), text=text) for i, text in enumerate(texts, 1)]
        for i, given in enumerate(_list(wish, "recordings"), len(prompts) + 1):
            path = Path(self.files.check(given, visitor))
            prompts.append(recorded_prompt(_name(path.stem, i), path, self.sizes))
        return prompts

    def _check_total(self, conditions: list, prompts: list) -> int:
        if len(conditions) > MAX_CONDITIONS:
            count = len(conditions)
            raise UserError("error_test_conditions", count=count, limit=MAX_CONDITIONS)
        total = len(conditions) * len(prompts)
        if total > self.sizes.max_sounds:
            raise UserError("error_test_sounds", count=total, limit=self.sizes.max_sounds)
        if not total:
            raise UserError("error_test_too_few")
        return total

    def _check_size(self, samples: list[Sample]) -> None:
        """All of them are in memory until the test is kept."""
        size, limit = sum(item.samples.nbytes for item in samples), MEMORY * self.sizes.max_bytes
        if size > limit:
            raise UserError("error_test_large", size=size, limit=limit)

    def _words(self, conditions: list[Condition]) -> tuple[str, ...]:
        models = [self.shelf.get(item.model) for item in conditions if item.source == "reply"]
        return tuple(dict.fromkeys(style for model in models for style in model.styles))

    def _samples(
        self, conditions: list[Condition], prompts: list[Prompt], stop: Event
    ) -> Iterator[Sample]:
        for condition in conditions:
            for prompt in prompts:
                sample = self._made(condition, prompt, stop)
                yield Sample(**{**vars(sample), "word": sample.settings.get("style")})

    def _made(self, condition: Condition, prompt: Prompt, stop: Event) -> Sample:
        for tries_left in reversed(range(BUSY_TRIES)):
            try:
                with self.limiter.reply():
                    return make_sample(
                        condition, prompt, self.shelf.get, self.sizes,
                        stop=stop, log_content=self.log_content,
                        watch=lambda chunks: measured(chunks, time.monotonic(), stop),
                    )  # fmt: skip
            except UserError as error:
                if error.code != "error_busy" or not tries_left or stop.is_set():
                    raise
        raise UserError("error_busy")


def _list(wish: dict, name: str) -> list:
    value = wish.get(name, [])
    if not isinstance(value, list) or len(value) > 1000:
        raise UserError("error_request")
    return value


def _name(text: str, number: int) -> str:
    """A prompt's name, which its number makes unique."""
    return f"{number} {' '.join(text.split())[:40]}".strip()
