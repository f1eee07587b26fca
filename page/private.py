"""One folder a process for all that visitors bring and get; nothing in it outlives the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: folders of processes that were killed stay
    fcntl = None  # type: ignore[assignment]

PREFIX = "westlake-omni-"
LOCK = ".lock"


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
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
            self._lock = (self.path / LOCK).open("w")
        except OSError as error:
            raise ValueError(
                f"no folder can be made in {parent} ({error.strerror}): "
                "set TMPDIR to a folder that you can write to"
            ) from error
        _try_lock(self._lock)

    def close(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _try_lock(file) -> bool:
    """Hold a file as long as this process lives; False if another process holds it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_left(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        lock = path / LOCK
        if path.is_symlink() or path.stat().st_uid != os.getuid() or not lock.is_file():
            continue
        with lock.open("w") as file:
            if _try_lock(file):
                shutil.rmtree(path, ignore_errors=True)
