"""What mood a user's voice tells: a second opinion on the emotion that a reply begins with.

The language model tells it by codes, which keep little of how somebody speaks. A classifier of
what can be measured of melody, pace, loudness and colour makes other mistakes, so both together
make fewer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..files import naming
from ..prosody import AUDIBLE_DB, NUM_COLOURS, Prosody
from ..weights import assign_weights, planned, read_metadata, read_weights, write_weights
from .opinions import Leaning, doubted

MOODS_FILE = "moods.safetensors"
LEAST_VOICED = 15  # values of the pitch, without which nothing is told
BEFORE, BEHIND = 12, 20  # values of the curves, around the first and the last with a pitch
ENDS = 10  # values of the pitch at either end
QUANTILES = (5, 10, 25, 75, 90, 95)  # in percent
NUM_MELODY, NUM_PACES, NUM_DYNAMICS = 6 + len(QUANTILES), 3, 3
PACES = slice(NUM_MELODY, NUM_MELODY + NUM_PACES)  # where the features tell what syllables do
COLOURS = slice(PACES.stop + NUM_DYNAMICS, PACES.stop + NUM_DYNAMICS + NUM_COLOURS)
NUM_FEATURES = COLOURS.stop + NUM_COLOURS
DIM, DROPOUT = 128, 0.3
FARTHEST = 4.0  # standard deviations that a feature may be off its mean
SAY = 1.0  # weight of the classifier's opinion, where the language model's has 1


def features(curves: Prosody, num_syllables: int | None) -> Tensor | None:
    """How somebody speaks: [`NUM_FEATURES`] float32, None where too little has a pitch.

    Silence before and after it does not count. In semitones the pitch's median, its `QUANTILES`
    against it, its deviation, how far it moves from one value to the next, and its beginning and
    end against the median; the share of audible time that has one. Syllables a second, of audible
    time and of all, and their number, NaN where nobody counted them. In dB how far the loudness
    deviates, and how far its upper tenth is above its median and above its lowest twentieth; how
    loud each band is in the louder half, and how far it deviates.

    Args:
        curves: of at least one sample.
        num_syllables: that were heard; None where that is not known.
    """
    pitch = 12 * np.log2(curves.pitch)
    places = np.flatnonzero(np.isfinite(pitch))
    if len(places) < LEAST_VOICED:
        return None
    said = slice(max(0, places[0] - BEFORE), places[-1] + BEHIND)
    pitch, loudness, colour = pitch[said], curves.loudness[said], curves.colour[said]
    audible = loudness > loudness.max() - AUDIBLE_DB
    first, last = np.flatnonzero(audible)[[0, -1]]
    voiced, moves = pitch[np.isfinite(pitch)], np.abs(np.diff(pitch))
    moves = moves[np.isfinite(moves)]
    median = np.median(voiced)
    quiet, middle, loud = np.percentile(loudness[audible], (5, 50, 90))
    number = np.nan if num_syllables is None else num_syllables
    measured = [
        [median],
        np.percentile(voiced, QUANTILES) - median,
        [voiced.std(), moves.mean() if len(moves) else 0.0],
        [voiced[:ENDS].mean() - median, voiced[-ENDS:].mean() - median],
        [len(voiced) / audible.sum()],
        [number / (n * curves.step) for n in (audible.sum(), last + 1 - first)],
        [number],
        [loudness[audible].std(), loud - middle, loud - quiet],
        colour[loudness >= middle].mean(axis=0),
        colour[audible].std(axis=0),
    ]
    return torch.from_numpy(np.concatenate(measured)).float()


class MoodClassifier(nn.Module):
    """Tells moods apart by `features`.

    Args:
        classes: their names.
        sample_rate: of the sounds that it is for, in Hz.

    Attributes:
        mean, deviation: [`NUM_FEATURES`] float32, of the features in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: Sequence[str], sample_rate: int) -> None:
        super().__init__()
        self.classes, self.sample_rate = tuple(classes), sample_rate
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("deviation", torch.ones(NUM_FEATURES))
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, DIM),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(DIM, DIM),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(DIM, len(self.classes)),
        )

    def forward(self, measured: Tensor) -> Tensor:
        """Features [B, `NUM_FEATURES`] -> logits [B, classes]; NaN counts as the mean."""
        scaled = (measured - self.mean) / self.deviation
        return self.layers(scaled.nan_to_num(0.0).clamp(-FARTHEST, FARTHEST))

    @torch.no_grad()
    def opinion(self, measured: Tensor) -> Tensor:
        """Log-probabilities [classes] of features [`NUM_FEATURES`]; none is ruled out."""
        return doubted(self(measured[None])[0])


class MoodLeaning:
    """The classifier's opinion as what is added to the text logits where the emotion is written.

    Args:
        classifier: in eval mode.
        emotion_ids: the text token of each emotion.
        vocab_size: of the text tokens.

    Raises:
        ValueError: an emotion that is of no class.
    """

    def __init__(
        self, classifier: MoodClassifier, emotion_ids: Mapping[str, int], vocab_size: int
    ) -> None:
        self._classifier = classifier
        tokens = {token: name for name, token in emotion_ids.items()}
        self._leaning = Leaning(classifier.classes, tokens, vocab_size, SAY)

    def __call__(self, measured: Tensor) -> Tensor:
        """What a voice's `features` add to the text logits: [vocab] float32, see `Leaning`."""
        return self._leaning(self._classifier.opinion(measured))


def write_moods(path: Path, classifier: MoodClassifier) -> None:
    """Keep a classifier."""
    told = {"classes": json.dumps(classifier.classes), "sample_rate": str(classifier.sample_rate)}
    write_weights(path, classifier.state_dict(), metadata=told)


def read_moods(path: Path) -> MoodClassifier:
    """What `write_moods` has kept, in eval mode.

    Raises:
        ValueError: another file, or a damaged one.
    """
    weights = read_weights(path)
    with naming(path), planned():
        told = read_metadata(path)
        classes = json.loads(told["classes"])
        is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not is_list or not classes:
            raise ValueError("its classes must be a list of names")
        classifier = MoodClassifier(classes, int(told["sample_rate"]))
    assign_weights(classifier, weights, path, torch.float32)
    if not (classifier.deviation > 0).all():
        raise ValueError(f"{path}: its deviations must be above 0: it is damaged, fetch it again")
    return classifier.eval().requires_grad_(False)
