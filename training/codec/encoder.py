"""Train the small codec's encoder: codes that carry the mel, and so the words.

Trained naively, by what can be read off its codes, the quantiser collapses: the log-mel's large
mean drives its input into saturation and one code per group is left. And where that is prevented,
half an hour of training finds worse codes than linear algebra does in seconds. So the encoder is
told what to code: the principal components of the log-mel in a frame of codes, as many as the
quantiser has numbers. Then it learns what words need, see `hearing`; the vocoder that speaks the
codes comes after: see `vocoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.westlake.firefly import FireflyArchitecture

from ..loop import Stage, autocast
from .clips import Crops
from .config import MEL_FLOOR, new_codec

SPREAD = (0.35, 0.6, 0.6, 0.6)  # standard deviation at which a level's codes are used evenly
FINEST = 4.0  # deviation of a component below which its number uses the middle levels alone
GUIDE_CROPS, CROP_FRAMES = 400, 64  # of speech, 20 minutes, that the components are of
BATCH_SIZE, VALIDATION_CROPS = 8, 64


def train_codes(
    speech: Mapping[Path, float],
    heldout: Path,
    folder: Path,
    minutes: float,
    device: str,
    start: FireflyArchitecture | None = None,
) -> None:
    """Train the encoder, up to what the quantiser is given; the quantiser itself has no weights.

    Args:
        speech: shares of the pieces, by file.
        start: a codec whose encoder is trained on; else from nothing.
    """
    codec = new_codec().to(device)
    if start is not None:
        codec.load_state_dict(start.state_dict())
    config = codec.config
    num_samples = CROP_FRAMES * config.samples_per_frame
    crops, valid = Crops(speech, 1, device), Crops({heldout: 1.0}, 2, device)
    valid_wave = valid.draw(0, VALIDATION_CROPS, num_samples)
    guide = Components(codec, crops.draw(0, GUIDE_CROPS, num_samples))

    def code(wave: Tensor) -> tuple[Tensor, Tensor]:
        """What the quantiser is given and what it should be given, [positions, K * levels]."""
        with torch.no_grad():
            mel = codec.spec_transform(wave)
        with autocast(device):
            hidden = codec.backbone(mel)
        return spread_projections(codec, hidden), guide(mel)

    def step(index: int) -> Tensor:
        return F.mse_loss(*code(crops.draw(1 + index, BATCH_SIZE, num_samples)))

    def validate(index: int) -> dict[str, float]:
        numbers, wanted = code(valid_wave)
        read, codes = guide.read(numbers)
        mel = codec.spec_transform(valid_wave).clamp(min=MEL_FLOOR)
        return {
            "valid_loss": F.mse_loss(numbers, wanted).item(),
            "valid_mel_l1": F.l1_loss(read, guide.blocks(mel)).item(),
            "codes_used_min": min(group.unique().numel() for group in codes),
        }

    Stage(name="codes", folder=folder, minutes=minutes, learning_rate=7e-4).run(
        {"codec": new_encoder(codec)}, step, validate
    )


def new_encoder(codec: FireflyArchitecture) -> nn.ModuleDict:
    """The parts of a codec that turn a mel into codes, as they are trained and saved."""
    return nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})


def load_codes(path: Path) -> FireflyArchitecture:
    """The codec as `train_codes` or `train_hearing` left it; its vocoder is untrained."""
    codec = new_codec()
    modules = torch.load(path, weights_only=True, map_location="cpu")["modules"]
    new_encoder(codec).load_state_dict(modules.get("codec_mean", modules["codec"]))
    return codec.eval()


def quantiser_inputs(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    """Hidden states of the encoder [B, C, T] -> what the quantiser will bound [K, B, L, levels]."""
    for conv, block in codec.quantizer.downsample:
        hidden = block(conv(hidden))
    groups = codec.quantizer.residual_fsq.rvqs
    parts = hidden.float().mT.chunk(len(groups), dim=-1)
    return torch.stack([group.project_in(part) for group, part in zip(groups, parts)])


def spread_projections(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    """`quantiser_inputs` divided by the wanted spread: [positions, K * levels]."""
    projected = quantiser_inputs(codec, hidden).flatten(1, 2).transpose(0, 1)
    # By numbers, not by a tensor: what comes from the CPU in every step would hold up a GPU.
    spread = [numbers / deviation for numbers, deviation in zip(projected.unbind(-1), SPREAD)]
    return torch.stack(spread, dim=-1).flatten(1)


class Components:
    """The principal components of the log-mel in a frame of codes.

    Their variance is 1, to be spread over the levels; those below `FINEST` are quantised with its
    step, for finer ones would tell of noise. The first of every group's numbers, which has the most
    levels, gets the largest components.

    Args:
        wave: [B, 1, T], what they are the components of.
    """

    def __init__(self, codec: FireflyArchitecture, wave: Tensor) -> None:
        config = codec.config
        self.groups = codec.quantizer.residual_fsq.rvqs
        self.num_mels = config.mels_per_frame
        blocks = torch.cat([self.blocks(codec.spec_transform(piece)) for piece in wave.split(16)])
        values, vectors = torch.linalg.eigh(blocks.T.cov())
        num_levels = len(config.fsq_levels)
        order = torch.arange(config.num_codebooks * num_levels).view(num_levels, -1).T.flatten()
        order = order.to(values.device)
        self.mean = blocks.mean(dim=0)
        self.vectors = vectors.flip(1)[:, order] / values.flip(0)[order].sqrt().clamp(min=FINEST)
        self.reader = torch.linalg.lstsq(
            self._quantise((blocks - self.mean) @ self.vectors)[0], blocks
        ).solution

    def blocks(self, mel: Tensor) -> Tensor:
        """[B, M, T] -> [B * T / mels_per_frame, mels_per_frame * M]."""
        frames = mel.clamp(min=MEL_FLOOR).mT.unflatten(1, (-1, self.num_mels))
        return frames.flatten(2).flatten(0, 1)

    def __call__(self, mel: Tensor) -> Tensor:
        """Log-mel [B, M, T] -> [B * T / mels_per_frame, K * levels]."""
        return (self.blocks(mel) - self.mean) @ self.vectors

    def read(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of numbers [N, K * levels] in their codes.

        Returns:
            the blocks [N, mels_per_frame * M] that a linear map makes of them, and codes [K, N].
        """
        quantised, codes = self._quantise(numbers)
        return quantised @ self.reader, codes

    def _quantise(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the levels and a 1 for each row [N, K * levels + 1], and codes [K, N]."""
        spread = numbers.new_tensor(SPREAD)
        parts = numbers.unflatten(1, (len(self.groups), -1)) * spread
        pairs = (fsq.quantise(part) for fsq, part in zip(self.groups, parts.unbind(1)))
        levels, codes = zip(*pairs)
        ones = torch.ones_like(numbers[:, :1])
        return torch.cat([*levels, ones], dim=1), torch.stack(codes)
