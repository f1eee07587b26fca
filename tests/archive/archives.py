"""Saved conversations as its tests make and change them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from page.limits import Limits
from page.turn import ShownTurn

LIMITS = Limits(wait_seconds=1, max_upload_bytes=1 << 20, max_audio_seconds=10)


def changed(path: Path, **replaced: bytes | None) -> Path:
    """A copy with other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries |= {name.replace("_json", ".json"): content for name, content in replaced.items()}
    copy = path.with_name("changed.zip")
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return copy


def described(path: Path, **changes: object) -> Path:
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("conversation.json"))
    turn = {key: value for key, value in changes.items() if key in about["turns"][0]}
    about["turns"][0] |= turn
    about |= {key: value for key, value in changes.items() if key not in turn}
    return changed(path, conversation_json=json.dumps(about).encode())


def shown(number: int, **fields: object) -> ShownTurn:
    turn = ShownTurn(f"turn {number}", None, 16_000, ended=True)
    for name, value in fields.items():
        setattr(turn, name, value)
    return turn
