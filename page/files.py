"""The sounds that visitors bring and get: who owns them, how much they may take, when they go."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from loguru import logger

from models.errors import UserError

from .limits import Limits

MIN_BYTES = 64 * 1024  # that a file counts for, so that their number is bounded as well


@dataclass
class _Entry:
    owner: str
    num_bytes: int
    kept: bool  # for as long as its owner's conversation
    since: float = field(default_factory=time.monotonic)


@contextmanager
def written() -> Iterator[None]:
    """A visitor's file is written meanwhile.

    Raises:
        UserError: it can't be, for want of room or of permission.
    """
    try:
        yield
    except OSError as error:
        logger.error(f"a file can't be written: {error.strerror or 'no room'}")
        raise UserError("error_no_room") from error


class Files:
    """Files in folders with names that can't be guessed; no other path is ever read or served.

    Beyond a visitor's share, and then beyond that of all, the oldest files go: first those of the
    visitor who has most.

    Args:
        folder: private, of this process alone.
        public: files that everybody may name, such as example recordings.
    """

    def __init__(self, folder: Path, limits: Limits, public: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.limits = limits
        self._public = {str(path) for path in public}
        self._entries: dict[str, _Entry] = {}  # by path, the oldest first
        self._taken: Counter[str] = Counter()  # bytes by owner
        self._lock = Lock()

    def new_folder(self) -> Path:
        """A folder for one file to come.

        Raises:
            UserError: it can't be made.
        """
        folder = self.folder / secrets.token_urlsafe(18)
        with written():
            folder.mkdir(mode=0o700)
        return folder

    def make(
        self, name: str, write: Callable[[Path], object], owner: str, *, kept: bool = False
    ) -> str:
        """Let a file be written in a new folder, and take it up as `add` does; its path.

        Raises:
            UserError: it can't be written; nothing is left of it.
        """
        path = self.new_folder() / name
        try:
            with written():
                write(path)
                self.add(path, owner, kept=kept)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return str(path)

    def add(self, path: Path, owner: str, *, kept: bool = False) -> None:
        """Take up a file below a `new_folder`, or one that has grown.

        Args:
            owner: whose it is; nobody else can give it to the model.
            kept: until `remove_all`, not only until `Limits.upload_seconds` have passed.
        """
        num_bytes = max(path.stat().st_size, MIN_BYTES)
        with self._lock:
            self._forget(str(path))
            self._entries[str(path)] = _Entry(owner, num_bytes, kept)
            self._taken[owner] += num_bytes
            self._make_room(owner)

    def check(self, path: object, owner: str) -> str:
        """A path that came over the network, if this visitor may use it.

        Raises:
            UserError: it is another's, none of this server's, or no path; all told alike.
        """
        if isinstance(path, str):
            with self._lock:
                entry = self._entries.get(path)
            if path in self._public or (entry is not None and entry.owner == owner):
                return path
        raise UserError("error_foreign_file")

    def is_served(self, path: str) -> bool:
        """Whether who knows a path may read it: it can't be guessed."""
        with self._lock:
            return path in self._public or path in self._entries

    def keep(self, path: str) -> None:
        """Let a file live as long as its owner's conversation."""
        with self._lock:
            if path in self._entries:
                self._entries[path].kept = True

    def remove(self, path: str) -> None:
        with self._lock:
            self._remove(path)

    def remove_all(self, owner: str) -> None:
        """Remove all files of a visitor."""
        with self._lock:
            for path in [path for path, entry in self._entries.items() if entry.owner == owner]:
                self._remove(path)

    def remove_expired(self) -> None:
        """Remove uploads that nobody has sent."""
        before = time.monotonic() - self.limits.upload_seconds
        with self._lock:
            old = [
                path
                for path, entry in self._entries.items()
                if not entry.kept and entry.since < before
            ]
            for path in old:
                self._remove(path)

    @property
    def num_bytes(self) -> int:
        """What all files count for."""
        with self._lock:
            return self._taken.total()

    def _make_room(self, owner: str) -> None:
        while self._taken[owner] > self.limits.max_user_bytes:
            self._remove(self._oldest(owner))
        while self._taken.total() > self.limits.max_total_bytes:
            self._remove(self._oldest(self._taken.most_common(1)[0][0]))

    def _oldest(self, owner: str) -> str:
        return next(path for path, entry in self._entries.items() if entry.owner == owner)

    def _remove(self, path: str) -> None:
        if self._forget(path):
            top = self.folder / Path(path).relative_to(self.folder).parts[0]
            shutil.rmtree(top, ignore_errors=True)

    def _forget(self, path: str) -> bool:
        """Count a file no longer; False if it was unknown."""
        entry = self._entries.pop(path, None)
        if entry is None:
            return False
        self._taken[entry.owner] -= entry.num_bytes
        if not self._taken[entry.owner]:
            del self._taken[entry.owner]
        return True
