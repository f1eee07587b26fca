"""Speech whose wave follows from its codes: whole periods of the voice in every frame.

A log-mel spectrogram tells how high a voice is, but not where in its period; a vocoder that sees
codes alone can't know either, and a feed-forward one ends with pulses at its own frame rate. So
the speech it learns from is taken apart and made again by WORLD (Morise et al., 2016), the pitch
moved to the nearest that fills each frame of codes with whole periods. Its steps are small in a
high voice and coarse in a low one: 21.5 Hz.
"""

import numpy as np
import pyworld

from .synthesise import SAMPLE_RATE

F0_RANGE = (60.0, 500.0)  # Hz
STEPS_PER_FRAME = 8  # points of analysis
FIRST_PERIODS = 8  # in every utterance's first frame, so that all are in phase with one another


def lock_pitch(wave: np.ndarray, samples_per_frame: int) -> np.ndarray:
    """The same speech with whole periods in every frame.

    Args:
        wave: [T] float32 at 22,050 Hz, T a multiple of `samples_per_frame`.

    Returns:
        [T] float32.
    """
    step = samples_per_frame / STEPS_PER_FRAME / SAMPLE_RATE * 1000  # milliseconds
    samples = wave.astype(np.float64)
    f0, times = pyworld.dio(samples, SAMPLE_RATE, *F0_RANGE, frame_period=step)
    f0 = pyworld.stonemask(samples, f0, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(samples, f0, times, SAMPLE_RATE)
    noise_share = pyworld.d4c(samples, f0, times, SAMPLE_RATE)
    voiced = f0 > 0
    noise_share[~voiced] = 1.0  # the pulses that are made there all the same stay unheard
    if not voiced.any():
        return wave
    f0 = np.interp(np.arange(len(f0)), np.flatnonzero(voiced), f0[voiced])
    num_frames = -(-len(f0) // STEPS_PER_FRAME)
    f0 = np.pad(f0, (0, num_frames * STEPS_PER_FRAME - len(f0)), mode="edge")
    frame_rate = SAMPLE_RATE / samples_per_frame
    periods = np.maximum(2, np.round(f0.reshape(num_frames, -1).mean(1) / frame_rate))
    periods[0] = FIRST_PERIODS
    locked = np.repeat(periods * frame_rate, STEPS_PER_FRAME)[: len(voiced)]
    made = pyworld.synthesize(locked, envelope, noise_share, SAMPLE_RATE, step)
    return np.pad(made, (0, max(0, len(wave) - len(made))))[: len(wave)].astype(np.float32)
