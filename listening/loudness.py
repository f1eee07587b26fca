"""Sounds made equally loud, as ITU-R BS.1770 measures it, and a MUSHRA test's anchor.

scipy and pyloudnorm are imported where they are used: the page starts without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.errors import UserError, shown

TARGET_LUFS = -23.0  # EBU R 128's; speech at this level hardly ever clips
MAX_PEAK = 0.98  # of full scale
BLOCK_SECONDS = 0.4  # of BS.1770; a shorter sound is repeated up to it
ANCHOR_HZ, ANCHOR_STOP_HZ = 3500.0, 4000.0  # ITU-R BS.1534-3, 5.1
ANCHOR_STOP_DB = 60.0


def loudness(samples: np.ndarray, sample_rate: int) -> float:
    """The integrated loudness of a mono sound [n] in -1..1, in LUFS; -inf for silence."""
    import pyloudnorm

    missing = math.ceil(BLOCK_SECONDS * sample_rate) + 1 - len(samples)
    if missing > 0:
        samples = np.resize(samples, len(samples) + missing)
    meter = pyloudnorm.Meter(sample_rate, block_size=BLOCK_SECONDS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(meter.integrated_loudness(samples.astype(np.float64)))


def match_loudness(
    sounds: Sequence[tuple[str, np.ndarray, int]],
) -> list[tuple[np.ndarray, float]]:
    """Make sounds equally loud, each by one gain; the level is lowered until none clips.

    Args:
        sounds: (name, samples [n] in -1..1, sample rate) of each.

    Returns:
        For each its samples and its gain in dB.

    Raises:
        UserError: one is silent.
    """
    levels = [loudness(samples, rate) for _, samples, rate in sounds]
    for (name, _, _), level in zip(sounds, levels):
        if not math.isfinite(level):
            raise UserError("error_test_silent", name=shown(name))
    rooms = [
        level + 20 * math.log10(MAX_PEAK / float(np.abs(samples).max()))
        for (_, samples, _), level in zip(sounds, levels)
    ]
    target = min([TARGET_LUFS, *rooms])
    gains = [target - level for level in levels]
    return [
        ((samples * 10 ** (gain / 20)).astype(np.float32), gain)
        for (_, samples, _), gain in zip(sounds, gains)
    ]


def anchor(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A sound [n] without what lies above 3.5 kHz, as long as before."""
    from scipy.signal import fftconvolve, firwin, kaiserord

    width = (ANCHOR_STOP_HZ - ANCHOR_HZ) / (sample_rate / 2)
    num_taps, beta = kaiserord(ANCHOR_STOP_DB, width)
    middle = min((ANCHOR_HZ + ANCHOR_STOP_HZ) / 2, 0.49 * sample_rate)
    taps = firwin(num_taps | 1, middle, window=("kaiser", beta), fs=sample_rate)
    return fftconvolve(samples, taps, mode="full")[len(taps) // 2 :][: len(samples)].astype(
        np.float32
    )
