"""Recordings as one long wave, of which training draws random pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.westlake.firefly import FireflyArchitecture

from ..files import replacing
from ..speech.recordings import Recording
from ..speech.speakers import Microphone, vary
from .config import TINY_CODEC

VARIATION = (0.9, 1.12)  # of the voices' size, when they are recorded once more
FRAME = TINY_CODEC.samples_per_frame
SHIFTS = 4  # within a frame, at which clear speech is coded to be polished


def write_clips(
    recordings: Iterable[Recording], path: Path, seed: int, rounds: int = 1, clean: bool = False
) -> None:
    """Users as microphones hear them, and the assistant as it is, one after another: int16 [T].

    Args:
        rounds: how often each user is heard, each time with a larger or smaller voice and, unless
            `clean`, at another microphone.
        clean: no microphone hears the users, and each is there once more as recorded.
    """
    rng = np.random.default_rng(seed)
    pieces = []
    for recording in recordings:
        wave = recording.wave.astype(np.float32) / 32768
        if clean or recording.line.seed is None:
            pieces.append(recording.wave)
        if recording.line.seed is None:
            continue
        for _ in range(rounds):
            varied = vary(wave, rng.uniform(*VARIATION))
            heard = varied.clip(-1, 1) if clean else Microphone.draw(rng).record(varied)
            pieces.append((heard * 32767).astype(np.int16))
    order = rng.permutation(len(pieces))
    _save([pieces[index] for index in order], path)


def write_shifted_clips(clips: Path, path: Path) -> None:
    """The same wave `SHIFTS` times, each time a part of a frame later: other codes for it."""
    wave = np.load(clips)
    wave = wave[: len(wave) // FRAME * FRAME]
    starts = range(0, FRAME, FRAME // SHIFTS)
    _save([np.pad(wave[start:], (0, start)) for start in starts], path)


def _save(pieces: Sequence[np.ndarray], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(pieces))


class Crops:
    """Random pieces of long waves, int16 [T] each, which lie on the device.

    Args:
        shares: of the pieces, for each file.
    """

    def __init__(self, shares: Mapping[Path, float], seed: int, device: str) -> None:
        waves = (np.load(path, mmap_mode="c") for path in shares)  # "r" gives no tensors
        self.waves = [torch.from_numpy(wave).to(device) for wave in waves]
        self.shares = list(shares.values())
        self.seed = seed

    def draw(self, step: int, batch_size: int, num_samples: int) -> Tensor:
        """Float32 [B, 1, T]; the same step draws the same."""
        rng = np.random.default_rng([self.seed, step])
        batch = []
        for index in rng.choice(len(self.waves), batch_size, p=self.shares):
            wave = self.waves[index]
            start = int(rng.integers(0, len(wave) - num_samples))
            batch.append(wave[start : start + num_samples])
        return torch.stack(batch)[:, None].float() / 32768


class CodedCrops(Crops):
    """The same with their codes, which are made once of the whole waves and kept beside them."""

    def __init__(
        self, codec: FireflyArchitecture, shares: Mapping[Path, float], seed: int, device: str
    ) -> None:
        super().__init__(shares, seed, device)
        self.codes = [_codes_of(codec, path).to(device) for path in shares]

    def draw_coded(self, step: int, batch_size: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Codes [B, K, L] long and their wave [B, 1, L * samples per frame]."""
        rng = np.random.default_rng([self.seed, step])
        codes, waves = [], []
        for index in rng.choice(len(self.waves), batch_size, p=self.shares):
            rows, wave = self.codes[index], self.waves[index]
            start = int(rng.integers(0, rows.shape[1] - num_frames))
            codes.append(rows[:, start : start + num_frames])
            waves.append(wave[start * FRAME : (start + num_frames) * FRAME])
        return torch.stack(codes).long(), torch.stack(waves)[:, None].float() / 32768


@torch.no_grad()
def _codes_of(codec: FireflyArchitecture, path: Path) -> Tensor:
    """[K, L] int16 of a file's wave, from the file beside it, which is made where it is missing."""
    saved = path.with_suffix(".codes.pt")
    if not saved.exists():
        wave = torch.from_numpy(np.load(path) / np.float32(32768))
        state, codes = codec.new_state(), []
        pieces = wave[: len(wave) // FRAME * FRAME].split(512 * FRAME)
        for piece in pieces:
            chunk = piece[None, None].to(next(codec.parameters()).device)
            codes.append(codec.encode_chunk(chunk, state, last=piece is pieces[-1]).cpu())
        with replacing(saved) as temporary:
            torch.save(torch.cat(codes, dim=2)[0].short(), temporary)
    return torch.load(saved, weights_only=True)
