"""Train the small codec: first codes that carry the mel, then a vocoder that speaks them.

Trained naively, the quantiser collapses: the log-mel's large mean drives its input into saturation
and one code per group is left. Against that, stage one learns from the log-mel alone, starts its
output at the data's mean, scales each group's projection to the quantiser's range, and keeps the
spread of the projections with a small penalty (after VICReg: Bardes et al., arXiv:2105.04906).
A spectrum's distance alone loses words that a listener would not; so stage one also has to spell
what is said from the codes, and the vocoder has to please stage one's ears. Nor do a spectrum's
codes tell where the voice's pulses are: the vocoder learns it from speech in which they do (see
`pitch`), its slow stages first.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio import write_wav
from models.firefly import FireflyArchitecture, FireflyConfig

from .loop import Stage
from .spelling import Speller, read_lines

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
SPREAD_WEIGHT = 0.1
MEL_FLOOR = -7.5  # below is background noise, which no code should be spent on
SPELLING_WEIGHT = 0.2
SPELLING_START = (
    300  # steps, and as many until its full weight: earlier it would collapse the codes
)
HEARING_WEIGHT = 1.0
WAVE_WEIGHT, LAST_WAVE_WEIGHT = 6.0, 2.0  # first the pulses, then the finer spectrum
WAVE_STEPS = 500  # from one to the other
STFT_SIZES = (256, 512, 1024, 2048)


def new_codec(seed: int = 0) -> FireflyArchitecture:
    torch.manual_seed(seed)
    return FireflyArchitecture(TINY_CODEC)


class Crops:
    """Random pieces of a long recording: int16 samples [N] -> float32 [B, 1, T]."""

    def __init__(self, path: Path, seed: int, device: str) -> None:
        self.samples = np.load(path, mmap_mode="r")
        spoken = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.texts: list[str] = spoken["texts"]
        self.starts = np.array(spoken["starts"])  # of the texts, in samples
        self.rng = np.random.default_rng(seed)
        self.device = device

    def draw(self, batch_size: int, num_samples: int) -> Tensor:
        starts = self.rng.integers(0, len(self.samples) - num_samples, batch_size)
        batch = np.stack([self.samples[start : start + num_samples] for start in starts])
        return torch.from_numpy(batch / np.float32(32768))[:, None].to(self.device)

    def draw_utterances(
        self, batch_size: int, num_samples: int
    ) -> tuple[Tensor, list[int], list[list[str]]]:
        """Pieces that begin with an utterance.

        Returns:
            wave [B, 1, T]; where the last utterance that is whole ends, in samples; and the texts
            that are whole: none where the first is too long already.
        """
        first = self.rng.integers(0, np.searchsorted(self.starts, self.starts[-1] - num_samples),
                                  batch_size)  # fmt: skip
        last = [np.searchsorted(self.starts, self.starts[i] + num_samples, "right") - 1
                for i in first]  # fmt: skip
        batch = np.stack([self.samples[s : s + num_samples] for s in self.starts[first]])
        wave = torch.from_numpy(batch / np.float32(32768))[:, None].to(self.device)
        ends = [int(self.starts[j] - self.starts[i]) for i, j in zip(first, last)]
        return wave, ends, [self.texts[i:j] for i, j in zip(first, last)]


def train_codes(speech: Path, heldout: Path, folder: Path, minutes: float, device: str) -> Path:
    """Stage one: encoder and quantiser, by what linear heads read off the codes: mel and words."""
    codec = new_codec().to(device)
    config = codec.config
    mel_head = nn.Conv1d(config.latent_dim, config.n_mels, 1).to(device)
    crops, valid = Crops(speech, 1, device), Crops(heldout, 2, device)
    valid_wave = valid.draw(64, 64 * config.samples_per_frame)
    speller = Speller(config.latent_dim, read_lines(sorted(set(crops.texts)))).to(device)
    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})

    with torch.no_grad():
        mel = codec.spec_transform(crops.draw(64, 64 * config.samples_per_frame))
        mel_head.bias.copy_(mel.mean(dim=(0, 2)))
        _spread_codes(codec, mel)

    def code(wave: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mel L1, spread loss, what the heads read [B, C, T], and codes."""
        with torch.no_grad():
            mel = codec.spec_transform(wave)
        with torch.autocast(device, torch.bfloat16):
            hidden = codec.backbone(mel)
            quantised, codes = codec.quantizer(hidden)
            predicted = mel_head(quantised)
        l1 = F.l1_loss(predicted.float().clamp(min=MEL_FLOOR), mel.clamp(min=MEL_FLOOR))
        return l1, _spread_loss(codec, hidden), quantised, codes

    def step(index: int) -> Tensor:
        wave, ends, texts = crops.draw_utterances(3, 96 * config.samples_per_frame)
        l1, spread, quantised, _ = code(wave)
        syllabic = F.avg_pool1d(quantised, 2).mT  # 43 a second are enough to spell by
        heard = [(row[: end // (2 * config.hop_length)], spoken)
                 for row, end, spoken in zip(syllabic, ends, texts) if spoken]  # fmt: skip
        spelling = speller.loss(*map(list, zip(*heard))) if heard else 0.0
        spelling_weight = SPELLING_WEIGHT * min(max(index / SPELLING_START - 1, 0.0), 1.0)
        return l1 + SPREAD_WEIGHT * spread + spelling_weight * spelling

    def validate(index: int) -> dict[str, float]:
        l1, spread, _, codes = code(valid_wave)
        used = [codes[:, group].unique().numel() for group in range(config.num_codebooks)]
        return {"valid_mel_l1": l1.item(), "spread": spread.item(), "codes_used_min": min(used)}

    Stage(name="codes", folder=folder, minutes=minutes, learning_rate=5e-4).run(
        {"codec": trained, "mel_head": mel_head, "speller": speller}, step, validate
    )
    return folder / "codes.pt"


class LockedCrops:
    """Random pieces of `write_locked`'s speech."""

    def __init__(self, path: Path, seed: int, device: str) -> None:
        data = torch.load(path, weights_only=True)
        self.wave, self.codes = data["wave"], data["codes"]
        self.frame = len(self.wave) // self.codes.shape[2]
        self.rng = np.random.default_rng(seed)
        self.device = device

    def draw(self, batch_size: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Codes [B, K, L], of the speech as it was or as it is, and its wave [B, 1, T]."""
        starts = self.rng.integers(0, self.codes.shape[2] - num_frames, batch_size).tolist()
        rows = self.rng.integers(0, 2, batch_size).tolist()
        codes = torch.stack([self.codes[r, :, s : s + num_frames] for r, s in zip(rows, starts)])
        wave = torch.stack(
            [self.wave[s * self.frame : (s + num_frames) * self.frame] for s in starts]
        )
        return codes.long().to(self.device), wave[:, None].to(self.device) / 32768


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


def train_pulses(codes: Path, locked: Path, heldout: Path, folder: Path, minutes, device) -> Path:
    """Stage two: the vocoder's slow stages learn where the pulses are, by the wave itself."""
    codec = load_codes(codes).train().to(device)
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
    locked: Path,
    heldout: Path,
    folder: Path,
    minutes: float,
    device: str,
) -> FireflyArchitecture:
    """Stage three: the codes stay as they are, what turns them into a wave is trained on them."""
    codec = load_codes(codes).to(device)
    config = codec.config
    codec.requires_grad_(False)
    state = torch.load(pulses, weights_only=True, map_location=device)
    reader = PulseReader(codec)
    reader.to(device).load_state_dict(state["modules"]["reader"])
    decoder = nn.ModuleDict({"upsample": codec.quantizer.upsample, "head": codec.head})
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


def hearing_loss(codec: FireflyArchitecture, predicted: Tensor, target: Tensor) -> Tensor:
    """Twice the mel L1, and the L1 of what the quantiser would be given for either, spread to 1."""
    mels = [codec.spec_transform(x) for x in (predicted, target)]
    with torch.autocast(target.device.type, torch.bfloat16):
        heard = [_projections(codec, codec.backbone(mel)) for mel in mels]
    heard = [z / torch.tensor(SPREAD, device=target.device) for z in heard]
    return 2 * F.l1_loss(*mels) + HEARING_WEIGHT * F.l1_loss(*heard)


def wave_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error over energy, both by 46 ms and divided by the loudness there, so soft speech
    counts too; 1 is what silence gets."""
    error, energy = (
        x.unflatten(-1, (-1, 1024)).square().mean(-1) for x in (predicted - target, target)
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
