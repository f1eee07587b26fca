"""A test of sounds that were made elsewhere: a zip file with a folder for each condition."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from models.audio import load_audio
from models.errors import UserError, shown

from .archive import open_archive
from .limits import TestLimits
from .sample import Sample

HIDDEN = ("__MACOSX",)


def read_folder(path: Path, limits: TestLimits) -> Iterator[Sample]:
    """The sounds of a zip file, whose names are condition/prompt.wav; hidden files are passed over.

    Raises:
        UserError: it is no zip file, or too large; a name of another form, or no sound.
    """
    with open_archive(path, limits.max_bytes * 4) as archive:
        names = [name for name in archive.names if not _is_hidden(name)]
        if len(names) > limits.max_sounds:
            raise UserError("error_test_sounds", count=len(names), limit=limits.max_sounds)
        parts = [PurePosixPath(name).parts for name in names]
        if len({part[0] for part in parts}) == 1 and all(len(part) > 2 for part in parts):
            parts = [part[1:] for part in parts]  # all within one folder
        for name, part in zip(names, parts):
            if len(part) != 2:
                raise UserError("error_folder_name", name=shown(name))
            clip = load_audio(io.BytesIO(archive.read(name)), limits.max_seconds)
            yield Sample(
                condition=part[0], prompt=PurePosixPath(part[1]).stem, samples=clip.samples.numpy(),
                sample_rate=clip.sample_rate, settings={"source": "file", "name": name[:200]},
            )  # fmt: skip


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in HIDDEN or part.startswith(".") for part in parts)
