"""Train the small codec: first codes that carry the mel, then a vocoder that speaks them.

Trained naively, the quantiser collapses: the log-mel's large mean drives its input into saturation
and one code per group is left. Against that, stage one learns from the log-mel alone, starts its
output at the data's mean, scales each group's projection to the quantiser's range, and keeps the
spread of the projections with a small penalty (after VICReg: Bardes et al., arXiv:2105.04906).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio import write_wav
from models.firefly import FireflyArchitecture, FireflyConfig

from .loop import Stage

TINY_CODEC = FireflyConfig(
    sample_rate=22050,
    n_fft=1024,
    win_length=1024,
    hop_length=256,
    n_mels=100,
    encoder_depths=(2, 2, 4, 2),
    encoder_dims=(96, 160, 224, 256),
    drop_path_rate=0.0,
    layer_scale_init=0.1,
    decoder_dim=256,
    decoder_kernel_size=7,
    upsample_rates=(8, 8, 2, 2),
    upsample_kernel_sizes=(16, 16, 4, 4),
    resblock_kernel_sizes=(3, 7),
)
SPREAD = (0.35, 0.6, 0.6, 0.6)  # standard deviation at which a level's codes are used evenly
SPREAD_WEIGHT = 0.1
STFT_SIZES = (256, 512, 1024, 2048)


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
    """Stage one: encoder and quantiser, by the log-mel that a 1x1 head reads off the codes."""
    codec = new_codec().to(device)
    config = codec.config
    mel_head = nn.Conv1d(config.latent_dim, config.n_mels, 1).to(device)
    crops, valid = Crops(speech, 1, device), Crops(heldout, 2, device)
    valid_wave = valid.draw(64, 64 * config.samples_per_frame)
    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})

    with torch.no_grad():
        mel = codec.spec_transform(crops.draw(64, 64 * config.samples_per_frame))
        mel_head.bias.copy_(mel.mean(dim=(0, 2)))
        _spread_codes(codec, mel)

    def loss_of(wave: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            mel = codec.spec_transform(wave)
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.backbone(mel)
            quantised, codes = codec.quantizer(hidden)
            predicted = mel_head(quantised)
        l1 = F.l1_loss(predicted.float(), mel)
        return l1, _spread_loss(codec, hidden), codes

    def step(index: int) -> Tensor:
        l1, spread, _ = loss_of(crops.draw(16, 32 * config.samples_per_frame))
        return l1 + SPREAD_WEIGHT * spread

    def validate(index: int) -> dict[str, float]:
        l1, spread, codes = loss_of(valid_wave)
        used = [codes[:, group].unique().numel() for group in range(config.num_codebooks)]
        return {"valid_mel_l1": l1.item(), "spread": spread.item(), "codes_used_min": min(used)}

    Stage(name="codes", folder=folder, minutes=minutes, learning_rate=5e-4).run(
        {"codec": trained, "mel_head": mel_head}, step, validate
    )
    return folder / "codes.pt"


def train_vocoder(
    codes: Path, speech: Path, heldout: Path, folder: Path, minutes: float, device: str
) -> FireflyArchitecture:
    """Stage two: the codes stay as they are, what turns them into a wave is trained on them."""
    codec = load_codes(codes).to(device)
    config = codec.config
    decoder = nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})
    crops, valid = Crops(speech, 3, device), Crops(heldout, 4, device)
    valid_wave = valid.draw(12, 64 * config.samples_per_frame)

    def reconstruct(wave: Tensor) -> Tensor:
        with torch.no_grad():
            indices = codec.quantizer.encode(codec.backbone(codec.spec_transform(wave)))
        with torch.autocast(device, torch.bfloat16):
            return codec.head(codec.quantizer.decode(indices)).float()

    def step(index: int) -> Tensor:
        wave = crops.draw(5, 36 * config.samples_per_frame)
        return spectral_loss(codec, reconstruct(wave), wave)

    def validate(index: int) -> dict[str, float]:
        audio = reconstruct(valid_wave)
        for name, wave in (("original", valid_wave), ("decoded", audio)):
            write_wav(folder / f"vocoder_{name}.wav", wave[:4].flatten().cpu(), config.sample_rate)
        l1 = F.l1_loss(codec.spec_transform(audio), codec.spec_transform(valid_wave))
        return {"valid_mel_l1": l1.item()}

    Stage(
        name="vocoder", folder=folder, minutes=minutes, learning_rate=5e-4, betas=(0.8, 0.99)
    ).run({"decoder": decoder}, step, validate)
    return codec.eval()


def load_codes(path: Path) -> FireflyArchitecture:
    """The codec as stage one left it; its vocoder is untrained."""
    codec = new_codec()
    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})
    trained.load_state_dict(torch.load(path, weights_only=True)["modules"]["codec"])
    return codec.eval()


def load_codec(codes: Path, vocoder: Path) -> FireflyArchitecture:
    """The codec as both stages left it."""
    codec = load_codes(codes)
    decoder = nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})
    decoder.load_state_dict(torch.load(vocoder, weights_only=True)["modules"]["decoder"])
    return codec.eval()


def spectral_loss(codec: FireflyArchitecture, predicted: Tensor, target: Tensor) -> Tensor:
    """Multi-resolution STFT loss (Yamamoto et al., 2019, arXiv:1910.11480) and twice the mel L1."""
    loss = 2 * F.l1_loss(codec.spec_transform(predicted), codec.spec_transform(target))
    for size in STFT_SIZES:
        window = torch.hann_window(size, device=target.device)
        p, t = (
            torch.stft(x.squeeze(1), size, size // 4, window=window, return_complex=True)
            .abs()
            .clamp(min=1e-4)
            for x in (predicted, target)
        )
        convergence = (t - p).norm() / t.norm()
        loss = loss + (convergence + F.l1_loss(p.log(), t.log())) / len(STFT_SIZES)
    return loss


def _projections(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    """What each group's quantiser sees before it bounds it: [G, positions, levels]."""
    for conv, block in codec.quantizer.downsample:
        hidden = block(conv(hidden))
    groups = codec.quantizer.residual_fsq.rvqs
    parts = hidden.float().mT.flatten(0, 1).chunk(len(groups), dim=-1)
    return torch.stack([fsq.project_in(part) for fsq, part in zip(groups, parts)])


def _spread_loss(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    z = _projections(codec, hidden) / torch.tensor(SPREAD, device=hidden.device)
    centred = z - z.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / z.shape[1]
    identity = torch.eye(z.shape[-1], device=z.device)
    return z.mean(dim=1).square().mean() + (covariance - identity).square().mean()


def _spread_codes(codec: FireflyArchitecture, mel: Tensor) -> None:
    """Scale each group's projection so that one batch has mean 0 and the wanted spread."""
    z = _projections(codec, codec.backbone(mel))
    spread = torch.tensor(SPREAD, device=mel.device)
    for fsq, part in zip(codec.quantizer.residual_fsq.rvqs, z):
        scale = spread / part.std(dim=0)
        fsq.project_in.weight.mul_(scale[:, None])
        fsq.project_in.bias.copy_((fsq.project_in.bias - part.mean(dim=0)) * scale)
