"""What a checkpoint's codec makes of held-out speech."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from tqdm import tqdm

from models.contract import SpeechModel
from models.westlake.firefly import FireflyArchitecture

from ..speech.speakers import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A wave and its copy, both [n] float32 at the codec's rate, and the codes [K, L] between."""

    original: np.ndarray
    wave: np.ndarray
    codes: torch.Tensor


def codec_of(model: SpeechModel) -> FireflyArchitecture | None:
    """The codec, where the family has one that copies speech."""
    codec = getattr(getattr(model, "checkpoint", None), "codec", None)
    return codec if isinstance(codec, FireflyArchitecture) else None


def copy_all(codec: FireflyArchitecture, waves: Sequence[np.ndarray]) -> list[Copy]:
    """Waves [n] float32 at 22,050 Hz through the codec, each by itself."""
    return [copy_one(codec, wave) for wave in tqdm(waves, desc="codec", leave=False)]


@torch.inference_mode()
def copy_one(codec: FireflyArchitecture, wave: np.ndarray) -> Copy:
    """A wave [n] float32 at 22,050 Hz through the codec."""
    config = codec.config
    device = next(codec.parameters()).device
    original = AF.resample(torch.from_numpy(wave), SAMPLE_RATE, config.sample_rate)
    padded = F.pad(original, (0, max(0, config.samples_per_frame - len(original))))
    codes = codec.encode_chunk(padded[None, None].to(device), codec.new_state(), last=True)
    decoded = codec.decode_chunk(codes, codec.new_state())[0, 0].float().cpu().numpy()
    length = min(len(original), len(decoded))
    return Copy(original=original.numpy()[:length], wave=decoded[:length], codes=codes[0].cpu())


def stoi(codec: FireflyArchitecture, copies: Sequence[Copy]) -> float:
    """Mean short-time objective intelligibility of the copies, 0..1 (Taal et al., 2011)."""
    import pystoi

    rate = codec.config.sample_rate
    return float(np.mean([pystoi.stoi(pair.original, pair.wave, rate) for pair in copies]))


@torch.inference_mode()
def mel_distance(codec: FireflyArchitecture, copies: Sequence[Copy]) -> float:
    """Median over the copies of the mean log-mel difference (L1)."""
    device = next(codec.parameters()).device
    distances = []
    for pair in copies:
        waves = torch.from_numpy(np.stack([pair.original, pair.wave]))[:, None].to(device)
        original, decoded = codec.spec_transform(waves)
        distances.append(float(F.l1_loss(original, decoded)))
    return float(np.median(distances)) if distances else math.nan


def fewest_codes(copies: Sequence[Copy]) -> int:
    """Different codes in the codebook that uses the fewest."""
    codes = torch.cat([pair.codes for pair in copies], dim=1)
    return min(len(row.unique()) for row in codes)
