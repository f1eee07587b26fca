"""Files that are there whole or not at all, so that a stage that was killed can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place once the block has written it without an error."""
    temporary = path.with_name(f"{path.name}.new")
    yield temporary
    temporary.replace(path)


def is_up_to_date(path: Path, source: Path) -> bool:
    """Whether a file is there, and not older than the one it was made of."""
    return path.exists() and path.stat().st_mtime >= source.stat().st_mtime
