"""The teacher's clips of what the evaluation asks and hears, each recorded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from ..speech import speakers
from ..speech.recordings import Line, read, record

VOICES = (  # what a clip depends on besides its line
    speakers.USER_PROSODY,
    speakers.STYLE_PROSODY,
    speakers.ASSISTANT,
    speakers.HELDOUT_BLENDS.tolist(),
    speakers.PEOPLE,
    speakers.PEOPLE_SHARES,
)
OTHER_VOICES = (  # likewise, of users in all of Kokoro's voices
    speakers.USER_PROSODY,
    speakers.HELDOUT_VOICES,
    speakers.BLENDED_SHARES,
    speakers.NATIVE_SHARE,
    speakers.OWN_MELODY_SHARE,
    speakers.SPREADS,
)


class Teacher(Protocol):
    """Who says the lines of the evaluation."""

    def say(self, lines: Sequence[Line]) -> list[np.ndarray]:
        """Each line as it is said, without a microphone: [n] float32 at 22,050 Hz."""


class RecordedTeacher:
    """The teacher, whose clips are kept in a folder; those of earlier tables of voices, apart.

    Args:
        folder: made where it does not exist.
        workers: processes that record.
        voices: folder of all of Kokoro's voices, see `speech.teacher`.
    """

    def __init__(self, folder: Path, workers: int, voices: Path | None = None) -> None:
        self.folders = {
            other: folder / _digest(repr(table))
            for other, table in ((False, VOICES), (True, OTHER_VOICES))
        }
        self.workers, self.voices = workers, voices
        self._waves: dict[Line, np.ndarray] = {}
        for kept in self.folders.values():
            for recorded in sorted(kept.glob("*/")):
                self._take(recorded)

    def say(self, lines: Sequence[Line]) -> list[np.ndarray]:
        """See `Teacher`.

        Raises:
            ValueError: a line that can't be said.
        """
        unknown = [line for line in dict.fromkeys(lines) if line not in self._waves]
        for other, folder in self.folders.items():
            if missing := [line for line in unknown if line.other == other]:
                listed = json.dumps([asdict(line) for line in missing], ensure_ascii=False)
                recorded = folder / _digest(listed)
                record(missing, recorded, self.workers, self.voices)
                self._take(recorded)
        return [self._waves[line] / np.float32(32768) for line in lines]

    def _take(self, folder: Path) -> None:
        self._waves |= {recording.line: recording.wave for recording in read(folder)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
