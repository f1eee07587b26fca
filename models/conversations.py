"""What the conversations of all families check alike, and say of themselves in their files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .errors import UserError, shown
from .hub import public_name
from .weights import write_whole

KEPT_SHARE = 0.5  # of the room for turns, once it is full
DRAWN_SEEDS = 2**31  # so few that one is short enough to be written down


class Speaker(Protocol):
    """The checkpoint that speaks in a conversation."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def refuse_shown(image: object, video: object) -> None:
    """Raise a UserError if a user shows something to a model that sees nothing."""
    for kind, value in (("image", image), ("video", video)):
        if value is not None:
            raise UserError("error_not_accepted", kind=kind, allowed="audio, text")


def check_text(text: str, max_characters: int) -> None:
    """Raise a UserError if a text is so long that it need not be read."""
    if len(text) > max_characters:
        raise UserError("error_text_too_long", characters=len(text), limit=max_characters)


def drawn_seed(seed: int | None) -> int:
    """The seed of a reply: the one that is given, else a fresh one in 0..`DRAWN_SEEDS`-1."""
    return secrets.randbelow(DRAWN_SEEDS) if seed is None else seed


def num_dropped(lengths: Sequence[int], num_new: int, room: int) -> int:
    """How many of the oldest turns are dropped, so that the one under way can go on.

    `KEPT_SHARE` of the room stays in use, so that few turns pay for reading the rest again.

    Args:
        lengths: of the turns, in positions; the last one is under way, and stays.
        num_new: positions that come to it.
        room: positions for all of them.
    """
    total, dropped = sum(lengths) + num_new, 0
    if total <= room:
        return 0
    while total > KEPT_SHARE * room and dropped < len(lengths) - 1:
        total -= lengths[dropped]
        dropped += 1
    return dropped


def signature(checkpoint: Speaker) -> dict[str, str]:
    """What a conversation's file says of who spoke in it."""
    return {"checkpoint": checkpoint.fingerprint, "checkpoint_name": public_name(checkpoint.name)}


def check_signature(saved: Mapping[str, Any], checkpoint: Speaker, name: str) -> None:
    """Compare what a file says of who spoke with who shall go on.

    Args:
        saved: with the keys of `signature`, if it is a conversation's.
        checkpoint: that shall go on.
        name: of the file, for the errors.

    Raises:
        UserError: it is no conversation's, or another's.
    """
    if not isinstance(saved.get("checkpoint"), str):
        raise UserError("error_no_conversation", name=name)
    if saved["checkpoint"] != checkpoint.fingerprint:
        saved_by = shown(Path(str(saved.get("checkpoint_name", "?"))).name)
        raise UserError(
            "error_conversation_of_another",
            name=name,
            saved_by=saved_by,
            loaded=Path(checkpoint.name).name,
        )


def write_conversation(path: str | os.PathLike, content: bytes) -> None:
    """Write a conversation's file; one that is there is replaced.

    Raises:
        UserError: it can't be written.
    """
    path = Path(path)
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(
            "error_conversation_not_saved", name=path.name, reason=error.strerror or str(error)
        ) from error
