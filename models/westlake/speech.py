"""Frames of a reply -> its text in whole characters, its marks, and its sound."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import Frames
from ..tokenizer import TextDecoder
from .checkpoint import Checkpoint


class Transcript:
    """A reply's text tokens one by one -> its text, and what its marks say.

    Fields:
        text: all so far.
        emotion, style: None until the model has said them.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.text = ""
        self.emotion: str | None = None
        self.style: str | None = None
        self._decoder = TextDecoder(
            checkpoint.tokenizer,
            {checkpoint.semantic_id, checkpoint.end_id, *checkpoint.mark_ids},
        )
        self._emotions = {id: name for name, id in checkpoint.emotion_ids.items()}
        self._styles = {id: name for name, id in checkpoint.style_ids.items()}

    def add(self, token: int) -> None:
        """Take the next frame's text token."""
        self.emotion = self.emotion or self._emotions.get(token)
        self.style = self.style or self._styles.get(token)
        self.text += self._decoder.push(token)


class SpeechDecoder:
    """Frames, some at a time -> the reply's sound."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.codec = checkpoint.codec
        self._state = checkpoint.codec.new_state()

    @torch.inference_mode()
    def decode(self, frames: list[Tensor], last: bool) -> np.ndarray:
        """The next frames' sound.

        Args:
            frames: [1+K] long each, as `next_frames` gives them, without marks; there may be none.
            last: nothing follows.

        Returns:
            [n * samples_per_frame] float32 in -1..1.
        """
        if not frames:
            return np.zeros(0, np.float32)
        config = self.codec.config
        codes = codec_codes(torch.stack(frames, dim=1), config.codebook_size)[None]  # [1, K, n]
        if last and self.codec.compiles_sizes:
            # A power of 2: the sizes are few.
            codes = F.pad(codes, (0, (1 << (len(frames) - 1).bit_length()) - len(frames)))
        wave = self.codec.decode_chunk(codes, self._state)[0, 0]
        return wave[: len(frames) * config.samples_per_frame].float().cpu().numpy()


def shown_frames(columns: Tensor, checkpoint: Checkpoint) -> Frames:
    """Columns [1+K, n] of a turn as front ends see them."""
    decode = checkpoint.tokenizer.decode
    text = [decode([id]) for id in columns[0].tolist()]
    codes = codec_codes(columns, checkpoint.codec.config.codebook_size)
    semantic = columns[0] == checkpoint.semantic_id
    return Frames(text=tuple(text), codes=codes.cpu().numpy(), semantic=semantic.cpu().numpy())


def codec_codes(frames: Tensor, codebook_size: int) -> Tensor:
    """Frames [1+K, n] -> the codec's codes [K, n]; a pad becomes -1.

    The model may have more codes than the codec; it was never taught to say those.
    """
    return (frames[1:] - 1).clamp(max=codebook_size - 1)
