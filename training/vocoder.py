"""Train the small codec's vocoder, which speaks the codes.

A spectrum's codes do not tell where the voice's pulses are: the vocoder learns it from speech in
which they do (see `pitch`), its slow stages first. Then the whole of it learns, and has to please
the encoder's ears as well.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio import write_wav
from models.firefly import FireflyArchitecture

from .codec import TINY_CODEC, load_codes, spread_projections
from .loop import Stage

HEARING_WEIGHT = 1.0
WAVE_WEIGHT, LAST_WAVE_WEIGHT = 6.0, 0.5  # first the pulses, then the finer spectrum
WAVE_STEPS = 500  # from one to the other
STFT_SIZES = (256, 512, 1024, 2048)


class LockedCrops:
    """Random pieces of what `write_locked` and `write_syllables` have put into files.

    Args:
        shares: of the pieces, for each file.
    """

    def __init__(self, shares: Mapping[Path, float], seed: int, device: str) -> None:
        self.files = [torch.load(path, weights_only=True) for path in shares]
        self.shares = list(shares.values())
        self.frame = TINY_CODEC.samples_per_frame
        self.rng = np.random.default_rng(seed)
        self.device = device

    def draw(self, batch_size: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Codes [B, K, L], of the speech as it was or as it is, and its wave [B, 1, T]."""
        codes, waves = [], []
        for index in self.rng.choice(len(self.files), batch_size, p=self.shares):
            file = self.files[index]
            rows = file["codes"]
            start = int(self.rng.integers(0, rows.shape[2] - num_frames))
            codes.append(rows[self.rng.integers(0, len(rows)), :, start : start + num_frames])
            waves.append(file["wave"][start * self.frame : (start + num_frames) * self.frame])
        wave = torch.stack(waves)[:, None].to(self.device) / 32768
        return torch.stack(codes).long().to(self.device), wave


class PulseReader(nn.Module):
    """The vocoder's first, slow stages and a linear head, which reads the wave off their output.

    They decide where the voice's pulses are, at a tenth of the work of the whole vocoder.
    """

    def __init__(self, codec: FireflyArchitecture) -> None:
        super().__init__()
        self.upsample = codec.quantizer.upsample
        head = codec.head
        self.stages = nn.ModuleList([head.conv_pre, head.ups[0], head.resblocks[0]])
        config = codec.config
        self.samples = nn.Linear(
            config.decoder_dim // 2, config.hop_length // config.upsample_rates[0]
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden [B, C, T] -> wave [B, 1, T * hop_length]."""
        conv_pre, up, block = self.stages
        x = block(up(F.silu(conv_pre(hidden))))
        return self.samples(F.silu(x).mT).flatten(1)[:, None]


def train_pulses(
    codes: Path,
    locked: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> Path:
    """Let the vocoder's slow stages learn where the pulses are, by the wave itself."""
    codec = load_codes(codes).to(device)
    codec.requires_grad_(False)
    reader = PulseReader(codec).requires_grad_(True).to(device)
    crops, valid = LockedCrops(locked, 3, device), LockedCrops(heldout, 4, device)
    fixed = valid.draw(24, 64)

    def unexplained(indices: Tensor, wave: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return wave_loss(reader(codec.quantizer.decode(indices)).float(), wave)

    def validate(index: int) -> dict[str, float]:
        return {"valid_loss": unexplained(*fixed).item()}

    Stage(name="pulses", folder=folder, minutes=minutes, learning_rate=1e-3).run(
        {"reader": reader}, lambda index: unexplained(*crops.draw(12, 36)), validate
    )
    return folder / "pulses.pt"


def train_vocoder(
    codes: Path,
    pulses: Path,
    locked: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> FireflyArchitecture:
    """Train all that turns codes into a wave; the codes stay as they are."""
    codec = load_codes(codes).to(device)
    config = codec.config
    codec.requires_grad_(False)
    state = torch.load(pulses, weights_only=True, map_location=device)
    reader = PulseReader(codec)
    reader.to(device).load_state_dict(state["modules"]["reader"])
    decoder = new_decoder(codec)
    decoder.requires_grad_(True)
    reader.samples.requires_grad_(True)
    crops, valid = LockedCrops(locked, 5, device), LockedCrops(heldout, 6, device)
    fixed = valid.draw(12, 64)

    def decode(indices: Tensor) -> tuple[Tensor, Tensor]:
        """The wave, and what can be read off the slow stages, which must not lose the pulses."""
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.quantizer.decode(indices)
            return codec.head(hidden).float(), reader(hidden).float()

    def step(index: int) -> Tensor:
        indices, wave = crops.draw(5, 36)
        audio, read = decode(indices)
        loss = spectral_loss(audio, wave) + hearing_loss(codec, audio, wave)
        weight = max(LAST_WAVE_WEIGHT, WAVE_WEIGHT * (1 - index / WAVE_STEPS))
        return loss + weight * (wave_loss(audio, wave) + wave_loss(read, wave))

    def validate(index: int) -> dict[str, float]:
        indices, wave = fixed
        audio, _ = decode(indices)
        for name, speech in (("original", wave), ("decoded", audio)):
            write_wav(
                folder / f"vocoder_{name}.wav", speech[:4].flatten().cpu(), config.sample_rate
            )
        l1 = F.l1_loss(codec.spec_transform(audio), codec.spec_transform(wave))
        return {"valid_mel_l1": l1.item(), "valid_wave": wave_loss(audio, wave).item()}

    Stage(
        name="vocoder", folder=folder, minutes=minutes, learning_rate=1e-3, betas=(0.8, 0.99)
    ).run({"decoder": decoder, "samples": reader.samples}, step, validate)
    return codec.eval()


def new_decoder(codec: FireflyArchitecture) -> nn.ModuleDict:
    """The parts of a codec that turn codes into a wave, as they are trained and saved."""
    return nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})


def load_codec(codes: Path, vocoder: Path) -> FireflyArchitecture:
    """The codec as all its stages left it."""
    codec = load_codes(codes)
    decoder = new_decoder(codec)
    decoder.load_state_dict(torch.load(vocoder, weights_only=True)["modules"]["decoder"])
    return codec.eval()


def hearing_loss(codec: FireflyArchitecture, predicted: Tensor, target: Tensor) -> Tensor:
    """Twice the mel L1, and the L1 of what the quantiser would be given for either, spread to 1."""
    mels = [codec.spec_transform(x) for x in (predicted, target)]
    with torch.autocast(target.device.type, torch.bfloat16):
        heard = [spread_projections(codec, codec.backbone(mel)) for mel in mels]
    return 2 * F.l1_loss(*mels) + HEARING_WEIGHT * F.l1_loss(*heard)


def wave_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error over energy; 1 is what silence gets.

    Both are divided by the loudness in every frame of codes, so that soft speech counts too.
    """
    frame = TINY_CODEC.samples_per_frame
    error, energy = (
        x.unflatten(-1, (-1, frame)).square().mean(-1) for x in (predicted - target, target)
    )
    loudness = (energy + 1e-4).sqrt()
    return (error / loudness).mean() / (energy / loudness).mean()


def spectral_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Multi-resolution STFT loss (Yamamoto et al., 2019, arXiv:1910.11480)."""
    loss = predicted.new_zeros(())
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
