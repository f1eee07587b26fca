"""Polish the small codec's vocoder: discriminators take away the blur that all that is right on
average has, while it still has to please the ears of the encoder and of a recogniser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.westlake.firefly import FireflyArchitecture

from ..loop import Stage, autocast
from ..recogniser.recogniser import Recogniser
from .clips import CodedCrops
from .discriminators import Discriminators
from .vocoder import (
    VALIDATION,
    hearing_loss,
    load_codec,
    new_decoder,
    spectral_loss,
    validate_speech,
)

# Of the means over discriminators and layers. What is heard counts for more, so that words come
# before sharpness: it is about as in HiFi-GAN, whose log-mel weighs 45 and whose sums 1 and 2.
DECEPTION_WEIGHT, LIKENESS_WEIGHT = 0.5, 2.0
FIRST_STEPS = 400  # over which these two grow: discriminators that know nothing yet mislead


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a step costs.

    Fields:
        batch: pieces, and frames of codes in each.
        width: of the discriminators.
    """

    batch: tuple[int, int]
    width: int


# By the kind of device.
SIZES = {"cpu": Size(batch=(6, 36), width=16), "cuda": Size(batch=(32, 36), width=32)}


class Polishing:
    """A codec whose vocoder learns, and the discriminators that learn with it.

    Args:
        codec: on the device; its codes stay as they are.
        ear: a recogniser on the device that the speech has to please too.
    """

    def __init__(
        self,
        codec: FireflyArchitecture,
        ear: Recogniser | None,
        speech: Mapping[Path, float],
        device: str,
        size: Size,
    ) -> None:
        self.codec, self.ear, self.device, self.size = codec, ear, device, size
        codec.requires_grad_(False)
        self.decoder = new_decoder(codec).requires_grad_(True)
        torch.manual_seed(0)
        self.discriminators = Discriminators(size.width).to(device)
        self.crops = CodedCrops(codec, speech, 7, device)

    def losses(self, index: int) -> dict[str, Tensor]:
        """A step's losses by name, weighted; their sum is to be minimised."""
        indices, wave = self.crops.draw_coded(index, *self.size.batch)
        audio, told, deception, likeness = self.judge(indices, wave)
        share = min(1.0, index / FIRST_STEPS)
        return {
            "spectral": spectral_loss(audio, wave),
            "hearing": hearing_loss(self.codec, self.ear, audio, wave),
            "deception": share * DECEPTION_WEIGHT * deception,
            "likeness": share * LIKENESS_WEIGHT * likeness,
            "told": told,
        }

    def judge(self, indices: Tensor, wave: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What discriminators think of speech from codes [B, K, L], beside its recorded wave.

        Returns:
            what is spoken of the codes [B, 1, T] float32; then as scalars how badly it is told
            apart from the wave, how badly it passes for a recording, and how unlike one it is.
        """
        with autocast(self.device):
            audio = self.codec.head(self.codec.quantizer.decode(indices)).float()
            return audio, *self.discriminators.losses(audio, wave)


def polish_vocoder(
    codes: Path,
    vocoder: Path,
    ear: Recogniser | None,
    speech: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> None:
    """Train on what `train_vocoder` left, so that discriminators take it for recorded.

    Args:
        ear: a recogniser that the speech has to please too.
    """
    ear = ear and ear.to(device).requires_grad_(False)
    codec = load_codec(codes, vocoder).to(device)
    polishing = Polishing(codec, ear, speech, device, SIZES[torch.device(device).type])
    fixed = CodedCrops(codec, heldout, 6, device).draw_coded(0, *VALIDATION)

    def step(index: int) -> Tensor:
        return torch.stack(list(polishing.losses(index).values())).sum()

    def validate(index: int) -> dict[str, float]:
        figures = validate_speech(codec, fixed, folder, "polished", device)
        _, _, deception, likeness = polishing.judge(*fixed)
        return figures | {"deception": deception.item(), "likeness": likeness.item()}

    modules = {"decoder": polishing.decoder, "discriminators": polishing.discriminators}
    Stage(
        name="polished",
        folder=folder,
        minutes=minutes,
        learning_rate=4e-4,
        betas=(0.8, 0.99),
        apart={"discriminators": 3e-4},
        averaged=("decoder",),
    ).run(modules, step, validate)
