"""Train the classifier of voices, which has a say in the emotion that a reply perceives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor

from models.prosody import NUM_COLOURS, prosody
from models.westlake.moods import COLOURS, PACES, MoodClassifier, features, write_moods
from models.westlake.topics import characters

from ..dialogues import EMOTIONS
from .recordings import Recording
from .speakers import SAMPLE_RATE, Microphone, vary

# Microphones that each recording is heard through as it is, and as larger or smaller people might
# have said it; and the deviation of the logarithm of their size.
AS_IT_IS, VARIED, SIZE = 3, 2, 0.09
MOST_MISSED = 0.15  # of a recording's syllables, as the language model misses some
STEPS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 3000, 256, 3e-3, 1e-2
# Deviations of what is added: to the loudness, and to the colour in each of some bands, between
# which it is interpolated, in dB, for microphones and voices differ more than these do; and to each
# feature, of its own deviation.
LEVEL, COLOUR, COLOUR_BANDS, NOISE = 4.0, 8.0, 5, 0.1
UNCOUNTED_SHARE = 0.2  # of what is heard beside a text, whose syllables nobody counts
LEAST_DEVIATION = 0.01  # of a feature that is always the same


def train_moods(
    recordings: Iterable[Recording],
    heldout: Iterable[Recording],
    path: Path,
    seed: int = 0,
    steps: int = STEPS,
) -> None:
    """Learn the moods of recordings; those in which nobody knows one are left out."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    measured, moods = _measured(recordings, AS_IT_IS, VARIED, rng)
    classifier = MoodClassifier(EMOTIONS, SAMPLE_RATE)
    classifier.mean.copy_(measured.mean(dim=0))
    classifier.deviation.copy_(measured.std(dim=0).clamp(min=LEAST_DEVIATION))
    # What is likely beforehand, the language model knows.
    weights = 1 / moods.bincount(minlength=len(EMOTIONS)).clamp(min=1)
    optimizer = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for _ in range(steps):
        chosen = torch.randint(len(measured), (BATCH_SIZE,))
        batch = measured[chosen]
        batch[:, COLOURS] += LEVEL * torch.randn(len(batch), 1) + _other_colours(len(batch))
        batch[torch.rand(len(batch)) < UNCOUNTED_SHARE, PACES] = torch.nan
        batch += NOISE * classifier.deviation * torch.randn_like(batch)
        loss = F.cross_entropy(classifier(batch), moods[chosen], weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    right = held_out_share(classifier, heldout, seed)
    logger.info(f"moods: loss {loss.item():.3f}, held out {right:.3f} right by the voice alone")
    write_moods(path, classifier)


def _other_colours(number: int) -> Tensor:
    """What other voices and microphones add to the bands: [number, `NUM_COLOURS`], in dB."""
    added = COLOUR * torch.randn(number, 1, COLOUR_BANDS)
    return F.interpolate(added, NUM_COLOURS, mode="linear", align_corners=True)[:, 0]


@torch.no_grad()
def held_out_share(classifier: MoodClassifier, heldout: Iterable[Recording], seed: int) -> float:
    """Of recordings at microphones, those whose mood is told."""
    measured, moods = _measured(heldout, 1, 0, np.random.default_rng(seed))
    return float((classifier(measured).argmax(dim=1) == moods).float().mean())


def _measured(
    recordings: Iterable[Recording], as_it_is: int, varied: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Recordings at microphones -> features [N, F] and moods [N], of those that have both."""
    measured, moods = [], []
    for recording in recordings:
        if recording.line.manner not in EMOTIONS:
            continue
        said = recording.wave.astype(np.float32) / 32_768
        for index in range(as_it_is + varied):
            heard = said if index < as_it_is else vary(said, np.exp(rng.normal(0, SIZE)))
            wave = Microphone.draw(rng).record(heard)
            number = len(characters(recording.line.text))
            number -= rng.binomial(number, rng.uniform(0, MOST_MISSED))
            told = features(prosody(wave, SAMPLE_RATE), number)
            if told is not None:
                measured.append(told)
                moods.append(EMOTIONS.index(recording.line.manner))
    if not measured:
        raise ValueError("no recording has a mood and a pitch: record users first")
    return torch.stack(measured), torch.tensor(moods)
