"""A judge of the reply's speech: a small CTC recogniser of the synthesiser's Mandarin.

It hears syllables, not characters: the assistant's voice is all it was trained on (Graves et al.,
2006, for the CTC loss), and no language model helps it to guess. So a word that the speech garbles
counts as an error even where a person would still have understood it from the sentence.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor, nn

from models.westlake.firefly import LogMelSpectrogram

from .codec import TINY_CODEC
from .corpus import reply_lines, user_lines
from .dialogues import STYLES, Dialogues
from .loop import Stage
from .scores import edit_distance
from .spelling import Syllable, read_lines
from .synthesise import SAMPLE_RATE, phonemes, speak_assistant

JUDGE_MINUTES = 10.0
WIDTH = 192
DILATIONS = (1, 1, 2, 1, 2, 4)
BATCH_SIZE = 24
FIRST_UTTERANCES, FRESH_UTTERANCES = 480, 96  # synthesised before the first round, and for each
ROUND_BATCHES = 20
POOL_SIZE = 4000  # utterances kept, about 200 MB
NUM_LINES = 1600

SILENCE = -2.0  # in the features


class Judge(nn.Module):
    """Log-mel -> one of `units` or the blank, 43 times a second.

    Args:
        units: initials, and finals with their tone, as `phonemes` writes them.
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
                "the saved judge was trained for other dialogues: delete its file to train it anew"
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
        """What is said in `wave` [n], syllable by syllable, as `phonemes` would write it.

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
            syllables = [tuple(syllable) for syllable in phonemes(text)]
        except ValueError:
            num_characters = max(1, len(text))
            return num_characters, num_characters
        return edit_distance(syllables, self.recognise(wave, sample_rate)), len(syllables)

    def error_rate(self, text: str, wave: np.ndarray, sample_rate: int) -> float:
        """Errors per character of `text`; see `count_errors`."""
        errors, num_characters = self.count_errors(text, wave, sample_rate)
        return errors / num_characters


def load_judge(path: Path) -> Judge:
    """A judge that `train_judge` has trained, on the CPU, in eval mode."""
    state = torch.load(path, weights_only=True, map_location="cpu")["modules"]["judge"]
    judge = Judge(state["_extra_state"])
    judge.load_state_dict(state)
    return judge.eval()


def train_judge(
    dialogues: Dialogues,
    folder: Path,
    minutes: float = JUDGE_MINUTES,
    device: str = "cpu",
    name: str = "judge",
    seed: int = 0,
) -> Judge:
    """Train what is left of `minutes`, and return the judge of `<folder>/<name>.pt`.

    It hears the replies and lines of the users' as the assistant says them.

    Raises:
        RuntimeError: espeak-ng is missing.
    """
    saved = folder / f"{name}.pt"
    if saved.exists() and torch.load(saved, weights_only=True)["seconds"] >= 60 * minutes:
        return load_judge(saved)
    torch.manual_seed(seed)
    readings = read_lines(training_lines(dialogues, seed))
    units = sorted(
        {u for syllables in readings.values() for syllable in syllables for u in syllable}
    )
    judge = Judge(units).to(device)
    speech = _Speech(judge, readings, seed)
    heldout: list[tuple[str, np.ndarray]] = []

    def step(index: int) -> Tensor:
        features, lengths, targets = speech.draw_batch()
        features, lengths = augment(features, lengths)
        with torch.autocast(device, torch.bfloat16):
            logits = judge(features.to(device))
        return ctc_loss(logits, lengths, targets)

    def validate(index: int) -> dict[str, float]:
        if not heldout:
            heldout.extend(heldout_speech(dialogues, 60, seed=0))
        errors, characters = map(
            sum, zip(*(judge.count_errors(text, wave, SAMPLE_RATE) for text, wave in heldout))
        )
        return {"heldout_cer": errors / characters}

    Stage(name=name, folder=folder, minutes=minutes, learning_rate=2e-3, validate_seconds=60).run(
        {"judge": judge}, step, validate
    )
    return load_judge(saved)


def training_lines(dialogues: Dialogues, seed: int) -> list[str]:
    """All replies and a random share of the users' lines, `NUM_LINES` in all."""
    replies = sorted({text for _, text in reply_lines(dialogues)})
    users = sorted({text for _, text, _ in user_lines(dialogues, False)}.difference(replies))
    order = np.random.default_rng(seed).permutation(len(users))
    return replies + [users[i] for i in order[: max(0, NUM_LINES - len(replies))]]


def heldout_speech(
    dialogues: Dialogues, num_utterances: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """Held-out lines (text, wave) as the assistant says them, in all styles in turn."""
    lines = [text for _, text, _ in user_lines(dialogues, True)]
    order = np.random.default_rng(seed).permutation(len(lines))[:num_utterances]
    return [
        (lines[i], speak_assistant(lines[i], STYLES[n % len(STYLES)])) for n, i in enumerate(order)
    ]


class _Speech:
    """Endless batches of the assistant's speech; every line in every style, in random order."""

    def __init__(self, judge: Judge, readings: Mapping[str, Sequence[Syllable]], seed: int) -> None:
        self.judge = judge
        self.rng = np.random.default_rng(seed)
        index = {unit: i for i, unit in enumerate(judge.units, start=1)}
        self.targets = {
            text: torch.tensor([index[unit] for syllable in syllables for unit in syllable])
            for text, syllables in readings.items()
        }
        self.texts = list(readings)
        self.pool: deque[tuple[Tensor, Tensor]] = deque(maxlen=POOL_SIZE)
        self.batches: list[list[tuple[Tensor, Tensor]]] = []

    def draw_batch(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Features [B, M, T] float32, their lengths [B] long, and the units spoken."""
        if not self.batches:
            self._begin_round()
        features, targets = zip(*self.batches.pop())
        lengths = torch.tensor([f.shape[1] for f in features])
        padded = torch.full((len(features), features[0].shape[0], int(lengths.max())), SILENCE)
        for row, feature in zip(padded, features):
            row[:, : feature.shape[1]] = feature
        return padded, lengths, list(targets)

    def _begin_round(self) -> None:
        """Add fresh speech, then batch what is new with older speech of the same length."""
        num_fresh = FRESH_UTTERANCES if self.pool else FIRST_UTTERANCES
        picks = self.rng.integers(len(self.texts), size=num_fresh)
        jobs = [(self.texts[pick], str(self.rng.choice(STYLES))) for pick in picks]
        with ThreadPoolExecutor(2) as threads:  # they wait for espeak-ng
            waves = threads.map(lambda job: speak_assistant(*job), jobs)
            for (text, _), wave in zip(jobs, waves):
                feature = self.judge.features(wave, SAMPLE_RATE).half().cpu()
                self.pool.append((feature, self.targets[text]))
        size = min(ROUND_BATCHES * BATCH_SIZE, len(self.pool))
        older = self.rng.permutation(len(self.pool) - num_fresh)[: size - num_fresh]
        chosen = [
            self.pool[i] for i in (*older, *range(len(self.pool) - num_fresh, len(self.pool)))
        ]
        chosen.sort(key=lambda utterance: utterance[0].shape[1])
        batches = [chosen[i : i + BATCH_SIZE] for i in range(0, size, BATCH_SIZE)]
        self.batches = [batches[i] for i in self.rng.permutation(len(batches))]


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
