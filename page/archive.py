"""A conversation as a zip file: its sounds, texts, settings and seeds, and what the model keeps."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from listening.archive import DAMAGED
from listening.definition import is_unicode
from models.audio import load_audio, to_pcm16
from models.audio_output import write_pcm16
from models.contract import Conversation, SpeechModel
from models.errors import UserError
from models.hub import public_name

from .files import written
from .limits import MIB, Limits
from .turn import ShownTurn

FORMAT = 1
DESCRIPTION, STATE = "conversation.json", "conversation"
MAX_TURNS = 200
MAX_DIRECTORY = 256 * 1024  # bytes
END = struct.Struct("<4s4H2IH")  # a zip file's last bytes, without a comment
ENTRY_BYTES = 512  # that a zip file takes at most to name one of its files
PACKING_SHARE = 1 / 2048  # of a file's size, more than packing adds to what can't be packed
# Endings of what users show: browsers take a file for nothing else by them.
SHOWN = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"),
    "video": (".mp4", ".mov", ".webm", ".mkv", ".3gp", ".m4v"),
}
WORD = 40  # characters of an emotion, a style
SYLLABLE = 7  # characters of pinyin at most, with its blank


def write_archive(
    path: Path,
    model: SpeechModel,
    turns: list[ShownTurn],
    state: Path,
    settings: dict[str, Any],
    limits: Limits,
) -> int:
    """Write a conversation: all of it, or as many of its last turns as `read_archive` takes.

    Args:
        path: of the zip file.
        state: the conversation's own file.
        settings: as the page has them now.

    Returns:
        How many turns were left out, the first ones.

    Raises:
        UserError: not even the last turn can be read again.
    """
    about = {
        "format": FORMAT,
        "model": public_name(model.name),
        "sample_rate": model.sample_rate,
        "settings": settings,
        "turns": [],
    }
    state_bytes = _num_packed(state.stat().st_size)
    num_kept = _num_fitting(turns, _num_bytes(about), state_bytes, limits)
    if not num_kept:
        size = limits.max_upload_bytes / MIB
        raise UserError("error_too_large_to_save", limit=f"{size:g} MB")
    num_left_out = len(turns) - num_kept
    entries = [_entry(*numbered) for numbered in enumerate(turns[num_left_out:], 1)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for _, files in entries:
            for name, file in files.items():
                archive.write(file, name)
        about["turns"] = [entry for entry, _ in entries]
        archive.writestr(DESCRIPTION, _description(about))
        archive.write(state, STATE)
    return num_left_out


def _num_fitting(turns: list[ShownTurn], about_bytes: int, state_bytes: int, limits: Limits) -> int:
    """How many of the last turns can be uploaded and read again, beside what is always there."""
    text_room = MIB - about_bytes
    room = limits.max_upload_bytes - _num_packed(about_bytes) - state_bytes
    sound_room = limits.max_user_bytes
    if room < 0:
        return 0
    for number, turn in enumerate(reversed(turns)):
        entry, files = _entry(1, turn)
        text_bytes = _num_bytes({"turns": [entry]})
        sizes = [file.stat().st_size for file in files.values()]
        text_room, sound_room = text_room - text_bytes, sound_room - sum(sizes)
        room -= text_bytes + sum(map(_num_packed, sizes))
        if number == MAX_TURNS or min(room, text_room, sound_room) < 0:
            return number
    return len(turns)


def _num_packed(size: int) -> int:
    """Bytes that a zip file takes at most for a file of so many."""
    return size + math.ceil(PACKING_SHARE * size) + ENTRY_BYTES


def _description(about: dict[str, Any]) -> str:
    return json.dumps(about, ensure_ascii=False, indent=1)


def _num_bytes(about: dict[str, Any]) -> int:
    return len(_description(about).encode())


def _entry(number: int, turn: ShownTurn) -> tuple[dict[str, Any], dict[str, Path]]:
    """A turn's description, and its files by their names in the archive."""
    files = {}

    def add(path: str | None, who: str) -> str | None:
        if not path or not Path(path).is_file():
            return None
        ending = Path(path).suffix
        allowed = SHOWN.get(who, (ending,))  # a picture is known by its content, whatever its name
        name = f"{number:03d}-{who}{ending if ending.lower() in allowed else allowed[0]}"
        files[name] = Path(path)
        return name

    return {
        "name": turn.name,
        "again_of": turn.again_of,
        "beside": turn.beside,
        "knows_before": turn.knows_before,
        "model": turn.model,
        "text": turn.text,
        "audio": add(turn.audio, "user"),
        "image": add(turn.image, "image"),
        "video": add(turn.video, "video"),
        "reply": turn.reply,
        "reply_audio": add(turn.reply_audio, "reply"),
        "seed": turn.seed,
        "settings": turn.settings,
        "emotion": turn.emotion,
        "style": turn.style,
        "heard": turn.heard,
        "stopped": turn.stopped,
        "rating": turn.rating,
    }, files


def read_archive(
    path: str, model: SpeechModel, limits: Limits, new_file: Callable[[str], Path]
) -> tuple[Conversation, list[ShownTurn], Path, dict[str, Any]]:
    """Read what `write_archive` wrote; whoever made the file can do no harm with it.

    Args:
        new_file: a path for a file of a name, whose owner is the visitor.

    Returns:
        The conversation, its turns, its own file, and the settings.

    Raises:
        UserError: it is no such file, a damaged one, or one of another checkpoint; or there is no
            room for what it holds.
    """
    try:
        _check_directory(Path(path))
        with zipfile.ZipFile(path) as archive:
            about = json.loads(_read(archive, DESCRIPTION, MIB))
            entries = about["turns"]
            if about["format"] != FORMAT or not 0 < len(entries) <= MAX_TURNS:
                raise ValueError("another format")
            state = new_file(STATE)
            _write(state, _read(archive, STATE, limits.max_upload_bytes))
            conversation = model.load_conversation(state)
            room = [float(limits.max_user_bytes)]
            turns = [_read_turn(archive, entry, model, limits, new_file, room) for entry in entries]
            names = {entry["name"]: turn.name for entry, turn in zip(entries, turns)}
            for entry, turn in zip(entries, turns):
                turn.again_of, turn.can_repeat = names.get(entry["again_of"]), False
                turn.beside = names.get(entry.get("beside"))
            settings = about["settings"]
            if not isinstance(settings, dict):
                raise ValueError("settings are no object")
    except UserError:
        raise
    except (
        AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, *DAMAGED,
    ) as error:  # fmt: skip
        raise UserError("error_no_archive") from error
    return conversation, turns, state, settings


def _check_directory(path: Path) -> None:
    """A plain zip file's end tells how long its list of files is; a crafted list fills memory."""
    with path.open("rb") as file:
        file.seek(-END.size, os.SEEK_END)
        signature, *_, size, _, comment = END.unpack(file.read())
    if signature != b"PK\5\6" or size > MAX_DIRECTORY or comment:
        raise ValueError("no plain zip file")


def _read(archive: zipfile.ZipFile, name: str, limit: float) -> bytes:
    with archive.open(name) as file:
        content = file.read(int(limit) + 1)
    if len(content) > limit:
        raise ValueError(f"{name} is too large")
    return content


def _write(path: Path, content: bytes) -> None:
    with written():
        path.write_bytes(content)


def _read_turn(
    archive: zipfile.ZipFile,
    entry: dict[str, Any],
    model: SpeechModel,
    limits: Limits,
    new_file: Callable[[str], Path],
    room: list[float],
) -> ShownTurn:
    def sound(name: str | None, seconds: float, file_name: str) -> tuple[str | None, float]:
        if name is None:
            return None, 0.0
        content = _read(archive, name, min(room[0], limits.max_upload_bytes))
        room[0] -= len(content)
        path = new_file(file_name)
        given = path.with_suffix(PurePosixPath(str(name)).suffix[:8] + ".given")
        try:
            _write(given, content)
            clip = load_audio(given, seconds, limits.max_upload_bytes)
        finally:
            given.unlink(missing_ok=True)
        with written():
            write_pcm16(path, to_pcm16(clip.samples), clip.sample_rate)
        return str(path), clip.seconds

    def seen(kind: str) -> str | None:
        name = entry.get(kind)
        if name is None:
            return None
        ending = PurePosixPath(str(name)).suffix.lower()
        if ending not in SHOWN[kind]:
            raise ValueError(f"{kind} of another format")
        content = _read(archive, name, min(room[0], limits.max_upload_bytes))
        room[0] -= len(content)
        path = new_file(f"{kind}{ending}")
        _write(path, content)
        return str(path)

    audio, audio_seconds = sound(entry["audio"], limits.max_audio_seconds + 1, "speech.wav")
    turn = ShownTurn(
        _text(entry["text"], limits.max_text_characters), audio, model.sample_rate, audio_seconds
    )
    turn.image, turn.video = seen("image"), seen("video")
    turn.reply = _text(entry["reply"], MIB)
    turn.reply_audio, turn.seconds = sound(
        entry["reply_audio"], limits.max_reply_seconds + 10, "reply.wav"
    )
    turn.emotion, turn.style = _word(entry["emotion"]), _word(entry["style"])
    turn.heard = _word(entry.get("heard"), _longest_heard(model, limits))
    turn.seed = _whole(entry["seed"])
    turn.rating = max(-1, min(1, _whole(entry["rating"]) or 0))
    turn.stopped, turn.ended = bool(entry["stopped"]), True
    turn.model = _word(entry.get("model")) or ""
    turn.knows_before = entry.get("knows_before") is not False
    turn.settings = {
        key: value
        for key, value in list(entry["settings"].items())[:20]
        if _is_word(key) and (value is None or _is_number(value) or _is_word(value))
    }
    return turn


def _longest_heard(model: SpeechModel, limits: Limits) -> int:
    """Characters that a model can write down of speech: a syllable in each of its frames."""
    return math.ceil((limits.max_audio_seconds + 1) * model.frame_rate) * SYLLABLE


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str) or not _is_word(value, limit):
        raise ValueError("no text")
    return value


def _is_word(value: object, limit: int = WORD) -> bool:
    return isinstance(value, str) and len(value) <= limit and is_unicode(value)


def _word(value: object, limit: int = WORD) -> str | None:
    return str(value) if _is_word(value, limit) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < 2**63  # NaN and infinity are not


def _whole(value: object) -> int | None:
    return int(value) if _is_number(value) else None
