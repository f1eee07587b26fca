"""Speech whose wave follows from its codes: the voice's periods in step with the frames.

A log-mel spectrogram tells how high a voice is, but not where in its period; a vocoder that sees
codes alone can't know either, and a feed-forward one ends with pulses at its own frame rate. So
the speech it learns from is taken apart and made again by WORLD (Morise et al., 2016), the pitch
moved a little. Any speech gets whole periods in every frame of codes, which costs it much of its
tones: the steps are 21.5 Hz. Speech that is put together from syllables (see `syllables`) gets
whole periods in every syllable, and quarters in its frames, whose codes then tell the quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyworld

from .codec import TINY_CODEC
from .synthesise import NOISE_FLOOR, SAMPLE_RATE

F0_RANGE = (60.0, 500.0)  # Hz
STEPS_PER_FRAME = 8  # points of analysis
FIRST_PERIODS = 8  # in every utterance's first frame, so that all are in phase with one another
FRAME = TINY_CODEC.samples_per_frame
_MILLISECONDS = FRAME / STEPS_PER_FRAME / SAMPLE_RATE * 1000
_FRAME_RATE = SAMPLE_RATE / FRAME
_FREQUENCIES = pyworld.get_cheaptrick_fft_size(SAMPLE_RATE) // 2 + 1
_SILENCE = 1e-9  # power


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A stretch of speech as WORLD sees it, `STEPS_PER_FRAME` points in a frame of codes.

    Fields:
        f0: [P], in periods a frame; where nothing is voiced, drawn through from what is.
        envelope: [P, frequencies], log power.
        noise_share: [P, frequencies], 0 to 1.
    """

    f0: np.ndarray
    envelope: np.ndarray
    noise_share: np.ndarray

    @classmethod
    def silence(cls, num_frames: int) -> Sound:
        shape = (num_frames * STEPS_PER_FRAME, _FREQUENCIES)
        return cls(
            f0=np.full(shape[0], float(FIRST_PERIODS)),
            envelope=np.full(shape, np.log(_SILENCE), np.float32),
            noise_share=np.ones(shape, np.float32),
        )

    @classmethod
    def analyse(cls, wave: np.ndarray) -> Sound:
        """Take apart a wave [T] at 22,050 Hz, in which something is voiced; P is T in points + 1.

        Raises:
            ValueError: nothing is voiced.
        """
        samples = wave.astype(np.float64)
        f0, times = pyworld.dio(samples, SAMPLE_RATE, *F0_RANGE, frame_period=_MILLISECONDS)
        f0 = pyworld.stonemask(samples, f0, times, SAMPLE_RATE)
        envelope = pyworld.cheaptrick(samples, f0, times, SAMPLE_RATE)
        noise_share = pyworld.d4c(samples, f0, times, SAMPLE_RATE)
        voiced = f0 > 0
        if not voiced.any():
            raise ValueError("the wave has no voice: give speech")
        noise_share[~voiced] = 1.0  # the pulses that are made there all the same stay unheard
        f0 = np.interp(np.arange(len(f0)), np.flatnonzero(voiced), f0[voiced])
        return cls(
            f0=f0 / _FRAME_RATE,
            envelope=np.log(envelope).astype(np.float32),
            noise_share=noise_share.astype(np.float32),
        )

    def stretch(self, start: float, end: float, num_frames: int) -> Sound:
        """What lies between two points in time, in samples, brought to `num_frames`."""
        points = (np.arange(num_frames * STEPS_PER_FRAME) + 0.5) / (num_frames * STEPS_PER_FRAME)
        points = (start + (end - start) * points) / (FRAME / STEPS_PER_FRAME)
        left = np.clip(points.astype(int), 0, len(self.f0) - 2)
        right = np.clip(points - left, 0, 1)

        def mix(x: np.ndarray) -> np.ndarray:
            share = right if x.ndim == 1 else right[:, None].astype(x.dtype)
            return x[left] * (1 - share) + x[left + 1] * share

        return Sound(
            f0=mix(self.f0), envelope=mix(self.envelope), noise_share=mix(self.noise_share)
        )

    def with_tones(self, factor: float) -> Sound:
        """The same with its pitch moved that many times as far from its mean."""
        mean = self.f0.mean()
        return replace(self, f0=mean + factor * (self.f0 - mean))

    def quarters(self) -> np.ndarray:
        """Quarters of a period from its beginning to the bounds of its n frames: [n + 1] int.

        The last is a whole number of periods.
        """
        bounds = np.append(0, np.cumsum(self.f0.reshape(-1, STEPS_PER_FRAME).mean(axis=1)))
        whole = max(1, round(bounds[-1]))
        return np.round(4 * bounds * (whole / bounds[-1])).astype(int)


def make(sounds: Sequence[Sound]) -> np.ndarray:
    """The wave [T] float32 of sounds one after another, each of which begins with a period."""
    f0 = np.concatenate([sound.f0 for sound in sounds]).reshape(-1, STEPS_PER_FRAME)
    periods = np.concatenate([np.diff(sound.quarters()) / 4 for sound in sounds])
    # WORLD draws lines between the points: all but a frame's first are moved to fit its periods
    following = np.append(f0[1:, 0], f0[-1, 0])
    integrals = (f0.sum(axis=1) + (following - f0[:, 0]) / 2) / STEPS_PER_FRAME
    f0[:, 1:] += ((periods - integrals) * STEPS_PER_FRAME / (STEPS_PER_FRAME - 1))[:, None]
    wave = _synthesise(
        f0.flatten(),
        np.concatenate([sound.envelope for sound in sounds]),
        np.concatenate([sound.noise_share for sound in sounds]),
        len(periods) * FRAME,
    )
    noise = np.random.default_rng(0).standard_normal(len(wave), dtype=np.float32)
    return wave + NOISE_FLOOR * noise


def lock_pitch(wave: np.ndarray) -> np.ndarray:
    """The same speech with whole periods in every frame: [T] float32, as is `wave`, 22,050 Hz.

    T is to be whole frames; where nothing is voiced it comes back as it is.
    """
    try:
        sound = Sound.analyse(wave)
    except ValueError:
        return wave
    num_frames = -(-len(sound.f0) // STEPS_PER_FRAME)
    f0 = np.pad(sound.f0, (0, num_frames * STEPS_PER_FRAME - len(sound.f0)), mode="edge")
    periods = np.maximum(2, np.round(f0.reshape(num_frames, -1).mean(1)))
    periods[0] = FIRST_PERIODS
    locked = np.repeat(periods, STEPS_PER_FRAME)[: len(sound.f0)]
    return _synthesise(locked, sound.envelope, sound.noise_share, len(wave))


def _synthesise(
    f0: np.ndarray, envelope: np.ndarray, noise_share: np.ndarray, length: int
) -> np.ndarray:
    made = pyworld.synthesize(
        f0 * _FRAME_RATE,
        np.exp(envelope.astype(np.float64)),
        noise_share.astype(np.float64),
        SAMPLE_RATE,
        _MILLISECONDS,
    )
    return np.pad(made, (0, max(0, length - len(made))))[:length].astype(np.float32)
