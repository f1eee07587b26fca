"""Train the small codec's encoder and quantiser: codes that carry the mel and the words.

Trained naively, the quantiser collapses: the log-mel's large mean drives its input into saturation
and one code per group is left. Against that, it learns from the log-mel alone, its output starts at
the data's mean, each group's projection is scaled to the quantiser's range, and a small penalty
keeps the projections' spread (after VICReg: Bardes et al., arXiv:2105.04906). A spectrum's distance
alone loses words that a listener would not; so what is said also has to be spelled from the codes.
The vocoder that speaks them comes after: see `vocoder`.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
# Steps, and as many until its full weight: earlier it would collapse the codes.
SPELLING_START = 300


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
    """Train encoder and quantiser, by what linear heads read off the codes: mel and words."""
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


def load_codes(path: Path) -> FireflyArchitecture:
    """The codec as `train_codes` left it; its vocoder is untrained."""
    codec = new_codec()
    trained = nn.ModuleDict({"backbone": codec.backbone, "quantizer": codec.quantizer})
    trained.load_state_dict(torch.load(path, weights_only=True)["modules"]["codec"])
    return codec.eval()


def projections(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    """What each group's quantiser sees before it bounds it: [G, positions, levels]."""
    for conv, block in codec.quantizer.downsample:
        hidden = block(conv(hidden))
    groups = codec.quantizer.residual_fsq.rvqs
    parts = hidden.float().mT.flatten(0, 1).chunk(len(groups), dim=-1)
    return torch.stack([fsq.project_in(part) for fsq, part in zip(groups, parts)])


def _spread_loss(codec: FireflyArchitecture, hidden: Tensor) -> Tensor:
    z = projections(codec, hidden) / torch.tensor(SPREAD, device=hidden.device)
    centred = z - z.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / z.shape[1]
    identity = torch.eye(z.shape[-1], device=z.device)
    return z.mean(dim=1).square().mean() + (covariance - identity).square().mean()


def _spread_codes(codec: FireflyArchitecture, mel: Tensor) -> None:
    """Scale each group's projection so that one batch has mean 0 and the wanted spread."""
    z = projections(codec, codec.backbone(mel))
    spread = torch.tensor(SPREAD, device=mel.device)
    for fsq, part in zip(codec.quantizer.residual_fsq.rvqs, z):
        scale = spread / part.std(dim=0)
        fsq.project_in.weight.mul_(scale[:, None])
        fsq.project_in.bias.copy_((fsq.project_in.bias - part.mean(dim=0)) * scale)
