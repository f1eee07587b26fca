"""A user's sound while it is spoken: samples -> log-mel frames -> blocks, each encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from .checkpoint import Checkpoint

QUIETEST = 1e-10
RANGE = 8.0  # powers of ten between the loudest and what is floored
MAX_SECONDS = 300.0  # that the published features are made for


@dataclass(frozen=True)
class MelSettings:
    """How the published features are made.

    Fields:
        sample_rate: in Hz.
        n_fft, hop_length: samples of a frame, and between two.
        filters: [bins, n_fft // 2 + 1].
        block: frames that the audio tower hears together.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    filters: Tensor
    block: int

    @classmethod
    def of(cls, config) -> MelSettings:
        """Those of an audio tower's config."""
        extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        filters = torch.from_numpy(extractor.mel_filters).float().T
        return cls(
            extractor.sampling_rate,
            extractor.n_fft,
            extractor.hop_length,
            filters,
            2 * config.n_window,
        )


class MelStream:
    """Samples in pieces of any size -> blocks of log-mel frames.

    The published features are floored some powers of ten below the loudest of the whole clip,
    which nobody knows while it is spoken: here it is the loudest so far.

    Args:
        settings: of the features.
        loudest: of the whole clip, as a power of ten, where it is known.
    """

    def __init__(self, settings: MelSettings, loudest: float | None = None) -> None:
        self.settings = settings
        self.num_samples = self.num_frames = 0
        self._loudest = torch.tensor(-10.0 if loudest is None else loudest)
        self._is_known = loudest is not None
        self._window = torch.hann_window(settings.n_fft)
        self._wave = torch.zeros(0)  # from the next frame's first sample on
        self._waiting = torch.zeros(len(settings.filters), 0)  # not yet floored

    def push(self, samples: Tensor, last: bool = False) -> Iterator[Tensor]:
        """Take samples [n] float32; gives blocks [bins, frames], whole but for the last."""
        self._waiting = torch.cat([self._waiting, self._frames(samples, last)], dim=1)
        while (num := self._waiting.shape[1]) >= self.settings.block or (last and num):
            block = self._waiting[:, : self.settings.block]
            self._waiting = self._waiting[:, self.settings.block :]
            yield (torch.maximum(block, self._loudest - RANGE) + 4) / 4

    def _frames(self, samples: Tensor, last: bool) -> Tensor:
        """Frames [bins, n], as powers of ten, whose samples are all there now."""
        half, hop = self.settings.n_fft // 2, self.settings.hop_length
        before, self.num_samples = self.num_samples, self.num_samples + len(samples)
        self._wave = torch.cat([self._wave, samples])
        if last:
            ready = -(-self.num_samples // hop)
            self._wave = torch.cat([self._wave, torch.zeros(half)])
        else:
            ready = (self.num_samples - half) // hop + 1
        if before <= half < self.num_samples or (last and self.num_samples <= half):
            # The sound's beginning is preceded by its mirror image.
            mirrored = torch.cat([self._wave, torch.zeros(half)])[1 : half + 1].flip(0)
            self._wave = torch.cat([mirrored, self._wave])
        if self.num_samples <= half and not last or ready <= self.num_frames:
            return self._waiting[:, :0]
        num = ready - self.num_frames
        piece = self._wave[: (num - 1) * hop + 2 * half]
        piece = torch.nn.functional.pad(piece, (0, (num - 1) * hop + 2 * half - len(piece)))
        spectrum = torch.stft(
            piece, 2 * half, hop, window=self._window, center=False, return_complex=True
        )
        power = self.settings.filters @ spectrum.abs() ** 2
        frames = power.clamp(min=QUIETEST).log10()
        self.num_frames, self._wave = ready, self._wave[num * hop :]
        if not self._is_known:
            self._loudest = torch.maximum(self._loudest, frames.max())
        return frames


@torch.no_grad()
def encode_sound(checkpoint: Checkpoint, mel: Tensor) -> Tensor:
    """Hear a block of mel [bins, frames]: the audio tower's tokens [n, C], one for 40 ms."""
    tower: Any = checkpoint.audio_tower
    num_frames = torch.tensor([mel.shape[1]])
    _, num_tokens = tower._get_feat_extract_output_lengths(num_frames)
    if int(num_tokens) < 1:
        return torch.zeros(0, tower.config.output_dim)
    mel = mel.to(checkpoint.device, tower.proj.weight.dtype)
    tokens = tower(mel, feature_lens=num_frames.to(checkpoint.device)).last_hidden_state
    return tokens.cpu()
