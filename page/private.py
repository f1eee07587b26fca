"""One folder a process for all that visitors bring and get; nothing in it outlives the process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PREFIX = "westlake-omni-"
LOCK = ".lock"
NUM_TRIES = 5


class PrivateFolder:
    """A new folder that only this user can open; those that killed processes left are removed.

    Args:
        parent: where it lies; None for the system's temporary folder.

    Raises:
        ValueError: it can't be made there.
    """

    def __init__(self, parent: str | os.PathLike | None = None) -> None:
        parent = Path(parent or tempfile.gettempdir())
        try:
            _remove_left(parent)
            self.path, self._lock = _new_folder(parent)
        except OSError as error:
            raise ValueError(
                f"no folder can be made in {parent} ({error.strerror}): "
                "set TMPDIR to a folder that you can write to"
            ) from error

    def close(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _new_folder(parent: Path) -> tuple[Path, TextIO]:
    """A folder and its lock; a process that starts may take one away before it is locked."""
    for left in reversed(range(NUM_TRIES)):
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        with suppress(FileNotFoundError):
            lock = (path / LOCK).open("w")
            is_held = _try_lock(lock) or not left  # where nothing can be locked, nothing is removed
            if is_held and (path / LOCK).exists():
                return path, lock
            lock.close()
        shutil.rmtree(path, ignore_errors=True)
    raise FileNotFoundError(errno.ENOENT, "it is removed at once")


def _try_lock(file) -> bool:
    """Hold a file as long as this process lives; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_left(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # another process removes it, too
            lock = path / LOCK
            if path.is_symlink() or path.stat().st_uid != os.getuid() or not lock.is_file():
                continue
            with lock.open("w") as file:
                if _try_lock(file):
                    shutil.rmtree(path, ignore_errors=True)
