"""What is said, recorded once: the teacher is slow, so its clean waves are kept in shards."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..files import replacing
from .speakers import (
    PLAIN,
    STYLE_PROSODY,
    USER_PROSODY,
    Speaker,
    assistant,
    draw_other_user,
    draw_plain_user,
    draw_user,
)
from .teacher import Prosody, model_file, voice_names

SHARD_SIZE = 48


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line to be said.

    Fields:
        source: the intent's name or, for a follow-up question, `follow.<kind>`.
        manner: the user's emotion, or `speakers.PLAIN` or `UNTOLD`; or the assistant's style.
        seed: of the user's voice; None: the assistant speaks, or somebody whom nobody draws.
        heldout: whether the voice is one kept for the evaluation.
        other: the user's voice is a blend of all of Kokoro's; not for `speakers.PLAIN`.
    """

    source: str
    text: str
    manner: str
    seed: int | None = None
    heldout: bool = False
    other: bool = False


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A line as it was said: wave [T] int16 at 22,050 Hz, and where its characters begin, in s,
    nowhere if nobody knows."""

    line: Line
    wave: np.ndarray
    onsets: tuple[float, ...]


def record(lines: Sequence[Line], folder: Path, workers: int, voices: Path | None = None) -> None:
    """Say all lines, in order, into shards of the folder; what is there already is kept.

    Args:
        workers: processes that speak; 1: this one does.
        voices: folder of all of Kokoro's voices, for lines of `other` users.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = missing_shards(lines, folder)
    with _processes(workers) as pool:
        done = (pool.map if pool else map)(partial(_record_shard, voices), missing)
        list(tqdm(done, total=len(missing), desc=folder.name))


def missing_shards(lines: Sequence[Line], folder: Path) -> list[tuple[Path, Sequence[Line]]]:
    """The shards of the folder that `record` has not written yet, and the lines of each."""
    shards = [
        (folder / f"{start // SHARD_SIZE:04d}.npz", lines[start : start + SHARD_SIZE])
        for start in range(0, len(lines), SHARD_SIZE)
    ]
    return [shard for shard in shards if not shard[0].exists()]


def _processes(workers: int) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """None where one worker, this process, is enough."""
    if workers == 1:
        return nullcontext()
    model_file()  # which they would put together in each other's way
    # Not forked: what torch's threads held would be held for ever.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def read(folder: Path) -> Iterator[Recording]:
    """What `record` has put there so far."""
    for path in sorted(folder.glob("*.npz")):
        yield from read_shard(path)


def read_shard(path: Path) -> Iterator[Recording]:
    """One of its files."""
    shard = np.load(path)
    entries = json.loads(str(shard["lines"]))
    waves = np.split(shard["waves"], np.cumsum(shard["lengths"])[:-1])
    for entry, wave in zip(entries, waves):
        onsets = tuple(entry.pop("onsets"))
        yield Recording(line=Line(**entry), wave=wave, onsets=onsets)


def write_shard(path: Path, said: Sequence[Recording]) -> None:
    """Keep recordings in a file that `read_shard` reads."""
    entries = [asdict(r.line) | {"onsets": [round(onset, 4) for onset in r.onsets]} for r in said]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            lines=json.dumps(entries, ensure_ascii=False),
            lengths=np.array([len(r.wave) for r in said]),
            waves=np.concatenate([r.wave for r in said]),
        )


def _record_shard(voices: Path | None, shard: tuple[Path, Sequence[Line]]) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    path, lines = shard
    said = []
    for line in lines:
        speaker, prosody = _cast(line, voices)
        wave, onsets = speaker.say(line.text, prosody, voices)
        said.append(
            Recording(line=line, wave=(wave * 32767).astype(np.int16), onsets=tuple(onsets))
        )
    write_shard(path, said)


def _cast(line: Line, voices: Path | None) -> tuple[Speaker, Prosody]:
    """Who says a line, and how."""
    if line.seed is None:
        return assistant(), STYLE_PROSODY[line.manner]
    rng = np.random.default_rng(line.seed)
    if line.manner == PLAIN:
        return draw_plain_user(rng, line.heldout), Prosody()
    if line.other:
        return draw_other_user(rng, voice_names(voices), line.heldout), USER_PROSODY[line.manner]
    return draw_user(rng, line.heldout), USER_PROSODY[line.manner]
