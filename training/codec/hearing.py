"""Train the small codec's encoder on: its codes carry the words of whoever speaks.

The principal components that it has learned to code are those of the voices it learned from; of
other voices, and through microphones, a part of the words is lost. So a small network learns to
spell what is said from the codes alone, and the encoder learns with it, through the rounding. For
the rest it is held to the codes that it gave the same speech before any microphone: the codec goes
on copying, and what microphones add is left out. Voices are fewer than people: half of the
spectra are made rough, so that it doesn't rely on what one teacher's have in common.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.westlake.firefly import FireflyArchitecture

from ..loop import Stage, autocast
from ..recogniser.spelling import Speller, Spelling
from ..speech.perturbation import roughen
from ..speech.recordings import Recording
from ..speech.speakers import Microphone, vary
from .clips import FRAME, VARIATION
from .encoder import load_codes, new_encoder, quantiser_inputs

WIDTH = 256
DILATIONS = (1, 1, 2, 2, 4, 1)
DROPOUT = 0.1
BATCH_SIZE = 20
ROUND_BATCHES = 12  # drawn at once and sorted by length, so that batches need little padding
VARIED_SHARE, MICROPHONE_SHARE, ROUGH_SHARE = 0.5, 0.7, 0.5
SPELLING_WEIGHT = 0.5  # of a unit, against the squared error in levels


class Reader(nn.Module):
    """What codes stand for -> hidden states from which a text is spelt.

    Args:
        num_numbers: that a frame's codes stand for.
        spelling: of every text that it will be asked for.
    """

    def __init__(self, num_numbers: int, spelling: Spelling) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(num_numbers, WIDTH, 3, padding=1), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 1)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(WIDTH, WIDTH, 5, padding=2 * dilation, dilation=dilation),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Conv1d(WIDTH, WIDTH, 1),
            )
            for dilation in DILATIONS
        )
        # Of each frame by itself; without weights, so that what is 0 stays so.
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.speller = Speller(WIDTH, spelling)

    def loss(self, numbers: Tensor, lengths: Sequence[int], texts: Sequence[str]) -> Tensor:
        """Mean CTC loss a unit of numbers [B, T, N], of which `lengths` frames each are speech."""
        spoken = spoken_frames(lengths, numbers.shape[1], numbers.device).unsqueeze(1)
        hidden = self.stem(numbers.mT * spoken) * spoken
        for block in self.blocks:
            hidden = (hidden + block(self.norm(hidden.mT).mT)) * spoken
        return self.speller.loss([h[:n] for h, n in zip(hidden.mT, lengths)], texts)


def spoken_frames(lengths: Sequence[int], num_frames: int, device: torch.device) -> Tensor:
    """Which frames are speech: [B, T] bool."""
    frames = torch.arange(num_frames, device=device)
    return frames < torch.tensor(lengths, device=device).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A text, its wave [T] float32 before any microphone, and as one hears it."""

    text: str
    clean: np.ndarray
    wave: np.ndarray


class Speech:
    """Batches of speech of about equal length; the same step draws the same."""

    def __init__(self, recordings: Sequence[Recording], seed: int) -> None:
        self.recordings, self.seed = recordings, seed
        self.round, self.batches = -1, []

    def batch(self, step: int) -> list[Heard]:
        number, index = divmod(step, ROUND_BATCHES)
        if number != self.round:
            self.round, self.batches = number, self._draw(number)
        return self.batches[index]

    def _draw(self, number: int) -> list[list[Heard]]:
        rng = np.random.default_rng([self.seed, number])
        picks = rng.integers(len(self.recordings), size=ROUND_BATCHES * BATCH_SIZE)
        heard = [hear(self.recordings[pick], rng) for pick in picks]
        heard.sort(key=lambda one: len(one.wave))
        return [
            heard[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
            for index in rng.permutation(ROUND_BATCHES)
        ]


def hear(recording: Recording, rng: np.random.Generator) -> Heard:
    """A recording once more, some larger or smaller, and most at a microphone."""
    clean = recording.wave.astype(np.float32) / 32768
    if rng.random() < VARIED_SHARE:
        clean = vary(clean, rng.uniform(*VARIATION))
    at_microphone = rng.random() < MICROPHONE_SHARE
    wave = Microphone.draw(rng).record(clean) if at_microphone else clean
    return Heard(text=recording.line.text, clean=clean, wave=wave)


class Hearing:
    """An encoder that learns, the one that it began as, and who reads its codes.

    Args:
        codec: on the device.
        spelling: of all texts.
    """

    def __init__(self, codec: FireflyArchitecture, spelling: Spelling) -> None:
        self.before = copy.deepcopy(codec).eval().requires_grad_(False)
        self.codec = codec
        self.device = next(codec.parameters()).device
        self.groups = codec.quantizer.residual_fsq.rvqs
        codec.quantizer.upsample.requires_grad_(False)  # the decoder's
        for group in self.groups:
            group.project_out.requires_grad_(False)
        torch.manual_seed(0)
        num_numbers = len(self.groups) * len(codec.config.fsq_levels)
        self.reader = Reader(num_numbers, spelling).to(self.device)

    def losses(self, batch: Sequence[Heard], rough: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Of speech or, if `rough`, of what `roughen` makes of it.

        Returns:
            scalars: the squared distance to the codes of before, in levels; the loss of the reader;
            and the share of the numbers that are on another level than before.
        """
        lengths = [-(-len(one.wave) // FRAME) for one in batch]
        with torch.no_grad():
            clean, mel = (
                self.codec.spec_transform(self._padded(waves, max(lengths)))
                for waves in ([one.clean for one in batch], [one.wave for one in batch])
            )
            mel = roughen(mel, ROUGH_SHARE) if rough else mel
        with autocast(self.device):
            numbers = quantiser_inputs(self.codec, self.codec.backbone(mel))
            with torch.no_grad():
                wanted = quantiser_inputs(self.before, self.before.backbone(clean))
            levels = torch.stack([g.quantise(n)[0] for g, n in zip(self.groups, numbers)])
            spelt = self.reader.loss(
                levels.permute(1, 2, 0, 3).flatten(2), lengths, [one.text for one in batch]
            )
        spoken = spoken_frames(lengths, numbers.shape[2], self.device)
        bounded = [
            torch.stack([g.bound(g.bound(n.float())) for g, n in zip(self.groups, side)])
            for side in (numbers, wanted)
        ]
        steps = (bounded[0] - bounded[1])[:, spoken]
        moved = (bounded[0].round() != bounded[1].round())[:, spoken]
        return steps.square().mean(), spelt, moved.float().mean()

    def _padded(self, waves: Sequence[np.ndarray], num_frames: int) -> Tensor:
        padded = np.zeros((len(waves), 1, num_frames * FRAME), dtype=np.float32)
        for row, wave in zip(padded, waves):
            row[0, : len(wave)] = wave
        return torch.from_numpy(padded).to(self.device)


def train_hearing(
    codes: Path,
    recordings: Sequence[Recording],
    heldout: Sequence[Recording],
    folder: Path,
    minutes: float,
    device: str,
) -> None:
    """Train on what `encoder.train_codes` left.

    Args:
        recordings: of users and of the assistant, whose codes shall stay what they were as well;
            those in other languages, whose words nobody knows, are left out.
        heldout: of users, that it is validated with.
    """
    learned, valid = ([r for r in side if r.onsets] for side in (recordings, heldout))
    spelling = Spelling({r.line.text for r in [*learned, *valid]})
    hearing = Hearing(load_codes(codes).to(device), spelling)
    speech = Speech(learned, seed=9)
    rng = np.random.default_rng(5)
    fixed = [hear(recording, rng) for recording in valid]

    def step(index: int) -> Tensor:
        distance, spelt, _ = hearing.losses(speech.batch(index), rough=True)
        return distance + SPELLING_WEIGHT * spelt

    def validate(index: int) -> dict[str, float]:
        distance, spelt, moved = hearing.losses(fixed)
        return {
            "valid_distance": distance.item(),
            "valid_spelling": spelt.item(),
            "codes_moved": moved.item(),
        }

    Stage(
        name="hearing",
        folder=folder,
        minutes=minutes,
        learning_rate=4e-4,
        apart={"reader": 1e-3},
        averaged=("codec",),
    ).run({"codec": new_encoder(hearing.codec), "reader": hearing.reader}, step, validate)
