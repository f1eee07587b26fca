"""A user's turn and the reply to it, as the page shows and plays them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np
import soundfile

from models.audio import to_pcm16
from models.contract import ReplyChunk

REPEATED_LINES = 4  # of the speech, at its end: a page that skipped a value finds them there


@dataclass
class ShownTurn:
    """A user's turn and the reply to it.

    Fields:
        text, audio: what the user gave; the audio is a file's path.
        audio_seconds: its length.
        sample_rate: of the reply, in Hz.
        reply: the reply's text so far.
        reply_audio: the path of its wav file, once the reply has ended or was stopped.
        last: the last chunk that came.
        ended: nothing more will come.
        stopped: the user ended the reply.
        stream: the speech so far for the page's player; see player.js.
    """

    text: str
    audio: str | None
    sample_rate: int
    audio_seconds: float = 0.0
    name: str = field(default_factory=lambda: uuid4().hex[:12])
    reply: str = ""
    reply_audio: str | None = None
    last: ReplyChunk | None = None
    ended: bool = False
    stopped: bool = False
    stream: str = ""
    _pcm: list[np.ndarray] = field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        """True if the reply ended at its longest length."""
        last = self.last
        return last is not None and not last.ended and last.total_frames >= last.max_frames

    def add(self, chunk: ReplyChunk) -> None:
        """Take the next chunk of the reply."""
        self.reply += chunk.new_text
        self.last = chunk
        if len(chunk.new_audio):
            self._pcm.append(to_pcm16(chunk.new_audio))
            self.stream = (self.stream or f"{self.name}\n") + self._line(len(self._pcm) - 1)

    @property
    def has_sound(self) -> bool:
        return bool(self._pcm)

    @property
    def stream_end(self) -> str:
        """What ends `stream` for the page's player: short, as it is sent once more."""
        num_lines = len(self._pcm)
        lines = map(self._line, range(max(0, num_lines - REPEATED_LINES), num_lines))
        return f"{self.name}\n{''.join(lines)}END {num_lines}\n"

    def _line(self, index: int) -> str:
        pcm = self._pcm[index].astype("<i2").tobytes()
        return f"{index} {base64.b64encode(pcm).decode()}\n"

    def write(self, path: Path) -> None:
        """Write the speech so far as a wav file."""
        pcm = np.concatenate(self._pcm)
        soundfile.write(path, pcm, self.sample_rate, subtype="PCM_16", format="WAV")
        self.reply_audio = str(path)

    def forget_sound(self) -> None:
        """Free the speech, which a file holds."""
        self._pcm, self.stream = [], ""
