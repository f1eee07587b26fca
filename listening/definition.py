"""What a listening test is: its kind, its sounds, and what may be answered."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from models.errors import UserError, shown

from .limits import (
    MAX_CONDITIONS,
    MAX_NAME,
    MAX_SETTINGS,
    MAX_STIMULI,
    MAX_TEXT,
    MAX_TITLE,
    MAX_WORDS,
)

KINDS = ("mos", "ab", "abx", "mushra", "emotion")
ANCHOR = "anchor"  # the condition that a MUSHRA test adds: the reference without its highs
A, B, NEITHER = 0, 1, -1  # answers of A/B and ABX
MOS_SCORES = range(1, 6)
MUSHRA_SCORES = range(0, 101)


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """One sound of a test.

    Fields:
        condition, prompt: names; together they name the sound.
        digest: of the sound as it is stored, SHA-256 in hex.
        settings: how it was made, so that it can be made again; JSON values.
        word: that a rater ought to choose, in a test of emotions.
    """

    condition: str
    prompt: str
    digest: str
    settings: dict[str, Any] = field(default_factory=dict)
    word: str | None = None


@dataclass(frozen=True, kw_only=True)
class ListeningTest:
    """A test without its sounds, which lie where their digests lead.

    Fields:
        kind: of `KINDS`.
        title, question: as raters read them; no question for the kind's own.
        seed: that every rater's order is drawn from, with the rater's name.
        reference: the condition that a MUSHRA test measures by.
        words: of which a rater chooses one, in a test of emotions.

    Raises:
        UserError: a value of another type or size, sounds of the same name, or too few of them.
    """

    kind: str
    title: str
    seed: int
    stimuli: tuple[Stimulus, ...]
    question: str = ""
    reference: str | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            allowed = ", ".join(KINDS)
            raise UserError("error_test_kind", kind=shown(self.kind), allowed=allowed)
        check_text("title", self.title, MAX_TITLE, may_be_empty=False)
        check_text("question", self.question, MAX_TEXT)
        if len(self.stimuli) > MAX_STIMULI:
            raise UserError("error_test_sounds", count=len(self.stimuli), limit=MAX_STIMULI)
        for stimulus in self.stimuli:
            _check_stimulus(stimulus)
        if type(self.seed) is not int or not 0 <= self.seed < 2**53:
            raise UserError("error_test_part", part="seed", value=shown(self.seed))
        names = [(stimulus.condition, stimulus.prompt) for stimulus in self.stimuli]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise UserError("error_test_doubled", name=shown(" / ".join(doubled[0])))
        if len(self.conditions) > MAX_CONDITIONS + 1:
            count, limit = len(self.conditions), MAX_CONDITIONS
            raise UserError("error_test_conditions", count=count, limit=limit)
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind == "emotion":
            for word in self.words:
                check_text("word", word, MAX_NAME, may_be_empty=False)
            asked = {stimulus.word for stimulus in self.stimuli}
            is_right = 2 <= len(set(self.words)) == len(self.words) <= MAX_WORDS
            if not is_right or not asked <= set(self.words):
                raise UserError("error_test_words", limit=MAX_WORDS)
        elif self.words:
            raise UserError("error_test_part", part="words", value=shown(self.words))
        if self.kind == "mushra" and self.reference not in self.conditions:
            raise UserError("error_test_reference")
        if self.kind != "mushra" and self.reference is not None:
            raise UserError("error_test_part", part="reference", value=shown(self.reference))
        num_asked = len(self.stimuli)
        if self.kind in ("ab", "abx"):
            num_asked = len(self.pairs)
        if self.kind == "mushra":
            num_asked = len(self.complete_prompts)
        if not num_asked:
            raise UserError("error_test_too_few")

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stimulus.condition for stimulus in self.stimuli))

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stimulus.prompt for stimulus in self.stimuli))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Two sounds of the same prompt, as indices, for every two conditions."""
        places = self._places()
        return [
            (places[first, prompt], places[second, prompt])
            for first, second in combinations(self.conditions, 2)
            for prompt in self.prompts
            if (first, prompt) in places and (second, prompt) in places
        ]

    @property
    def complete_prompts(self) -> list[tuple[int, ...]]:
        """All conditions' sounds, as indices, of each prompt that has them all, at least two."""
        places, conditions = self._places(), self.conditions
        return [
            tuple(places[condition, prompt] for condition in conditions)
            for prompt in self.prompts
            if len(conditions) > 1 and all((name, prompt) in places for name in conditions)
        ]

    def _places(self) -> dict[tuple[str, str], int]:
        return {(item.condition, item.prompt): i for i, item in enumerate(self.stimuli)}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


def test_of_json(text: str) -> ListeningTest:
    """The test that `to_json` wrote.

    Raises:
        UserError: it is damaged, or holds what no test may hold.
    """
    try:
        values = json.loads(text)
        stimuli = tuple(Stimulus(**stimulus) for stimulus in values.pop("stimuli"))
        return ListeningTest(**{**values, "words": tuple(values["words"]), "stimuli": stimuli})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("error_package_damaged", part="test.json") from error


test_of_json.__test__ = False  # type: ignore[attr-defined]  # its name begins as a test's does


def check_answer(test: ListeningTest, num_sounds: int, answer: Any) -> None:
    """Raise a UserError unless a rater may answer this.

    Args:
        num_sounds: of the trial, but for an open reference.
    """
    if test.kind == "emotion":
        is_right = answer in test.words if isinstance(answer, str) else False
    elif test.kind == "mushra":
        is_right = isinstance(answer, list) and len(answer) == num_sounds
        is_right = is_right and all(_is_in(score, MUSHRA_SCORES) for score in answer)
    else:
        allowed = {"mos": MOS_SCORES, "ab": (A, B, NEITHER), "abx": (A, B)}[test.kind]
        is_right = _is_in(answer, allowed)
    if not is_right:
        raise UserError("error_test_answer", value=shown(answer))


def check_text(part: str, text: object, limit: int, *, may_be_empty: bool = True) -> None:
    """Raise a UserError unless it is a printable text of so many characters at most."""
    is_text = isinstance(text, str) and len(text) <= limit and (may_be_empty or text.strip())
    if not is_text or "\0" in str(text) or not is_unicode(str(text)):
        raise UserError("error_test_text", part=part, value=shown(text), limit=limit)


def is_unicode(text: object) -> bool:
    """Whether it is a text without half characters, which can't be stored."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_in(value: object, allowed) -> bool:
    return type(value) is int and value in allowed


def _check_stimulus(stimulus: Stimulus) -> None:
    check_text("condition", stimulus.condition, MAX_NAME, may_be_empty=False)
    check_text("prompt", stimulus.prompt, MAX_NAME, may_be_empty=False)
    is_digest = isinstance(stimulus.digest, str) and len(stimulus.digest) == 64
    if not is_digest or not set(stimulus.digest) <= set("0123456789abcdef"):
        raise UserError("error_test_part", part="digest", value=shown(stimulus.digest))
    if not isinstance(stimulus.settings, dict):
        raise UserError("error_test_part", part="settings", value=shown(stimulus.settings))
    settings = json.dumps(stimulus.settings, ensure_ascii=False, allow_nan=False)
    check_text("settings", settings, MAX_SETTINGS)
    if stimulus.word is not None:
        check_text("word", stimulus.word, MAX_NAME, may_be_empty=False)
