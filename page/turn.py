"""A user's turn and the reply to it, as the page shows and plays them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile

from models.audio import to_pcm16
from models.audio_output import write_pcm16
from models.contract import ReplyChunk
from models.weights import whole_file


@dataclass(eq=False)
class ShownTurn:
    """A user's turn and the reply to it.

    Fields:
        text, audio, image, video: what the user gave; all but the text are paths of files.
        audio_seconds: its length.
        sample_rate: of the reply, in Hz.
        reply: the reply's text so far.
        reply_audio: the path of its wav file, once the reply has ended or was stopped.
        asked: the page that asked for the reply, and the number of its call.
        last: the last chunk that came.
        ended: nothing more will come.
        stopped: the user ended or left the reply before its end.
        seconds, emotion, style, heard, seed: of the reply so far, as its last chunk says them.
        marks: (characters, seconds) after each chunk: how much of the text is said until when.
        settings: that the reply was made with; the seed is the chunk's.
        rating: 1 for a good reply, -1 for a bad one, 0 for none.
        model: that made the reply, as it is shown.
        again_of: the name of the turn that this one answers once more; None for a turn of its own.
        beside: the name of the turn whose reply this one is to be compared with; the conversation
            doesn't go on from it.
        knows_before: the model knew what was said before.
        before: the file of the conversation before it; None at the conversation's beginning.
        can_repeat: whether `before` is known.
    """

    text: str
    audio: str | None
    sample_rate: int
    audio_seconds: float = 0.0
    image: str | None = None
    video: str | None = None
    name: str = field(default_factory=lambda: uuid4().hex[:12])
    reply: str = ""
    reply_audio: str | None = None
    asked: tuple[str, int] = ("", 0)
    last: ReplyChunk | None = None
    ended: bool = False
    stopped: bool = False
    seconds: float = 0.0
    emotion: str | None = None
    style: str | None = None
    heard: str | None = None
    marks: list[tuple[int, float]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    rating: int = 0
    model: str = ""
    again_of: str | None = None
    beside: str | None = None
    knows_before: bool = True
    before: Path | None = None
    can_repeat: bool = True
    _pcm: list[np.ndarray] = field(default_factory=list)

    @property
    def root(self) -> str:
        """The name of the turn that this one answers, once more or not."""
        return self.again_of or self.name

    @property
    def cut_off(self) -> bool:
        """True if the reply ended at its longest length."""
        return self.last is not None and self.last.is_whole and not self.last.ended

    def add(self, chunk: ReplyChunk) -> None:
        """Take the next chunk of the reply."""
        self.reply += chunk.new_text
        self.last, self.seed = chunk, chunk.seed
        self.emotion, self.style, self.heard = chunk.emotion, chunk.style, chunk.heard
        self.seconds = chunk.total_seconds
        self.marks.append((len(self.reply), chunk.total_seconds))
        if len(chunk.new_audio):
            self._pcm.append(to_pcm16(chunk.new_audio))

    @property
    def has_sound(self) -> bool:
        return bool(self._pcm)

    @property
    def num_pieces(self) -> int:
        """Pieces of speech so far."""
        return len(self._pcm)

    def stream(self, first: int = 0) -> str:
        """The speech so far for the page's player; see player.js.

        Args:
            first: the piece to begin with.
        """
        lines = [f"{self.name} {self.sample_rate}"]
        for index, pcm in enumerate(self._pcm[first:], first):
            lines.append(f"{index} {base64.b64encode(pcm.astype('<i2').tobytes()).decode()}")
        if self.ended:
            lines.append(f"END {len(self._pcm)}")
        return "".join(f"{line}\n" for line in lines)

    def write(self, path: Path) -> None:
        """Write the speech so far as a wav file."""
        write_pcm16(path, np.concatenate(self._pcm), self.sample_rate)

    def cut(self, seconds: float) -> None:
        """Keep of the text of a reply that has ended what is said in its first seconds."""
        before = (0, 0.0)
        for mark in self.marks:
            if mark[1] >= seconds:
                share = (seconds - before[1]) / max(mark[1] - before[1], 1e-6)
                self.reply = self.reply[: before[0] + round(share * (mark[0] - before[0]))]
                break
            before = mark
        self.stopped, self.seconds = True, seconds
        self.marks = [mark for mark in self.marks if mark[1] < seconds]

    def cut_sound(self, seconds: float) -> None:
        """Keep only so much of the reply's file, if it has one.

        Raises:
            OSError: the shorter one can't be written; the longer one stays.
            SoundFileError: the file can't be read.
        """
        if not self.reply_audio:
            return
        pcm, rate = soundfile.read(self.reply_audio, dtype="int16")
        pcm = pcm[: max(1, round(seconds * rate))]
        with whole_file(Path(self.reply_audio)) as growing:
            write_pcm16(growing, pcm, rate)

    @property
    def given(self) -> list[str]:
        """The files that the user gave."""
        return [path for path in (self.audio, self.image, self.video) if path]

    @property
    def paths(self) -> list[str]:
        """Its files, but for the user's of a turn that is answered once more."""
        given = [] if self.again_of else self.given
        return [*given, *(str(path) for path in (self.reply_audio, self.before) if path)]

    def forget_sound(self) -> None:
        """Free the speech, which a file holds."""
        self._pcm = []
