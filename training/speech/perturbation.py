"""Log-mels as other throats, paces, rooms and noises might have made them.

The voices of one teacher have much in common that people's have not; who learns from what is made
rough relies on it less.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .speakers import SAMPLE_RATE

SHARE = 0.85  # of what is perturbed that gets another throat, and as many another pace
TRACT = 0.075  # deviation of the logarithm of frequencies
PACE, PACE_DEVIATION, PACES = 0.12, 0.2, (0.6, 1.9)  # logarithms but for the last; times as fast
UNEVENNESS = 0.3  # most of the logarithm's deviation within an utterance
SEGMENT_FRAMES = (15.0, 40.0)  # of one pace
ROUGH_SHARE = 0.65


def perturb(mel: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Log-mel [1, M, T] -> another one [1, M, S], and the frame of it where each of the T went."""
    places = np.arange(mel.shape[-1], dtype=np.float64)
    if rng.random() < SHARE:
        mel = with_tract(mel, float(np.exp(rng.normal(0, TRACT))))
    if rng.random() < SHARE:
        mel, places = with_pace(mel, rng)
    mel = _with_dynamics(_smeared(mel, rng), rng)
    generator = torch.Generator(mel.device).manual_seed(int(rng.integers(2**31)))
    return roughen(mel, ROUGH_SHARE, generator), places


def with_tract(mel: Tensor, factor: float) -> Tensor:
    """As of a vocal tract that is `factor` times as long: log-mel [B, M, T] -> same.

    Source: vocal tract length perturbation (Jaitly and Hinton, 2013), on the mel scale of slaney.
    """
    num_mels = mel.shape[1]
    hertz = np.linspace(0, SAMPLE_RATE / 2, 4096)
    mels = np.where(
        hertz < 1000, 15e-3 * hertz, 15 + 27 * np.log(hertz.clip(1000) / 1000) / np.log(6.4)
    )
    bands = mels / mels[-1] * (num_mels + 1) - 1
    centres = np.interp(np.arange(num_mels), bands, hertz)
    return _read(mel, np.interp(centres * factor, hertz, bands).clip(0, num_mels - 1), 1)


def with_pace(mel: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Slower or faster, and not evenly: as `perturb`."""
    num_frames = mel.shape[-1]
    number = max(2, int(num_frames / rng.uniform(*SEGMENT_FRAMES)))
    usual, unevenness = rng.normal(PACE, PACE_DEVIATION), rng.uniform(0, UNEVENNESS)
    paces = np.exp(rng.normal(usual, unevenness, number)).clip(*PACES)
    frames = np.arange(num_frames)
    paces = np.interp(frames * (number - 1) / max(1, num_frames - 1), np.arange(number), paces)
    places = np.concatenate([[0], np.cumsum(1 / paces)[:-1]])
    return _read(mel, np.interp(np.arange(int(places[-1]) + 1), places, frames), 2), places


def roughen(mel: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Log-mel [B, M, T], a share in another timbre, blurred, with noise, in patches too."""
    batch_size, num_mels, num_frames = mel.shape
    given = {"device": mel.device, "generator": generator}

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch_size, 1, 1, **given) * (high - low) + low

    def normal(*sizes: int) -> Tensor:
        return torch.randn(batch_size, *sizes, **given)

    timbre = F.interpolate(normal(1, 8), size=num_mels, mode="linear").mT
    rough = mel + timbre * uniform(-0.4, 0.8).clamp(min=0)
    size = 2 * int(torch.randint(3, (), **given)) + 1
    blurred = F.avg_pool2d(rough[:, None], (size, 1), 1, (size // 2, 0), count_include_pad=False)
    rough = rough.lerp(blurred[:, 0], uniform(-0.5, 1.0).clamp(min=0))
    rough = rough.maximum(uniform(-9.0, -4.5))
    patches = normal(1, num_mels // 4, num_frames // 4 + 1)
    patches = F.interpolate(patches, size=(num_mels, num_frames), mode="bilinear")[:, 0]
    rough = rough + patches * uniform(-0.6, 0.9).clamp(min=0)
    rough = rough + normal(num_mels, num_frames) * uniform(-0.3, 0.5).clamp(min=0)
    return torch.where(uniform(0, 1) < share, rough, mel)


def _smeared(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of them with what came before, as articulated less or in a room."""
    size = int(rng.integers(1, 4))
    if size == 1 or rng.random() < 0.5:
        return mel
    means = F.avg_pool1d(F.pad(mel, (size - 1, 0), mode="replicate"), size, 1)
    return mel.lerp(means, float(rng.uniform(0.3, 1)))


def _with_dynamics(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of them with another range of levels, in time and over frequencies."""
    if rng.random() < 0.5:
        return mel
    levels = mel.mean(1, keepdim=True)
    contrast, dynamics = rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.2)
    return levels.mean() + (levels - levels.mean()) * dynamics + (mel - levels) * contrast


def _read(mel: Tensor, places: np.ndarray, dim: int) -> Tensor:
    """What is at these places of a dimension, between its indices too."""
    below = torch.from_numpy(np.floor(places).astype(np.int64))
    above = (below + 1).clamp(max=mel.shape[dim] - 1)
    share = torch.from_numpy(places).float() - below
    share = share.view(-1, *[1] * (mel.dim() - 1 - dim)).to(mel.device)
    below, above = below.to(mel.device), above.to(mel.device)
    return mel.index_select(dim, below).lerp(mel.index_select(dim, above), share)
