"""Zip files of strangers: what is too much, or has a name that leads elsewhere, is not read."""

from __future__ import annotations

import lzma
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import UserError, shown

MAX_ENTRIES = 2000
ENTRY = re.compile(rb"PK\x01\x02")  # begins each line of a zip file's directory
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)  # NotImplementedError is a RuntimeError


class Archive:
    """A zip file's entries, whose sum is bounded.

    Args:
        file: open.
        max_bytes: of all entries together, unpacked.
    """

    def __init__(self, file: zipfile.ZipFile, max_bytes: int) -> None:
        self._file, self._left = file, max_bytes
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        size = sum(entry.file_size for entry in entries)
        if size > max_bytes:
            raise UserError("error_archive_large", size=size, limit=max_bytes)
        for entry in entries:
            _check_name(entry.filename)
        self.names = [entry.filename for entry in entries]

    def read(self, name: str, limit: int | None = None) -> bytes:
        """An entry's content; no more than it promised, whatever it holds.

        Args:
            limit: bytes that are allowed of it alone.

        Raises:
            UserError: there is no such entry, or it is damaged.
        """
        try:
            entry = self._file.getinfo(name)
            if limit is not None and entry.file_size > limit:
                raise UserError("error_archive_large", size=entry.file_size, limit=limit)
            with self._file.open(entry) as stream:
                data = stream.read(min(entry.file_size, self._left) + 1)
        except UserError:
            raise
        except (KeyError, OSError, RuntimeError, EOFError, ValueError, *DAMAGED) as error:
            raise UserError("error_archive_entry", name=shown(name)) from error
        if len(data) != entry.file_size:
            raise UserError("error_archive_entry", name=shown(name))
        self._left -= len(data)
        return data


@contextmanager
def open_archive(path: Path, max_bytes: int) -> Iterator[Archive]:
    """Open a zip file.

    Raises:
        UserError: it is none, it would unpack to too much, or an entry's name leads elsewhere.
    """
    try:
        if (count := _num_entries(path)) > MAX_ENTRIES:
            raise UserError("error_archive_entries", count=count, limit=MAX_ENTRIES)
        file = zipfile.ZipFile(path)
    except UserError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError("error_archive_kind") from error
    with file:
        yield Archive(file, max_bytes)


def _num_entries(path: Path) -> int:
    """Files and folders at most, told without the memory that a directory of millions takes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(1 for _ in ENTRY.finditer(content))


def _check_name(name: str) -> None:
    parts = name.split("/")
    is_foreign = "\\" in name or ":" in name or "\0" in name or not name.isprintable()
    if is_foreign or any(part in ("", ".", "..") for part in parts):
        raise UserError("error_archive_name", name=shown(name))
