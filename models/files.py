"""A checkpoint folder's JSON files, and errors that name the file they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import shown
from .weights import refuse_lfs_pointer, write_whole

MAX_SIZE = 1 << 24  # of whatever a config counts; beyond, a damaged file would fill the memory
MAX_LAYERS = 1 << 10
MAX_ITEMS = 1 << 10  # of a list


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


def check_sizes(path: Path, values: object, limits: Mapping[str, int], name: str = "") -> None:
    """Raise a ValueError where a config counts more of something than memory or patience have.

    Args:
        path: of the config, for the error.
        values: as JSON has them, one in another.
        limits: of whole numbers under these names; of others it is `MAX_SIZE`.
        name: that the values stand under.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_sizes(path, value, limits, key)
    elif isinstance(values, (list, tuple)):
        if len(values) > MAX_ITEMS:
            raise ValueError(f"{path}: {name} is a list of {len(values)}, allowed are {MAX_ITEMS}")
        for value in values:
            check_sizes(path, value, limits, name)
    elif isinstance(values, int):
        limit = limits.get(name, MAX_SIZE)
        if abs(values) > limit:
            raise ValueError(f"{path}: {name} is {shown(values)}, but must be at most {limit}")
    elif isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{path}: {name} is {values}, but must be a number")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of the error that its contents lead to."""
    try:
        yield
    except Exception as error:  # values of a foreign file can make libraries raise anything
        raise ValueError(f"{path}: {error or type(error).__name__}") from error
