"""Train the small codec's vocoder, which speaks the codes.

Its slow stages learn first, by the log-mel that a linear head reads off them: for the same speech
that costs a tenth of what the whole vocoder does, and what is said depends on them. Then the whole
of it learns, and has to please the ears of the encoder and of a recogniser; at last it is
polished: see `polish`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio import write_wav
from models.westlake.firefly import FireflyArchitecture

from ..loop import Stage, autocast
from ..recogniser.recogniser import Recogniser
from .clips import CodedCrops
from .config import MEL_FLOOR
from .encoder import load_codes, spread_projections

HEARING_WEIGHT, WORDS_WEIGHT = 1.0, 2.0
STFT_SIZES = (256, 512, 1024, 2048)
# Pieces in a batch and frames of codes in each: of the slow stages, and of the whole.
SLOW_BATCH, BATCH = (16, 64), (6, 36)
SLOW_VALIDATION, VALIDATION = (24, 64), (12, 64)


class SlowStages(nn.Module):
    """The vocoder's stages up to the mel's rate, and a linear head that reads off the last of them.

    Args:
        codec: the first of its `upsample_rates` is 1.
    """

    def __init__(self, codec: FireflyArchitecture) -> None:
        super().__init__()
        generator = codec.head
        self.upsample = codec.quantizer.upsample
        self.pre, self.up, self.block = generator.conv_pre, generator.ups[0], generator.resblocks[0]
        self.mel = nn.Linear(codec.config.decoder_dim // 2, codec.config.n_mels)
        self.block.register_forward_hook(self._keep)

    def _keep(self, module, args, output: Tensor) -> None:
        self.output = output

    def forward(self, hidden: Tensor) -> Tensor:
        """What the quantiser gives [B, C, T] -> log-mel [B, M, T] float32."""
        self.block(self.up(F.silu(self.pre(hidden))))
        return self.read_mel()

    def read_mel(self) -> Tensor:
        """Log-mel [B, M, T] float32 of what has just been spoken."""
        return self.mel(self.output.mT).mT.float()


def train_slow_stages(
    codes: Path,
    ear: Recogniser | None,
    speech: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
    start: FireflyArchitecture | None = None,
) -> None:
    """Let the vocoder's slow stages learn what is said.

    Args:
        start: a codec whose vocoder is trained on; else from nothing.
    """
    ear = ear and ear.to(device).requires_grad_(False)
    codec = load_codes(codes).to(device)
    if start is not None:
        new_decoder(codec).load_state_dict(new_decoder(start).state_dict())
    codec.requires_grad_(False)
    slow = SlowStages(codec).requires_grad_(True).to(device)
    crops = CodedCrops(codec, speech, 3, device)
    fixed = CodedCrops(codec, heldout, 4, device).draw_coded(0, *SLOW_VALIDATION)
    with torch.no_grad():  # without a start at its mean the mel takes long to get there
        slow.mel.bias.copy_(mel_target(codec, fixed[1]).mean(dim=(0, 2)))

    def loss(indices: Tensor, wave: Tensor) -> Tensor:
        with autocast(device):
            hidden = codec.quantizer.decode(indices)
            mel = slow(hidden)
        return mel_loss(codec, ear, mel, wave)

    def step(index: int) -> Tensor:
        return loss(*crops.draw_coded(index, *SLOW_BATCH))

    def validate(index: int) -> dict[str, float]:
        indices, wave = fixed
        with autocast(device):
            mel = slow(codec.quantizer.decode(indices))
        l1 = F.l1_loss(mel, mel_target(codec, wave))
        return {"valid_loss": loss(indices, wave).item(), "valid_mel_l1": l1.item()}

    Stage(name="slow_stages", folder=folder, minutes=minutes, learning_rate=1e-3).run(
        {"decoder": new_decoder(codec), "mel": slow.mel}, step, validate
    )


def train_vocoder(
    codes: Path,
    slow_stages: Path,
    ear: Recogniser | None,
    speech: Mapping[Path, float],
    heldout: Mapping[Path, float],
    folder: Path,
    minutes: float,
    device: str,
) -> None:
    """Train all that turns codes into a wave; the codes stay as they are.

    Args:
        ear: a recogniser that the speech has to please too.
    """
    ear = ear and ear.to(device).requires_grad_(False)
    codec, slow = load_slow_stages(codes, slow_stages)
    codec, slow = codec.to(device).requires_grad_(False), slow.to(device)
    decoder = new_decoder(codec).requires_grad_(True)
    crops = CodedCrops(codec, speech, 5, device)
    fixed = CodedCrops(codec, heldout, 6, device).draw_coded(0, *VALIDATION)

    def step(index: int) -> Tensor:
        indices, wave = crops.draw_coded(index, *BATCH)
        with autocast(device):
            audio = codec.head(codec.quantizer.decode(indices)).float()
            mel = slow.read_mel()
        return likeness_loss(codec, ear, audio, wave) + mel_loss(codec, ear, mel, wave)

    def validate(index: int) -> dict[str, float]:
        return validate_speech(codec, fixed, folder, "vocoder", device)

    Stage(
        name="vocoder", folder=folder, minutes=minutes, learning_rate=4e-4, betas=(0.8, 0.99)
    ).run({"decoder": decoder, "mel": slow.mel}, step, validate)


def validate_speech(
    codec: FireflyArchitecture,
    heldout: tuple[Tensor, Tensor],
    folder: Path,
    name: str,
    device: str,
) -> dict[str, float]:
    """How like held-out waves those decoded from their codes are; some are written to listen to."""
    indices, wave = heldout
    with autocast(device):
        audio = codec.head(codec.quantizer.decode(indices)).float()
    for kind, speech in (("original", wave), ("decoded", audio)):
        path = folder / f"{name}_{kind}.wav"
        write_wav(path, speech[:4].flatten().cpu(), codec.config.sample_rate)
    l1 = F.l1_loss(codec.spec_transform(audio), codec.spec_transform(wave))
    return {"valid_mel_l1": l1.item(), "valid_spectral": spectral_loss(audio, wave).item()}


def new_decoder(codec: FireflyArchitecture) -> nn.ModuleDict:
    """The parts of a codec that turn codes into a wave, as they are trained and saved."""
    return nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})


def load_slow_stages(codes: Path, slow_stages: Path) -> tuple[FireflyArchitecture, SlowStages]:
    """The codec as `train_slow_stages` left it, and the head of those stages."""
    codec = load_codes(codes)
    slow = SlowStages(codec)
    modules = torch.load(slow_stages, weights_only=True, map_location="cpu")["modules"]
    new_decoder(codec).load_state_dict(modules["decoder"])
    slow.mel.load_state_dict(modules["mel"])
    return codec, slow


def load_codec(codes: Path, vocoder: Path) -> FireflyArchitecture:
    """The codec as all its stages left it; of a decoder that was averaged, its mean."""
    codec = load_codes(codes)
    modules = torch.load(vocoder, weights_only=True, map_location="cpu")["modules"]
    new_decoder(codec).load_state_dict(modules.get("decoder_mean", modules["decoder"]))
    return codec.eval()


def mel_target(codec: FireflyArchitecture, wave: Tensor) -> Tensor:
    """The log-mel [B, M, T] that the slow stages learn, without what is below the noise."""
    return codec.spec_transform(wave).clamp(min=MEL_FLOOR)


def mel_loss(
    codec: FireflyArchitecture, ear: Recogniser | None, mel: Tensor, wave: Tensor
) -> Tensor:
    """Of a log-mel [B, M, T] that is read off the slow stages; see `spectrum_loss`."""
    return spectrum_loss(ear, mel, mel_target(codec, wave))


def likeness_loss(
    codec: FireflyArchitecture, ear: Recogniser | None, audio: Tensor, wave: Tensor
) -> Tensor:
    """Of waves [B, 1, n]: their spectra, and how they are heard."""
    return spectral_loss(audio, wave) + hearing_loss(codec, ear, audio, wave)


def hearing_loss(
    codec: FireflyArchitecture, ear: Recogniser | None, predicted: Tensor, target: Tensor
) -> Tensor:
    """Of waves: `spectrum_loss`, and the L1 of what the quantiser would be given, spread to 1."""
    mels = [codec.spec_transform(x) for x in (predicted, target)]
    with autocast(target.device):
        heard = [spread_projections(codec, codec.backbone(mel)) for mel in mels]
    return spectrum_loss(ear, *mels) + HEARING_WEIGHT * F.l1_loss(*heard)


def spectrum_loss(ear: Recogniser | None, predicted: Tensor, target: Tensor) -> Tensor:
    """Of log-mels [B, M, T]: twice their L1, that of their changes and, with an `ear`, how
    differently it hears them."""
    changes = F.l1_loss(predicted.diff(dim=-1), target.diff(dim=-1))
    loss = 2 * F.l1_loss(predicted, target) + changes
    if ear is None:
        return loss
    with autocast(target.device):
        heard = [ear.listen(ear.even(mel)) for mel in (predicted, target)]
    return loss + WORDS_WEIGHT * F.l1_loss(*heard) / heard[1].abs().mean()


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
