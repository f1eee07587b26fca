"""Recordings of the dialogues' lines that somebody else made: of people, or of other teachers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from shutil import rmtree

from models.audio import load_audio, resample, to_pcm16
from models.errors import UserError
from models.level import level_speech

from ..dialogues import EMOTIONS, UNTOLD, Dialogues
from .recordings import SHARD_SIZE, Line, Recording, read, write_shard
from .speakers import SAMPLE_RATE

LINES_FILE = "lines.tsv"


class GivenError(ValueError):
    """What is wrong with a folder of recordings."""


def given_lines(folder: Path, dialogues: Dialogues) -> list[tuple[Path, Line]]:
    """The sounds of a folder and what is said in them, as its `lines.tsv` tells: a row each of the
    sound's path in the folder, the intent, or `follow.how` or `follow.more`, the emotion that is
    heard, or `untold`, and the text, one of that intent's `user` lines, with tabs between.

    Raises:
        GivenError: no such file, no row, or one that breaks its format or names what is not there.
    """
    table = folder / LINES_FILE
    try:
        rows = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GivenError(
            f"{table} can't be read as UTF-8 text: write a row of sound, intent, emotion and text "
            "for each recording, with tabs between"
        ) from error
    if not rows:
        raise GivenError(f"{table} has no row: write one for each recording")
    known = {intent.name: intent.users for intent in dialogues.intents}
    known |= {f"follow.{kind}": users for kind, (users, _) in dialogues.followups.items()}
    texts = {name: set(users) for name, users in known.items()}
    return [_line(folder, row, f"{table}:{n}", texts) for n, row in enumerate(rows, start=1)]


def _line(folder: Path, row: str, where: str, texts: Mapping[str, set[str]]) -> tuple[Path, Line]:
    parts = row.split("\t")
    if len(parts) != 4:
        raise GivenError(f"{where}: {len(parts)} parts: give sound, intent, emotion and text")
    sound, source, manner, text = parts
    if not (folder / sound).is_file():
        raise GivenError(f"{where}: {sound} is not there: give a file of the folder")
    if source not in texts:
        raise GivenError(f"{where}: no intent {source!r}: give one of training/data")
    if manner not in (*EMOTIONS, UNTOLD):
        allowed = ", ".join((*EMOTIONS, UNTOLD))
        raise GivenError(f"{where}: emotion {manner!r}: give one of {allowed}")
    if text not in texts[source]:
        raise GivenError(
            f"{where}: {text!r} is no line that {source} is trained on: leave the row out, or say "
            "one of its 'user' lines in training/data"
        )
    return folder / sound, Line(source=source, text=text, manner=manner)


def take_over(folder: Path, dialogues: Dialogues, takes: Path) -> None:
    """Keep the recordings of a folder among the takes, all or none.

    Raises:
        GivenError: see `given_lines`; a sound that can't be read, or is silent; takes of others.
    """
    lines = given_lines(folder, dialogues)
    if takes.exists():
        if [recording.line for recording in read(takes)] != [line for _, line in lines]:
            raise GivenError(
                f"{takes} holds other recordings than {folder / LINES_FILE} tells: remove it, and "
                "users/given-* beside the takes, to have these"
            )
        return
    unfinished = takes.with_name(f"{takes.name}.unfinished")
    rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    recordings = _recordings(lines)
    for number in count():
        if not (shard := list(islice(recordings, SHARD_SIZE))):
            break
        write_shard(unfinished / f"{number:04d}.npz", shard)
    unfinished.rename(takes)


def _recordings(lines: list[tuple[Path, Line]]) -> Iterator[Recording]:
    for path, line in lines:
        try:
            wave = resample(level_speech(load_audio(path)), SAMPLE_RATE)
        except UserError as error:
            raise GivenError(f"{path}: {error}") from error
        yield Recording(line=line, wave=to_pcm16(wave), onsets=())
