"""A checkpoint folder's JSON files, and errors that name the file they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .weights import refuse_lfs_pointer, write_whole


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ValueError: it is missing, damaged, or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: fetch or copy the checkpoint again")
    refuse_lfs_pointer(path)
    with naming(path):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object, got a {type(values).__name__}")
    return values


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write one JSON object."""
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of the error that its contents lead to."""
    try:
        yield
    except Exception as error:  # values of a foreign file can make libraries raise anything
        raise ValueError(f"{path}: {error or type(error).__name__}") from error
