"""Frames of a reply -> its text in whole characters and its sound, in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ReplyChunk:
    """A piece of a reply: the text and sound that are new since the last piece.

    Fields:
        text: whole characters only.
        audio: [n] float32 in -1..1, at `sample_rate`; the pieces joined are the reply's speech.
        sample_rate: in Hz.
        num_frames: frames made so far.
        max_frames: frames at which the reply ends at the latest.
        emotion: the user's emotion as the model perceives it; None where it does not say.
        style: the reply's style; None likewise.
        ended: True on the last chunk, if the model ended the reply itself.
    """

    text: str
    audio: np.ndarray
    sample_rate: int
    num_frames: int
    max_frames: int
    emotion: str | None
    style: str | None
    ended: bool


class TextDecoder:
    """Tokens one by one -> text; the first bytes of a character wait for its last."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tokenizer = checkpoint.tokenizer
        self.silent = {checkpoint.semantic_id, checkpoint.end_id}
        self._ids: list[int] = []
        self._length = 0

    def push(self, token: int) -> str:
        """Returns the characters that are complete now and were not before."""
        if token in self.silent:
            return ""
        self._ids.append(token)
        text = self.tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).rstrip("\ufffd")
        new = text[self._length :]
        self._length = max(self._length, len(text))
        return new.replace("\ufffd", "")


class Speech:
    """Frames -> chunks: what one reply has said so far."""

    def __init__(self, checkpoint: Checkpoint, max_frames: int) -> None:
        self.checkpoint = checkpoint
        self.max_frames = max_frames
        self.columns: list[Tensor] = []  # [1+K], the frames as the model reads them
        self.num_said = 0  # of them, those that were handed out
        self.waiting: list[Tensor] = []
        self.text = ""
        self._new_text = ""
        self._decoder = TextDecoder(checkpoint)
        self._codec_state = checkpoint.codec.new_state()
        self._marks: dict[str, str] = {}
        self._names = {
            id: (kind, name)
            for kind, ids in (("emotion", checkpoint.emotion_ids), ("style", checkpoint.style_ids))
            for name, id in ids.items()
        }

    def add(self, frame: Tensor, column: Tensor) -> None:
        """Take the next frame [1+K], and as the model reads it; the next chunk says it."""
        token = int(frame[0])
        if token in self._names:
            self._marks.setdefault(*self._names[token])
        self._new_text += self._decoder.push(token)
        self.columns.append(column)
        self.waiting.append(frame)

    @torch.inference_mode()
    def chunk(self, *, last: bool = False, ended: bool = False) -> ReplyChunk:
        """Say what is waiting.

        Args:
            last: nothing follows.
            ended: the model ended the reply itself.
        """
        codec = self.checkpoint.codec
        audio = np.zeros(0, np.float32)
        if num_frames := len(self.waiting):
            codes = torch.stack(self.waiting, dim=1)[None, 1:] - 1  # [1, K, l]
            # The model may have more codes than the codec; it was never taught to say those.
            codes = codes.clamp(max=codec.config.codebook_size - 1)
            if last:
                # A power of 2: a size that is new to the process takes far longer.
                codes = F.pad(codes, (0, (1 << (num_frames - 1).bit_length()) - num_frames))
            wave = codec.decode_chunk(codes, self._codec_state)[0, 0]
            audio = wave[: num_frames * codec.config.samples_per_frame].float().cpu().numpy()
        self.num_said += num_frames
        self.waiting = []
        text, self._new_text = self._new_text, ""
        self.text += text
        return ReplyChunk(
            text=text,
            audio=audio,
            sample_rate=codec.config.sample_rate,
            num_frames=self.num_said,
            max_frames=self.max_frames,
            emotion=self._marks.get("emotion"),
            style=self._marks.get("style"),
            ended=ended,
        )
