"""What a voice does besides words: pitch, pitch spread, pace and loudness of one utterance."""

import math
from dataclasses import dataclass

import numpy as np

F0_MIN_HZ, F0_MAX_HZ = 60.0, 520.0
FRAME_SECONDS, HOP_SECONDS = 0.040, 0.010
ACTIVE_DB = -40.0  # a frame further below the loudest one is silence
VOICED = 0.5  # normalised autocorrelation from which a frame counts as voiced
OCTAVE_BIAS = 0.92  # the shortest period nearly as good as the best one wins


@dataclass(frozen=True, kw_only=True)
class ProsodyMeasure:
    """Measures of one utterance; f0_hz and f0_spread are 0 where nothing is voiced."""

    f0_hz: float  # median over the voiced frames
    f0_spread: float  # 10th to 90th percentile of F0, in semitones
    syllables_per_second: float
    loudness_db: float  # RMS of the active frames, full scale = 0 dB


def measure_prosody(wave: np.ndarray, sample_rate: int, num_syllables: int) -> ProsodyMeasure:
    """Measure pitch, pace and loudness.

    Args:
        wave: [T] float, full scale 1.
        sample_rate: in Hz.
        num_syllables: syllables spoken, for Chinese the number of characters.
    Returns:
        The measures; pace is counted from the first to the last frame above -40 dB of the loudest.
    Raises:
        ValueError: the wave is not one-dimensional, shorter than one frame, or silent.
    """
    wave = np.asarray(wave, dtype=np.float64)
    frame, hop = round(FRAME_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    if wave.ndim != 1 or len(wave) < frame:
        raise ValueError(
            f"prosody needs a mono wave [T] of at least {frame} samples, got shape {wave.shape}"
        )
    frames = np.lib.stride_tricks.sliding_window_view(wave, frame)[::hop]  # [N, frame]
    power = np.mean(frames**2, axis=1)
    if power.max() <= 1e-10:
        raise ValueError("prosody of a silent wave is undefined: pass a wave that holds speech")
    active = power > power.max() * 10 ** (ACTIVE_DB / 10)
    first, last = np.flatnonzero(active)[[0, -1]]
    seconds = (last - first) * HOP_SECONDS + FRAME_SECONDS
    f0 = _voiced_f0(frames[active], sample_rate)
    low, median, high = np.percentile(f0, [10, 50, 90]) if len(f0) else (1.0, 0.0, 1.0)
    return ProsodyMeasure(
        f0_hz=float(median),
        f0_spread=12 * math.log2(high / low),
        syllables_per_second=num_syllables / seconds,
        loudness_db=10 * math.log10(power[active].mean()),
    )


def _voiced_f0(frames: np.ndarray, sample_rate: int) -> np.ndarray:
    """F0 in Hz of the voiced ones of `frames` [N, frame], by normalised autocorrelation."""
    size = frames.shape[1]
    window = np.hanning(size)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    lags = slice(int(sample_rate / F0_MAX_HZ), int(sample_rate / F0_MIN_HZ) + 1)
    # dividing by the window's own autocorrelation takes its bias towards short lags away
    correlation = _autocorrelation(frames)[:, lags]
    correlation = correlation / _autocorrelation(window[None])[:, lags]
    best = correlation.max(axis=1)
    voiced = best > VOICED
    correlation, best = correlation[voiced], best[voiced]
    inner = correlation[:, 1:-1]
    peak = (inner >= correlation[:, :-2]) & (inner >= correlation[:, 2:])
    peak &= inner >= OCTAVE_BIAS * best[:, None]
    lag = lags.start + 1 + peak.argmax(axis=1)
    return sample_rate / lag[peak.any(axis=1)]


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Autocorrelation of each row, 1 at lag 0."""
    size = frames.shape[1]
    spectrum = np.fft.rfft(frames, 2 * size, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :size]
    return correlation / np.maximum(correlation[:, :1], 1e-12)
