"""Measures of pitch, pace and loudness."""

import numpy as np
import pytest

from training.speech.prosody import measure_prosody

SAMPLE_RATE = 22050


def pulses(f0: float, seconds: float, level: float) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * k * f0 * time) / k for k in range(1, 8))
    return level * voice / np.sqrt(np.mean(voice**2))


@pytest.mark.parametrize("f0", [80.0, 130.0, 220.0, 330.0])
def test_measure_prosody_of_a_known_tone(f0: float) -> None:
    wave = np.pad(pulses(f0, 2.0, 0.1), SAMPLE_RATE // 2)
    wave += 1e-4 * np.random.default_rng(0).standard_normal(len(wave))
    measure = measure_prosody(wave, SAMPLE_RATE, 8)
    assert measure.f0_hz == pytest.approx(f0, rel=0.02)
    assert measure.f0_spread < 0.5
    assert measure.syllables_per_second == pytest.approx(4.0, rel=0.05)
    assert measure.loudness_db == pytest.approx(-20.0, abs=0.3)


def test_measure_prosody_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="silent"):
        measure_prosody(np.zeros(SAMPLE_RATE), SAMPLE_RATE, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 22050\)"):
        measure_prosody(np.zeros((1, SAMPLE_RATE)), SAMPLE_RATE, 3)
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    assert measure_prosody(noise, SAMPLE_RATE, 3).f0_hz == 0.0
