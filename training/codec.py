"""Train the small codec's encoder: codes that carry the mel, and so the words.

Trained naively, by what can be read off its codes, the quantiser collapses: the log-mel's large
mean drives its input into saturation and one code per group is left. And where that is prevented,
half an hour of training finds worse codes than linear algebra does in seconds. So the encoder is
told what to code: the principal components of the log-mel in a frame of codes, as many as the
quantiser has numbers. The vocoder that speaks the codes comes after: see `vocoder`.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.westlake.firefly import FireflyArchitecture, FireflyConfig

from .loop import Stage

TINY_CODEC = FireflyConfig(
    sample_rate=22050,
    n_fft=1024,
    win_length=1024,
    hop_length=256,
    n_mels=100,
    encoder_depths=(2, 2, 2, 2),
    encoder_dims=(64, 128, 192, 256),
    drop_path_rate=0.0,
    layer_scale_init=0.1,
    decoder_dim=256,
    decoder_kernel_size=7,
    upsample_rates=(8, 8, 2, 2),
    upsample_kernel_sizes=(16, 16, 4, 4),
    resblock_kernel_sizes=(3, 7),
    resblock_dilations=(1, 3),
)
SPREAD = (0.35, 0.6, 0.6, 0.6)  # standard deviation at which a level's codes are used evenly
MEL_FLOOR = -7.5  # below is background noise, which no code should be spent on
FINEST = 8.0  # deviation of a component below which its number uses the middle levels alone
GUIDE_FRAMES = 25_000  # of speech, 19 minutes, that the components are of


def new_codec(seed: int = 0) -> FireflyArchitecture:
    torch.manual_seed(seed)
    return FireflyArchitecture(TINY_CODEC)


class Crops:
    """Random pieces of a long recording: int16 samples [N] -> float32 [B, 1, T]."""

    def __init__(self, path: Path, seed: int, device: str) -> None:
        self.samples = np.load(path, mmap_mode="r")
        self.rng = np.random.default_rng(seed)
        self.device = device

    def draw(self, batch_size: int, num_samples: int) -> Tensor:
        starts = self.rng.integers(0, len(self.samples) - num_samples, batch_size)
        batch = np.stack([self.samples[start : start + num_samples] for start in starts])
        return torch.from_numpy(batch / np.float32(32768))[:, None].to(self.device)


def train_codes(speech: Path, heldout: Path, folder: Path, minutes: float, device: str) -> Path:
    """Train the encoder, up to what the quantiser is given; the quantiser itself has no weights."""
    codec = new_codec().to(device)
    config = codec.config
    crops, valid = Crops(speech, 1, device), Crops(heldout, 2, device)
    valid_wave = valid.draw(64, 64 * config.samples_per_frame)
    guide = Components(codec, crops.draw(1, GUIDE_FRAMES * config.samples_per_frame))

    def code(wave: Tensor) -> tuple[Tensor, Tensor]:
        """What the quantiser is given and what it should be given, [positions, K * levels]."""
        with torch.no_grad():
            mel = codec.spec_transform(wave)
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.backbone(mel)
        return spread_projections(codec, hidden), guide(mel)

    def step(index: int) -> Tensor:
        return F.mse_loss(*code(crops.draw(6, 64 * config.samples_per_frame)))

    def validate(index: int) -> dict[str, float]:
        numbers, wanted = code(valid_wave)
        read, codes = guide.read(numbers)
        mel = codec.spec_transform(valid_wave).clamp(min=MEL_FLOOR)
        return {
            "valid_loss": F.mse_loss(numbers, wanted).item(),
            "valid_mel_l1": F.l1_loss(read, guide.blocks(mel)).item(),
            "codes_used_min": min(group.unique().numel() for group in codes),
        }

    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})
    Stage(name="codes", folder=folder, minutes=minutes, learning_rate=5e-4).run(
        {"codec": trained}, step, validate
    )
    return folder / "codes.pt"


def load_codes(path: Path) -> FireflyArchitecture:
    """The codec as `train_codes` left it; its vocoder is untrained."""
    codec = new_codec()
    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})
    trained.load_state_dict(torch.load(path, weights_only=True)["modules"]["codec"])
    return codec.eval()


def spread_projections(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    """What the quantiser will bound, divided by the wanted spread: [positions, K * levels]."""
    for conv, block in codec.quantizer.downsample:
        hidden = block(conv(hidden))
    groups = codec.quantizer.residual_fsq.rvqs
    parts = hidden.float().mT.flatten(0, 1).chunk(len(groups), dim=-1)
    spread = torch.tensor(SPREAD, device=hidden.device)
    return torch.cat([fsq.project_in(part) / spread for fsq, part in zip(groups, parts)], dim=1)


class Components:
    """The principal components of the log-mel in a frame of codes.

    The largest have variance 1, to be spread over the levels; those below `FINEST` are quantised
    with its step, for finer ones would tell of noise and make codes hard to predict. The first of
    every group's numbers, which has the most levels, gets the largest components.

    Args:
        wave: [1, 1, T], what they are the components of.
    """

    def __init__(self, codec: FireflyArchitecture, wave: Tensor) -> None:
        config = codec.config
        self.groups = codec.quantizer.residual_fsq.rvqs
        self.num_mels = config.mels_per_frame
        blocks = self.blocks(codec.spec_transform(wave))
        values, vectors = torch.linalg.eigh(blocks.T.cov())
        num_levels = len(config.fsq_levels)
        order = torch.arange(config.num_codebooks * num_levels).view(num_levels, -1).T.flatten()
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
        pairs = [
            fsq.layers[0](fsq.layers[0].bound(part[None]))
            for fsq, part in zip(self.groups, parts.unbind(1))
        ]
        levels, codes = zip(*pairs)
        ones = torch.ones_like(numbers[:, :1])
        return torch.cat([*(x[0] for x in levels), ones], dim=1), torch.cat(codes)
