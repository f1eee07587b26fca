"""Sounds that hold no speech: silence and noises, which a checkpoint should not take for words."""

from __future__ import annotations

import numpy as np

from ..speech.speakers import NOISE_FLOOR, SAMPLE_RATE, noise

SECONDS = (0.8, 3.5)
LEVEL_DB = (-45.0, -15.0)  # RMS of a noise
SILENT = ("nothing", "quiet")


def make_sounds(num_sounds: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """(kind, wave [n] float32 at 22,050 Hz), all kinds in turn."""
    kinds = list(_MAKERS)
    sounds = []
    for index in range(num_sounds):
        kind = kinds[index % len(kinds)]
        length = round(rng.uniform(*SECONDS) * SAMPLE_RATE)
        wave = _MAKERS[kind](length, rng)
        if kind not in SILENT:
            wave = wave * 10 ** (rng.uniform(*LEVEL_DB) / 20) / np.sqrt(np.mean(wave**2))
            wave = wave + NOISE_FLOOR * noise(length, False, rng)
        sounds.append((kind, wave.clip(-1, 1).astype(np.float32)))
    return sounds


def _nothing(length: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(length)


def _quiet(length: int, rng: np.random.Generator) -> np.ndarray:
    """What a microphone gives of a silent room."""
    return noise(length, True, rng) * 10 ** (rng.uniform(-75, -55) / 20)


def _white(length: int, rng: np.random.Generator) -> np.ndarray:
    return noise(length, False, rng)


def _pink(length: int, rng: np.random.Generator) -> np.ndarray:
    return noise(length, True, rng)


def _hum(length: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum and its harmonics."""
    time = np.arange(length) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0, 100.0])
    phases = rng.uniform(0, 2 * np.pi, 5)
    return sum(np.sin(2 * np.pi * base * k * time + p) / k for k, p in enumerate(phases, start=1))


def _knocks(length: int, rng: np.random.Generator) -> np.ndarray:
    """Short dull blows at random times."""
    wave = np.zeros(length)
    for start in rng.integers(0, length // 2, 2 + length // SAMPLE_RATE):
        time = np.arange(length - start) / SAMPLE_RATE
        decay = np.exp(-time / rng.uniform(0.01, 0.05))
        wave[start:] += decay * np.sin(2 * np.pi * rng.uniform(80, 900) * time)
    return wave


def _tones(length: int, rng: np.random.Generator) -> np.ndarray:
    """A melody of pure tones, four a second."""
    time = np.arange(length) / SAMPLE_RATE
    notes = 440 * 2 ** (rng.integers(-9, 12, 1 + length * 4 // SAMPLE_RATE) / 12)
    return np.sin(2 * np.pi * np.cumsum(notes[(time * 4).astype(int)]) / SAMPLE_RATE)


_MAKERS = {
    "nothing": _nothing,
    "quiet": _quiet,
    "white": _white,
    "pink": _pink,
    "hum": _hum,
    "knocks": _knocks,
    "tones": _tones,
}
