"""Train the small codec's vocoder, which speaks the codes.

Its slow stages learn first, by what linear heads can read off them: the log-mel, and the wave. For
the same speech that costs a seventh of what the whole vocoder does, and what is said depends on
them. A spectrum's codes do not tell where the voice's pulses are, so all learn from speech in which
they do (see `pitch`). Then the whole of it learns, and has to please the ears of the encoder and of
a recogniser as well.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio import write_wav
from models.westlake.firefly import FireflyArchitecture

from .codec import MEL_FLOOR, TINY_CODEC, load_codes, spread_projections
from .judge import Judge
from .loop import Stage

HEARING_WEIGHT, WORDS_WEIGHT = 1.0, 2.0
WAVE_WEIGHT, LAST_WAVE_WEIGHT = 6.0, 0.5  # first the pulses, then the finer spectrum
WAVE_STEPS = 500  # from one to the other
STFT_SIZES = (256, 512, 1024, 2048)


class LockedCrops:
    """Random pieces of what `write_locked` and `Recorder.write` have put into files.

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


class SlowStages(nn.Module):
    """The vocoder's first, slow stages, and linear heads that read off them what they know.

    What is said is known once the codes' frames are spread out in time; where the voice's pulses
    are, after the first of the head's stages.
    """

    def __init__(self, codec: FireflyArchitecture) -> None:
        super().__init__()
        config, head = codec.config, codec.head
        self.upsample = codec.quantizer.upsample
        self.stages = nn.ModuleList([head.conv_pre, head.ups[0], head.resblocks[0]])
        self.heads = nn.ModuleDict(
            {
                "mel": nn.Linear(config.latent_dim, config.n_mels),
                "wave": nn.Linear(
                    config.decoder_dim // 2, config.hop_length // config.upsample_rates[0]
                ),
            }
        )

    def read_mel(self, hidden: Tensor) -> Tensor:
        """Hidden [B, C, T] -> log-mel [B, M, T]."""
        return self.heads["mel"](hidden.mT).mT

    def read_wave(self, hidden: Tensor) -> Tensor:
        """Hidden [B, C, T] -> wave [B, 1, T * hop_length]."""
        conv_pre, up, block = self.stages
        x = block(up(F.silu(conv_pre(hidden))))
        return self.heads["wave"](F.silu(x).mT).flatten(1)[:, None]


def train_slow_stages(
    codes: Path,
    ear: Judge,
    locked: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> Path:
    """Let the vocoder's slow stages learn what is said, and where the pulses are."""
    ear = ear.to(device).requires_grad_(False)
    codec = load_codes(codes).to(device)
    codec.requires_grad_(False)
    slow = SlowStages(codec).requires_grad_(True).to(device)
    crops, valid = LockedCrops(locked, 3, device), LockedCrops(heldout, 4, device)
    fixed = valid.draw(24, 64)
    with torch.no_grad():  # without a start at its mean the mel takes long to get there
        slow.heads["mel"].bias.copy_(mel_target(codec, fixed[1]).mean(dim=(0, 2)))

    def losses(indices: Tensor, wave: Tensor, num_waves: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.quantizer.decode(indices)
            read = slow.read_wave(hidden[:num_waves]).float()
            return mel_loss(codec, slow, ear, hidden, wave), wave_loss(read, wave[:num_waves])

    def step(index: int) -> Tensor:
        mel, pulses = losses(*crops.draw(32, 48), 8)  # the wave is the slower one to read
        return mel + pulses

    def validate(index: int) -> dict[str, float]:
        mel, pulses = losses(*fixed, len(fixed[0]))
        return {"valid_mel": mel.item(), "valid_wave": pulses.item()}

    Stage(name="slow_stages", folder=folder, minutes=minutes, learning_rate=1e-3).run(
        {"decoder": new_decoder(codec), "heads": slow.heads}, step, validate
    )
    return folder / "slow_stages.pt"


def train_vocoder(
    codes: Path,
    slow_stages: Path,
    ear: Judge,
    locked: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> FireflyArchitecture:
    """Train all that turns codes into a wave; the codes stay as they are.

    Args:
        ear: a recogniser that the speech has to please too.
    """
    ear = ear.to(device).requires_grad_(False)
    codec, slow = load_slow_stages(codes, slow_stages)
    codec, slow = codec.to(device).requires_grad_(False), slow.to(device)
    config, decoder = codec.config, new_decoder(codec).requires_grad_(True)
    crops, valid = LockedCrops(locked, 5, device), LockedCrops(heldout, 6, device)
    fixed = valid.draw(12, 64)

    def step(index: int) -> Tensor:
        indices, wave = crops.draw(5, 36)
        more_indices, more_wave = crops.draw(24, 48)
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.quantizer.decode(indices)
            audio, read = codec.head(hidden).float(), slow.read_wave(hidden).float()
            mel = mel_loss(codec, slow, ear, codec.quantizer.decode(more_indices), more_wave)
        loss = spectral_loss(audio, wave) + hearing_loss(codec, ear, audio, wave) + mel
        weight = max(LAST_WAVE_WEIGHT, WAVE_WEIGHT * (1 - index / WAVE_STEPS))
        return loss + weight * (wave_loss(audio, wave) + wave_loss(read, wave))

    def validate(index: int) -> dict[str, float]:
        indices, wave = fixed
        with torch.autocast(device, torch.bfloat16):
            audio = codec.head(codec.quantizer.decode(indices)).float()
        for name, speech in (("original", wave), ("decoded", audio)):
            write_wav(
                folder / f"vocoder_{name}.wav", speech[:4].flatten().cpu(), config.sample_rate
            )
        l1 = F.l1_loss(codec.spec_transform(audio), codec.spec_transform(wave))
        return {"valid_mel_l1": l1.item(), "valid_wave": wave_loss(audio, wave).item()}

    Stage(
        name="vocoder", folder=folder, minutes=minutes, learning_rate=5e-4, betas=(0.8, 0.99)
    ).run({"decoder": decoder, "heads": slow.heads}, step, validate)
    return codec.eval()


def new_decoder(codec: FireflyArchitecture) -> nn.ModuleDict:
    """The parts of a codec that turn codes into a wave, as they are trained and saved."""
    return nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})


def load_slow_stages(codes: Path, slow_stages: Path) -> tuple[FireflyArchitecture, SlowStages]:
    """The codec as `train_slow_stages` left it, and the heads of those stages."""
    codec = load_codes(codes)
    slow = SlowStages(codec)
    modules = torch.load(slow_stages, weights_only=True, map_location="cpu")["modules"]
    new_decoder(codec).load_state_dict(modules["decoder"])
    slow.heads.load_state_dict(modules["heads"])
    return codec, slow


def load_codec(codes: Path, vocoder: Path) -> FireflyArchitecture:
    """The codec as all its stages left it."""
    codec = load_codes(codes)
    decoder = new_decoder(codec)
    decoder.load_state_dict(torch.load(vocoder, weights_only=True)["modules"]["decoder"])
    return codec.eval()


def mel_target(codec: FireflyArchitecture, wave: Tensor) -> Tensor:
    """The log-mel [B, M, T] that the slow stages learn, without what is below the noise."""
    return codec.spec_transform(wave).clamp(min=MEL_FLOOR)


def mel_loss(
    codec: FireflyArchitecture, slow: SlowStages, ear: Judge, hidden: Tensor, wave: Tensor
) -> Tensor:
    """Of the log-mel that is read off the slow stages; see `spectrum_loss`."""
    return spectrum_loss(ear, slow.read_mel(hidden).float(), mel_target(codec, wave))


def hearing_loss(
    codec: FireflyArchitecture, ear: Judge, predicted: Tensor, target: Tensor
) -> Tensor:
    """Of waves: `spectrum_loss`, and the L1 of what the quantiser would be given, spread to 1."""
    mels = [codec.spec_transform(x) for x in (predicted, target)]
    with torch.autocast(target.device.type, torch.bfloat16):
        heard = [spread_projections(codec, codec.backbone(mel)) for mel in mels]
    return spectrum_loss(ear, *mels) + HEARING_WEIGHT * F.l1_loss(*heard)


def spectrum_loss(ear: Judge, predicted: Tensor, target: Tensor) -> Tensor:
    """Of log-mels [B, M, T]: twice their L1, and how differently a recogniser hears them."""
    with torch.autocast(target.device.type, torch.bfloat16):
        heard = [ear.listen(ear.even(mel)) for mel in (predicted, target)]
    words = F.l1_loss(*heard) / heard[1].abs().mean()
    return 2 * F.l1_loss(predicted, target) + WORDS_WEIGHT * words


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
