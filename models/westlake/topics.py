"""What a user's turn is about, told by its n-grams: a second opinion on the topic of a reply.

The language model decides by one token what a reply is about. It makes other mistakes there than a
classifier that counts n-grams, so both together make fewer, most of all where it heard wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from ..files import naming
from ..weights import assign_weights, planned, read_metadata, read_weights, write_weights
from .opinions import Leaning, doubted

TOPICS_FILE = "topics.safetensors"
HEARD, WRITTEN = "heard", "written"  # turns told apart by their syllables, or by their characters
NUM_BUCKETS, DIM = 1 << 17, 32
NUM_CHECKS = 255  # what a uint8 can be besides 0, which is no n-gram's
LONGEST = 3  # of the n-grams
SAY = 1.5  # weight of a classifier's opinion, where the language model's has 1
UNKNOWN = "unknown."  # the names of what can't be answered begin so
# More of what is said can't be answered, or understood, than in training; most of what is spoken.
UNKNOWN_PRIORS = {HEARD: 3.0, WRITTEN: 1.0}  # added to their logits


class TopicClassifier(nn.Module):
    """Tells classes of lines apart: the sum of embeddings of hashed n-grams, and a linear layer
    (after fastText: Joulin et al., 2017).

    A bucket belongs to one n-gram. Of the others that are hashed to it, which would be noise there,
    all are left out but one in `NUM_CHECKS`, that has the same check.

    Args:
        classes: their names.
        num_buckets: that n-grams are hashed to.
        dim: of their embeddings.

    Attributes:
        checks: [num_buckets] uint8, of the upper part of its n-gram's hash, 1 to `NUM_CHECKS`; 0
            where there is none.
    """

    checks: Tensor

    def __init__(
        self, classes: Sequence[str], num_buckets: int = NUM_BUCKETS, dim: int = DIM
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.embedding = nn.EmbeddingBag(num_buckets, dim, mode="sum")
        self.output = nn.Linear(dim, len(self.classes))
        self.register_buffer("checks", torch.zeros(num_buckets, dtype=torch.uint8))

    def assign_buckets(self, lines: Iterable[Iterable[Sequence[str]]], least: int) -> None:
        """Give each bucket to the n-gram that most lines have, of those that are hashed to it.

        Args:
            lines: one or more, each in one or several wordings, see `buckets`.
            least: number of lines that an n-gram must stand in to be given a bucket.
        """
        of_lines = [np.unique(np.concatenate([_hashes(w) for w in line])) for line in lines]
        hashes, numbers = np.unique(np.concatenate(of_lines), return_counts=True)
        rising = np.argsort(numbers, kind="stable")
        chosen = hashes[rising][numbers[rising] >= least]
        buckets, checks = self._buckets_and_checks(chosen)
        owners = dict(zip(buckets.tolist(), checks.tolist()))  # the last one, so the most frequent
        self.checks.zero_()
        self.checks[list(owners)] = torch.tensor(list(owners.values()), dtype=torch.uint8)

    def forward(self, bags: Sequence[Tensor]) -> Tensor:
        """The buckets of one line or more -> logits [B, classes]; of none of them, the bias."""
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        return self.output(self.embedding(torch.cat(list(bags)), offsets))

    def buckets(self, symbols: Sequence[str]) -> Tensor:
        """The buckets [n] int64 of a line's n-grams of up to `LONGEST` symbols, and of its pairs
        around another symbol. Those without a bucket are left out, so n may be 0.

        Args:
            symbols: a line's syllables, or its characters as `characters` gives them.
        """
        buckets, checks = self._buckets_and_checks(_hashes(symbols))
        return torch.from_numpy(buckets[self.checks.numpy()[buckets] == checks])

    def _buckets_and_checks(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hashes [n] int64 -> buckets and checks [n] int64."""
        size = self.embedding.num_embeddings
        return hashes % size, 1 + hashes // size % NUM_CHECKS

    @torch.no_grad()
    def opinion(self, symbols: Sequence[str], unknown_prior: float = 0.0) -> Tensor:
        """Log-probabilities [classes] float32 of a line's classes; none is ruled out.

        Args:
            symbols: as for `buckets`.
            unknown_prior: added to the logits of `UNKNOWN` classes.
        """
        logits = self([self.buckets(symbols)])[0].float()
        logits += unknown_prior * torch.tensor([n.startswith(UNKNOWN) for n in self.classes])
        return doubted(logits)


def _hashes(symbols: Sequence[str]) -> np.ndarray:
    """The CRC-32 of each of a line's n-grams and pairs around another symbol: [n] int64."""
    line = ["<", *symbols, ">"]
    spans = [line[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(line) - n + 1)]
    around = [[line[i], "*", line[i + 2]] for i in range(len(line) - 2)]
    return np.array([crc32(" ".join(span).encode()) for span in (*spans, *around)], np.int64)


def characters(text: str) -> list[str]:
    """The symbols of what is written: its letters and digits."""
    return [char for char in text.lower() if char.isalnum()]


class TopicLeaning:
    """The classifiers' opinion as what is added to the text logits where a topic is written.

    Args:
        classifiers: for what is `HEARD` and what is `WRITTEN`, of the same classes: topics and, by
            their last words, what asks on whatever the topic is.
        topic_ids: the text token of each topic.
        vocab_size: of the text tokens.

    Raises:
        ValueError: a topic that is of no class.
    """

    def __init__(
        self,
        classifiers: Mapping[str, TopicClassifier],
        topic_ids: Mapping[str, int],
        vocab_size: int,
    ) -> None:
        self._classifiers = classifiers
        classes = classifiers[HEARD].classes
        tokens = {token: _class_of(name, classes) for name, token in topic_ids.items()}
        self._leaning = Leaning(classes, tokens, vocab_size, SAY)

    def __call__(self, kind: str, symbols: Sequence[str]) -> Tensor:
        """What a line adds to the text logits: [vocab] float32, see `Leaning`.

        Args:
            kind: `HEARD` or `WRITTEN`.
            symbols: the line's, see `TopicClassifier.buckets`.
        """
        return self._leaning(self._opinion(kind, symbols))

    def knows(self, kind: str, symbols: Sequence[str]) -> bool:
        """Whether a line, given as above, is sooner of a topic than of what can't be answered."""
        classifier = self._classifiers[kind]
        likeliest = classifier.classes[int(self._opinion(kind, symbols).argmax())]
        return not likeliest.startswith(UNKNOWN)

    def _opinion(self, kind: str, symbols: Sequence[str]) -> Tensor:
        return self._classifiers[kind].opinion(symbols, UNKNOWN_PRIORS[kind])


def _class_of(topic: str, classes: Sequence[str]) -> str:
    """A topic's own class; of what asks on, that of its last word."""
    asking = topic.rpartition(".")[2]
    return asking if topic not in classes and asking in classes else topic


def write_topics(path: Path, classifiers: Mapping[str, TopicClassifier]) -> None:
    """Keep the classifiers for what is `HEARD` and what is `WRITTEN`, which have the same classes.

    Embeddings are stored in 8 bits, in steps of a 127th of the largest value.
    """
    weights = nn.ModuleDict(classifiers).state_dict()
    for kind in (HEARD, WRITTEN):
        embedding = weights[f"{kind}.embedding.weight"]
        step = embedding.abs().amax().clamp(min=torch.finfo(torch.float32).tiny) / 127
        weights[f"{kind}.embedding.weight"] = (embedding / step).round().to(torch.int8)
        weights[f"{kind}.step"] = step
    classes = {"classes": json.dumps(classifiers[HEARD].classes)}
    write_weights(path, weights, metadata=classes)


def read_topics(path: Path) -> dict[str, TopicClassifier]:
    """What `write_topics` has kept.

    Raises:
        ValueError: another file, or a damaged one.
    """
    weights = read_weights(path, integers=True)
    with naming(path), planned():
        classes = json.loads(read_metadata(path)["classes"])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes must be a list of names")
        classifiers = {}
        for kind in (HEARD, WRITTEN):
            embedding = weights[f"{kind}.embedding.weight"]
            if f"{kind}.checks" not in weights:
                raise ValueError(f"it lacks {kind}.checks, as earlier ones did: train it again")
            num_buckets, dim = embedding.shape
            if not (classes and num_buckets and dim):
                raise ValueError("it must have classes, and embeddings of n-grams")
            classifiers[kind] = TopicClassifier(classes, num_buckets, dim)
            weights[f"{kind}.embedding.weight"] = embedding * weights.pop(f"{kind}.step")
    both = nn.ModuleDict(classifiers).eval()
    assign_weights(both, weights, path, torch.float32)
    both.requires_grad_(False)
    return classifiers
