"""What the recipe's tests are made of: recordings, codes and a recogniser of no meaning."""

from collections.abc import Sequence

import numpy as np
import torch

from training.language.batch import Batch, Labels
from training.language.corpus import Spoken
from training.language.example import Example
from training.recogniser.recogniser import Recogniser
from training.speech import pinyin
from training.speech.recordings import Line, Recording
from training.speech.speakers import SAMPLE_RATE

CHARACTER_FRAMES = 3
LEAD_FRAMES = 4


def interpolated(wave: np.ndarray, sample_rate: float) -> np.ndarray:
    """A wave at the recordings' sample rate, as the real resampler need not be installed."""
    length = round(len(wave) * SAMPLE_RATE / sample_rate)
    places = np.arange(length) * sample_rate / SAMPLE_RATE
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def make_recording(
    text: str, manner: str, seed: int | None, source: str = "talk.hello"
) -> Recording:
    """Noise that is louder and softer, a fifth of a second a character."""
    rng = np.random.default_rng(sum(map(ord, text)) + (seed or 0))
    number = sum(c not in pinyin.PUNCTUATION for c in text)
    level = np.repeat(rng.uniform(500, 6000, 2 * number), 2205)
    wave = (rng.standard_normal(len(level)) * level).clip(-32768, 32767).astype(np.int16)
    line = Line(source=source, text=text, manner=manner, seed=seed)
    return Recording(line=line, wave=wave, onsets=tuple(0.2 * n for n in range(number)))


def make_spoken(intent: str, text: str, manner: str, seed: int = 0) -> Spoken:
    """Any codes, three frames a character."""
    number = sum(c not in pinyin.PUNCTUATION for c in text)
    frames = LEAD_FRAMES + CHARACTER_FRAMES * max(number, 2) + 2
    generator = torch.Generator().manual_seed(seed + sum(map(ord, text)))
    codes = torch.randint(0, 1000, (8, frames), generator=generator).short()
    onsets = tuple(LEAD_FRAMES + CHARACTER_FRAMES * n for n in range(number))
    return Spoken(intent=intent, text=text, manner=manner, codes=codes, onsets=onsets)


def recogniser_of(units: list[str]) -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(units).eval()


def collate(labels: Labels, examples: Sequence[Example], max_code_frames: int = 1000) -> Batch:
    return labels.collate(examples, max_code_frames, np.random.default_rng(0))
