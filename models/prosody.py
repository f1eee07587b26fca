"""What can be seen of a sound: outline, mel spectrogram, pitch, loudness, colour, liveliness.

`liveliness` is a rule of thumb. In studies of acted speech, joy and anger have a wide pitch range
and a quick pace, sadness and tiredness a narrow one and a slow pace (Juslin and Laukka 2003;
Scherer 2003). That orders speech by arousal; it tells neither happy from angry
nor how this person speaks otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STEP_SECONDS = 0.01
PITCH_SECONDS = 0.05  # of sound that one value of the pitch is of: three periods at 60 Hz
LOW_HZ, HIGH_HZ = 60.0, 500.0
VOICED = 0.55  # of the normalised autocorrelation
FIRST_PEAK = 0.9  # of the highest one: an earlier peak that high is the period itself
AUDIBLE_DB = 35.0  # below the loudest
FLOOR_DB = -90.0
PICTURE_DB = 80.0  # from a picture's darkest to its brightest
DARKEST_DB = -120.0  # of a full-scale sine; the rounding to 16 bits is hardly louder
BLOCK = 256  # frames that are looked at together
NUM_BANDS = 64  # of a picture
NUM_COLOURS = 16
MAX_COLUMNS = 1200
EVEN_SPREAD, EVEN_PACE = 3.0, 4.0  # semitones; bursts a second
UNIT = 1.5  # of both: so much more or less counts one
BURST_DB = 3.0  # from a burst of loudness, roughly a syllable, down to the dips around it


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """Curves of a sound, a value each `step` seconds.

    Fields:
        pitch: [n] in Hz, NaN where it has none.
        loudness: [n] in dB of full scale.
        colour: [n, `NUM_COLOURS`] in dB: how loud bands of the mel scale are, low ones first.
    """

    step: float
    pitch: np.ndarray
    loudness: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Liveliness:
    """How lively speech is, and what that is taken from.

    Fields:
        word: "lively", "even" or "subdued".
        score: 0 for even speech; 1 more for each `UNIT` of spread or pace.
        median_hz: of the pitch.
        spread: of the pitch in semitones: half of what the middle 68 % of it span.
        pace: bursts of loudness a second.
    """

    word: str
    score: float
    median_hz: float
    spread: float
    pace: float


def prosody(samples: np.ndarray, sample_rate: int) -> Prosody:
    """The curves of a mono sound [n] float in -1..1, n above 0."""
    stream = ProsodyStream(sample_rate)
    stream.push(samples)
    return stream.finish()


class ProsodyStream:
    """`prosody` of a sound that still comes; in whatever pieces, the curves are the same."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._size = round(PITCH_SECONDS * sample_rate)
        self._step = round(STEP_SECONDS * sample_rate)
        self._bank = _mel_bank(sample_rate, 2 * self._size, NUM_COLOURS)
        self._num_samples = 0
        self._waiting = np.zeros(self._size // 2)  # what the frames to come begin with
        self._curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, [n] float in -1..1."""
        self._num_samples += len(samples)
        self._look_at(samples)

    def finish(self) -> Prosody:
        """The curves of all samples, of which there must be some; no more can follow."""
        self._look_at(np.zeros(self._size))
        num_frames = math.ceil(self._num_samples / self._step)
        loudness, pitch, colour = (np.concatenate(c)[:num_frames] for c in zip(*self._curves))
        pitch[loudness < max(loudness.max() - AUDIBLE_DB, FLOOR_DB + 20)] = np.nan
        step = self._step / self._sample_rate
        return Prosody(step=step, pitch=_smooth(pitch), loudness=loudness, colour=colour)

    def _look_at(self, samples: np.ndarray) -> None:
        waiting = np.concatenate([self._waiting, samples])
        if len(waiting) >= self._size:
            frames = np.lib.stride_tricks.sliding_window_view(waiting, self._size)[:: self._step]
            self._curves += [self._look(frames[at : at + BLOCK]) for at in _starts(frames)]
            waiting = waiting[len(frames) * self._step :].copy()
        self._waiting = waiting

    def _look(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The loudness, the pitch, not smoothed yet, and the colour of frames [n, size]."""
        even = frames - frames.mean(axis=1, keepdims=True)
        power = np.abs(np.fft.rfft(even, 2 * self._size)) ** 2
        colour = 10 * np.log10(power @ self._bank.T / self._size**2 + 1e-12)
        pitch = _pitch(even, power, self._sample_rate)
        return _levels(frames), pitch, np.maximum(colour, FLOOR_DB)


def liveliness(curves: Prosody) -> Liveliness | None:
    """How lively speech is; None where less than a third of a second has a pitch."""
    from scipy.signal import find_peaks

    voiced = curves.pitch[np.isfinite(curves.pitch)]
    if len(voiced) * curves.step < 1 / 3:
        return None
    median = float(np.median(voiced))
    low, high = np.percentile(voiced, (16, 84))  # a few octave errors don't matter
    spread = float(6 * np.log2(high / low))
    width = max(1, round(0.05 / curves.step))
    level = np.convolve(curves.loudness, np.ones(width) / width, mode="same")
    audible = level > level.max() - AUDIBLE_DB
    peaks, _ = find_peaks(level, height=level.max() - AUDIBLE_DB / 2, prominence=BURST_DB)
    pace = len(peaks) / (audible.sum() * curves.step)
    score = (spread - EVEN_SPREAD) / UNIT + (pace - EVEN_PACE) / UNIT
    word = "lively" if score > 1 else "subdued" if score < -1 else "even"
    return Liveliness(word=word, score=score, median_hz=median, spread=spread, pace=pace)


def outline(samples: np.ndarray, num_points: int) -> np.ndarray:
    """The lowest and the highest sample of each of so many parts at most, [2, m]."""
    num_points = min(num_points, len(samples))
    starts = np.linspace(0, len(samples), num_points, endpoint=False).astype(int)
    return np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])


def mel_picture(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A log-mel spectrogram [bands, columns] uint8, low bands first.

    From 0 to 255 are `PICTURE_DB`, up to the loudest, but no quieter than `DARKEST_DB`.
    """
    size = 1 << round(math.log2(0.032 * sample_rate))
    step = max(round(STEP_SECONDS * sample_rate), math.ceil(len(samples) / MAX_COLUMNS))
    padded = np.pad(samples.astype(np.float32), (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    frames = frames[: math.ceil(len(samples) / step)]
    window, bank = np.hanning(size).astype(np.float32), _mel_bank(sample_rate, size)
    columns = [
        bank @ (np.abs(np.fft.rfft(frames[at : at + BLOCK] * window)) ** 2).T
        for at in _starts(frames)
    ]
    full_scale = (window.sum() / 2) ** 2
    power = 10 * np.log10(np.concatenate(columns, axis=1) / full_scale + 1e-15)
    darkest = max(power.max() - PICTURE_DB, DARKEST_DB)
    return (np.clip((power - darkest) / PICTURE_DB, 0, 1) * 255).astype(np.uint8)


def _starts(frames: np.ndarray) -> range:
    return range(0, len(frames), BLOCK)


def _levels(frames: np.ndarray) -> np.ndarray:
    return np.maximum(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12), FLOOR_DB)


def _pitch(frames: np.ndarray, power: np.ndarray, sample_rate: int) -> np.ndarray:
    """The pitch of each frame in Hz, NaN where its normalised autocorrelation has no high peak.

    Args:
        frames: [n, size], whose means are 0.
        power: their spectra [n, size + 1], padded to twice the size.
    """
    size = frames.shape[1]
    low, high = int(sample_rate / HIGH_HZ), min(math.ceil(sample_rate / LOW_HZ) + 1, size * 2 // 3)
    products = np.fft.irfft(power)[:, : high + 1]
    energy = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    lags = np.arange(high + 1)
    ends = energy[:, size - lags] * (energy[:, -1:] - energy[:, lags])
    similar = products / np.sqrt(ends + 1e-20)
    middle = similar[:, low:high]
    is_peak = (middle >= similar[:, low - 1 : high - 1]) & (middle > similar[:, low + 1 : high + 1])
    best = np.where(is_peak, middle, 0).max(axis=1)
    first = np.argmax(is_peak & (middle >= FIRST_PEAK * best[:, None]), axis=1) + low
    rows = np.arange(len(frames))
    before, at, after = (similar[rows, first + shift] for shift in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(np.abs(bend) > 1e-12, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0)
    return np.where(best > VOICED, sample_rate / (first + np.clip(shift, -0.5, 0.5)), np.nan)


def _smooth(pitch: np.ndarray) -> np.ndarray:
    """The median of five values, of those that are there; what stands alone is no pitch."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(pitch, 2, constant_values=np.nan), 5)
    count = np.isfinite(windows).sum(axis=1)
    medians = np.full(len(pitch), np.nan)
    kept = np.isfinite(pitch) & (count >= 3)
    medians[kept] = np.nanmedian(windows[kept], axis=1)
    return medians


def _mel_bank(sample_rate: int, size: int, num_bands: int = NUM_BANDS) -> np.ndarray:
    """Triangles over the mel scale, [bands, size / 2 + 1]."""
    edges = np.linspace(0, 2595 * np.log10(1 + sample_rate / 2 / 700), num_bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.fft.rfftfreq(size, 1 / sample_rate)
    rising = (bins - hertz[:-2, None]) / np.diff(hertz)[:-1, None]
    falling = (hertz[2:, None] - bins) / np.diff(hertz)[1:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    # A narrow triangle may miss all bins: it takes the nearest one.
    nearest = np.abs(bins[None] - hertz[1:-1, None]).argmin(axis=1)
    rows = np.arange(num_bands)
    bank[rows, nearest] = np.maximum(bank[rows, nearest], 1e-3)
    return bank.astype(np.float32)
