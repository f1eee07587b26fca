"""A small CTC recogniser of the teacher's Mandarin, which the codec's training has to please.

It hears syllables, not characters (Graves et al., 2006, for the CTC loss), and no language model
helps it to guess. It is a tool of the training; the evaluation hears with another ear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor, nn

from models.westlake.firefly import LogMelSpectrogram

from ..codec.clips import VARIATION
from ..codec.config import TINY_CODEC
from ..loop import Stage, autocast
from ..speech.pinyin import syllables
from ..speech.recordings import Recording
from ..speech.speakers import SAMPLE_RATE, Microphone, vary
from .distance import edit_distance
from .spelling import Spelling, Syllable

WIDTH = 192
DILATIONS = (1, 1, 2, 1, 2, 4)
BATCH_SIZE = 24
ROUND_BATCHES = 20  # drawn at once and sorted by length, so that batches need little padding
FIRST_UTTERANCES, FRESH_UTTERANCES = 480, 96  # heard anew before the first round, and for each
OLD_ROUNDS = 40  # whose utterances are heard again
SILENCE = -2.0  # in the features


class Recogniser(nn.Module):
    """Log-mel -> one of `units` or the blank, 43 times a second.

    Args:
        units: initials, and finals with their tone, as `pinyin.syllables` writes them.
    """

    def __init__(self, units: Sequence[str]) -> None:
        super().__init__()
        self.units = list(units)
        self.log_mel = LogMelSpectrogram(TINY_CODEC)
        self.stem = nn.Conv1d(TINY_CODEC.n_mels, WIDTH, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(WIDTH),
                nn.GELU(),
                nn.Conv1d(WIDTH, WIDTH, 5, padding=2 * dilation, dilation=dilation),
            )
            for dilation in DILATIONS
        )
        self.head = nn.Sequential(
            nn.BatchNorm1d(WIDTH), nn.GELU(), nn.Conv1d(WIDTH, len(self.units) + 1, 1)
        )

    def get_extra_state(self) -> list[str]:
        return self.units

    def set_extra_state(self, units: list[str]) -> None:
        if units != self.units:
            raise ValueError(
                "the saved recogniser was trained for other dialogues: "
                "delete its file to train it anew"
            )

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, M, T] -> logits [B, units + 1, (T + 1) // 2]; 0 is the blank."""
        return self.head(self.listen(features))

    def listen(self, features: Tensor) -> Tensor:
        """Features [B, M, T] -> hidden states [B, WIDTH, (T + 1) // 2]."""
        hidden = self.stem(features)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden

    @torch.no_grad()
    def features(self, wave: np.ndarray, sample_rate: int) -> Tensor:
        """Wave [n] -> features [M, n // 256] of its log-mel at 22,050 Hz; see `even`."""
        signal = torch.from_numpy(np.asarray(wave, dtype=np.float32)).to(self.stem.weight.device)
        signal = AF.resample(signal, sample_rate, SAMPLE_RATE)
        signal = F.pad(signal, (0, max(0, self.log_mel.min_samples - len(signal))))
        return self.even(self.log_mel(signal[None, None])[0])

    @staticmethod
    def even(mel: Tensor) -> Tensor:
        """Log-mel [..., M, T] -> features, 0 in the mean at any gain."""
        return (mel - mel.mean(dim=(-2, -1), keepdim=True)) / 2.5

    @torch.no_grad()
    def recognise(self, wave: np.ndarray, sample_rate: int) -> list[Syllable]:
        """What is said in `wave` [n], syllable by syllable, as `pinyin.syllables` would write it.

        An initial that no final follows is a syllable of its own. Call it in eval mode.
        """
        return self.read(self.features(wave, sample_rate))

    @torch.no_grad()
    def read(self, features: Tensor) -> list[Syllable]:
        """What is said in features [M, T]; see `recognise`."""
        best = self(features[None])[0].argmax(dim=0)
        units = [self.units[i - 1] for i in best.unique_consecutive().tolist() if i]
        return _join_units(units)

    def count_errors(self, text: str, wave: np.ndarray, sample_rate: int) -> tuple[int, int]:
        """Errors of `wave` [n] against `text`, and the number of its characters (at least 1).

        The edit distance over syllables with their tone, so characters that sound the same are
        the same. A text that has no reading (empty, or more than Chinese characters and ，。？！)
        is wrong in all its characters.
        """
        try:
            said = syllables(text)
        except ValueError:
            said = ()
        if not said:
            num_characters = max(1, len(text))
            return num_characters, num_characters
        return edit_distance(said, self.recognise(wave, sample_rate)), len(said)

    def error_rate(self, text: str, wave: np.ndarray, sample_rate: int) -> float:
        """Errors per character of `text`; see `count_errors`."""
        errors, num_characters = self.count_errors(text, wave, sample_rate)
        return errors / num_characters


def load_recogniser(path: Path) -> Recogniser:
    """A recogniser that `train_recogniser` has trained, on the CPU, in eval mode."""
    state = torch.load(path, weights_only=True, map_location="cpu")["modules"]["recogniser"]
    recogniser = Recogniser(state["_extra_state"])
    recogniser.load_state_dict(state)
    return recogniser.eval()


def train_recogniser(
    recordings: Sequence[Recording],
    heldout: Sequence[Recording],
    folder: Path,
    minutes: float,
    device: str,
    seed: int = 0,
) -> None:
    """Train on users as microphones hear them and on the assistant.

    A resumed training knows the units that it began with: recordings that came since are learned
    where they are made of those.
    """
    saved = folder / "recogniser.pt"
    units = load_recogniser(saved).units if saved.exists() else None
    torch.manual_seed(seed)
    spelling = Spelling({r.line.text for r in recordings}, units)
    recordings = [r for r in recordings if r.line.text in spelling.targets]
    recogniser = Recogniser(spelling.units).to(device)
    speech = _Speech(recogniser, spelling, recordings, seed)

    def step(index: int) -> Tensor:
        features, lengths, targets = speech.batch(index)
        features, lengths = augment(features, lengths)
        with autocast(device):
            logits = recogniser(features.to(device))
        return ctc_loss(logits, lengths, targets)

    def validate(index: int) -> dict[str, float]:
        counts = [
            recogniser.count_errors(r.line.text, r.wave / np.float32(32768), SAMPLE_RATE)
            for r in heldout
        ]
        errors, characters = map(sum, zip(*counts))
        return {"heldout_cer": errors / characters}

    Stage(
        name="recogniser", folder=folder, minutes=minutes, learning_rate=2e-3, validate_seconds=60
    ).run({"recogniser": recogniser}, step, validate)


class _Speech:
    """Batches of speech of about equal length; the same step draws the same.

    In every round of batches some recordings are heard anew, and some of the last rounds' again.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        spelling: Spelling,
        recordings: Sequence[Recording],
        seed: int,
    ) -> None:
        self.recogniser, self.spelling, self.recordings = recogniser, spelling, recordings
        self.seed = seed
        self.features: dict[tuple[int, int], Tensor] = {}
        self.round, self.batches = -1, []

    def batch(self, step: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Features [B, M, T] float32, their lengths [B] long, and the units spoken."""
        number, index = divmod(step, ROUND_BATCHES)
        if number != self.round:
            self.round, self.batches = number, self._round(number)
        keys = self.batches[index]
        features = [self.features[key] for key in keys]
        lengths = torch.tensor([f.shape[1] for f in features])
        padded = torch.full((len(features), features[0].shape[0], int(lengths.max())), SILENCE)
        for row, feature in zip(padded, features):
            row[:, : feature.shape[1]] = feature
        texts = [self.recordings[recording].line.text for recording, _ in keys]
        return padded, lengths, [self.spelling.targets[text] for text in texts]

    def _round(self, number: int) -> list[list[tuple[int, int]]]:
        pool = [key for n in range(max(0, number - OLD_ROUNDS), number) for key in self._fresh(n)]
        fresh = self._fresh(number)
        rng = np.random.default_rng([self.seed, number, 1])
        size = min(ROUND_BATCHES * BATCH_SIZE, len(pool) + len(fresh))
        older = rng.permutation(len(pool))[: size - len(fresh)]
        chosen = fresh[:size] + [pool[index] for index in older]
        known = set(pool)
        self.features = {key: f for key, f in self.features.items() if key in known}
        for key in chosen:
            if key not in self.features:
                self.features[key] = self._hear(*key)
        chosen.sort(key=lambda key: self.features[key].shape[1])
        batches = [chosen[i : i + BATCH_SIZE] for i in range(0, size, BATCH_SIZE)]
        return [batches[index] for index in np.resize(rng.permutation(len(batches)), ROUND_BATCHES)]

    def _fresh(self, number: int) -> list[tuple[int, int]]:
        """Which recordings are heard anew in a round, and the seeds of their microphones."""
        rng = np.random.default_rng([self.seed, number])
        size = FRESH_UTTERANCES if number else FIRST_UTTERANCES
        picks, seeds = rng.integers(len(self.recordings), size=size), rng.integers(2**31, size=size)
        return list(zip(picks.tolist(), seeds.tolist()))

    def _hear(self, index: int, seed: int) -> Tensor:
        recording = self.recordings[index]
        wave = recording.wave / np.float32(32768)
        if recording.line.seed is not None:
            rng = np.random.default_rng(seed)
            wave = Microphone.draw(rng).record(vary(wave, rng.uniform(*VARIATION)))
        return self.recogniser.features(wave, SAMPLE_RATE).half().cpu()


def augment(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Make clean speech [B, M, T] sound like a codec's: blurred, rough, noisy, with gaps."""
    batch_size, num_mels, _ = features.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch_size, 1, 1).uniform_(low, high)

    pace = float(torch.empty(()).uniform_(0.9, 1.15))
    features = F.interpolate(features, scale_factor=pace, mode="linear")
    lengths = (lengths * pace).long()
    sizes = [2 * int(torch.randint(limit, ())) + 1 for limit in (4, 3)]  # in mels and in time
    blurred = F.avg_pool2d(
        features[:, None], sizes, 1, [size // 2 for size in sizes], count_include_pad=False
    )
    features = features.lerp(blurred[:, 0], uniform(-0.3, 1.0).clamp(min=0))
    features = features.maximum(uniform(-3.0, -0.8))
    coarse = torch.randn(batch_size, 1, num_mels // 4, features.shape[2] // 4 + 1)
    coarse = F.interpolate(coarse, size=features.shape[1:], mode="bilinear")[:, 0]
    features = features + coarse * uniform(-0.2, 0.6).clamp(min=0)  # a codec errs in patches
    features = features + torch.randn_like(features) * uniform(-0.1, 0.3).clamp(min=0)
    for dim, longest in ((1, 12), (1, 12), (2, 6)):
        start = uniform(0, features.shape[dim])
        place = torch.arange(features.shape[dim]).view(1, -1, 1) - start
        gap = (place >= 0) & (place < uniform(0, longest))
        features = features.masked_fill(gap if dim == 1 else gap.mT, 0.0)
    return features, lengths


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Mean CTC loss a unit of logits [B, units + 1, T] for features of `lengths`."""
    return F.ctc_loss(
        logits.permute(2, 0, 1).float().log_softmax(-1),  # [T, B, units + 1]
        torch.cat(list(targets)).to(logits.device),
        (lengths + 1) // 2,
        torch.tensor([len(target) for target in targets]),
    )


def _join_units(units: Iterable[str]) -> list[Syllable]:
    """Units -> syllables, which end with a final; only finals end with a digit, their tone."""
    syllables: list[Syllable] = []
    initial: Syllable = ()
    for unit in units:
        if unit[-1].isdigit():
            syllables.append((*initial, unit))
            initial = ()
        else:
            syllables += [initial] if initial else []
            initial = (unit,)
    return syllables + ([initial] if initial else [])
