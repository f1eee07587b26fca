"""A test with its sounds and ratings as one zip file, which another instance takes up."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

from models.errors import UserError, shown

from .archive import Archive, open_archive
from .definition import ListeningTest, check_answer, check_text, test_of_json
from .limits import MAX_ANSWER_SECONDS, MAX_NAME, MAX_TRIALS, TestLimits
from .plan import Trial
from .results import Rating
from .sounds import digest, unpack
from .store import Store

FORMAT = "westlake-omni listening test 1"
SOUND = re.compile(r"sounds/([0-9a-f]{64})\.flac")
MAX_JSON_BYTES = 32 << 20  # of the test, and of its ratings


def write_package(path: Path, store: Store, code: str) -> None:
    """Write a test, its sounds and its ratings, but no key of anybody's."""
    test = store.test(code)
    ratings = [dataclasses.asdict(rating) for rating in store.ratings(code)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("format.txt", FORMAT)
        file.writestr("test.json", test.to_json())
        text = json.dumps(ratings, ensure_ascii=False, separators=(",", ":"))
        file.writestr("ratings.json", text)
        for name in sound_digests(test):
            sound = zipfile.ZipInfo(f"sounds/{name}.flac")
            file.writestr(sound, store.sound(code, name), zipfile.ZIP_STORED)


def sound_digests(test: ListeningTest) -> list[str]:
    """Of all sounds that a test names: what is rated, and the prompts it was made from."""
    names = [stimulus.digest for stimulus in test.stimuli]
    names += [str(stimulus.settings.get("prompt_sound") or "") for stimulus in test.stimuli]
    return [name for name in dict.fromkeys(names) if name]


def read_package(
    path: Path, limits: TestLimits
) -> tuple[ListeningTest, dict[str, bytes], list[Rating]]:
    """Read what `write_package` wrote; nothing is trusted.

    Returns:
        What `Store.add` takes.

    Raises:
        UserError: it is no such file, too large, or any part of it is not as it must be.
    """
    with open_archive(path, limits.max_bytes + 2 * MAX_JSON_BYTES) as archive:
        if "format.txt" not in archive.names or archive.read("format.txt", 100) != FORMAT.encode():
            raise UserError("error_package_kind")
        test = test_of_json(_text(archive, "test.json"))
        if len(test.stimuli) > limits.max_sounds:
            raise UserError("error_test_sounds", count=len(test.stimuli), limit=limits.max_sounds)
        sounds = {name: _sound(archive, name, limits) for name in sound_digests(test)}
        ratings = _ratings(test, _text(archive, "ratings.json"), limits)
    return test, sounds, ratings


def _text(archive: Archive, name: str) -> str:
    try:
        return archive.read(name, MAX_JSON_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UserError("error_package_damaged", part=name) from error


def _sound(archive: Archive, name: str, limits: TestLimits) -> bytes:
    entry = f"sounds/{name}.flac"
    if not SOUND.fullmatch(entry):
        raise UserError("error_package_damaged", part=shown(entry))
    data = archive.read(entry)
    if digest(data) != name:
        raise UserError("error_package_damaged", part=shown(entry))
    unpack(data, limits.max_seconds)
    return data


def _ratings(test: ListeningTest, text: str, limits: TestLimits) -> list[Rating]:
    try:
        asked = _asked(test)
        ratings = [_rating(test, asked, values) for values in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("error_package_damaged", part="ratings.json") from error
    places = [(rating.rater, rating.position) for rating in ratings]
    num_raters = len({rating.rater for rating in ratings})
    if len(set(places)) != len(places) or num_raters > limits.max_raters:
        raise UserError("error_package_damaged", part="ratings.json")
    return ratings


def _rating(test: ListeningTest, asked: set[tuple[int, ...]], values: dict[str, Any]) -> Rating:
    trial = Trial(sounds=tuple(values["trial"]["sounds"]), reference=values["trial"]["reference"])
    check_text("name", values["rater"], MAX_NAME, may_be_empty=False)
    places = [*trial.sounds, *([] if trial.reference is None else [trial.reference])]
    position, seconds = values["position"], values["seconds"]
    is_right = (
        bool(trial.sounds)
        and all(type(place) is int and 0 <= place < len(test.stimuli) for place in places)
        and (type(position) is int and 0 <= position < MAX_TRIALS)
        and (type(seconds) in (int, float) and 0 <= seconds <= MAX_ANSWER_SECONDS)
        and tuple(sorted(trial.sounds)) in asked
        and _has_reference(test, trial)
    )
    if not is_right:
        raise ValueError("a rating of another form")
    check_answer(test, len(trial.sounds), values["answer"])
    time = datetime.fromisoformat(values["time"]).isoformat()
    return Rating(
        rater=values["rater"].strip(), position=position, trial=trial, answer=values["answer"],
        seconds=float(seconds), time=time,
    )  # fmt: skip


def _asked(test: ListeningTest) -> set[tuple[int, ...]]:
    """The sounds of all that a test of this kind asks, each in the order of their numbers."""
    if test.kind in ("mos", "emotion"):
        return {(index,) for index in range(len(test.stimuli))}
    together = test.complete_prompts if test.kind == "mushra" else test.pairs
    return {tuple(sorted(sounds)) for sounds in together}


def _has_reference(test: ListeningTest, trial: Trial) -> bool:
    """Whether there is a reference where a test of this kind has one, and only there."""
    if test.kind in ("mushra", "abx"):
        return trial.reference in trial.sounds
    return trial.reference is None
