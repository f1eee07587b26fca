"""Small listening tests."""

import numpy as np

from listening.definition import ListeningTest
from listening.sample import Sample, new_test


def sample(condition: str, prompt: str, hertz: float = 300.0) -> Sample:
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(8_000) / 16_000).astype(np.float32)
    return Sample(condition=condition, prompt=prompt, samples=wave, sample_rate=16_000)


def new(kind: str = "mos", **options) -> tuple[ListeningTest, dict[str, bytes]]:
    samples = [sample(c, p, h) for c, h in (("a", 300), ("b", 500)) for p in ("p", "q")]
    return new_test(kind, "title", samples, seed=1, **options)
