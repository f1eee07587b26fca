"""What a user's turn is about, told by its n-grams: a second opinion on the topic of a reply.

The language model decides by one token what a reply is about. It makes other mistakes there than a
classifier that counts n-grams, so both together make fewer, most of all where it heard wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import naming
from ..weights import assign_weights, planned, read_metadata, read_weights, write_weights

TOPICS_FILE = "topics.safetensors"
HEARD, WRITTEN = "heard", "written"  # turns told apart by their syllables, or by their characters
NUM_BUCKETS, DIM = 1 << 16, 64
LONGEST = 3  # of the n-grams
DOUBT = 0.02  # share of its opinion that all classes have alike, so that it rules out none
# Where the words are heard, with errors, the classifier tells more than the model does; and more
# of what is spoken can't be answered, or understood, than in training, where no topic is likelier.
SAY = {HEARD: 1.5, WRITTEN: 1.0}
UNKNOWN = "unknown."  # the names of what can't be begin so
UNKNOWN_PRIORS = {HEARD: 2.0, WRITTEN: 0.0}  # added to their logits


class TopicClassifier(nn.Module):
    """Tells classes of lines apart: the sum of embeddings of hashed n-grams, and a linear layer
    (after fastText: Joulin et al., 2017).

    Args:
        classes: their names.
        num_buckets: that n-grams are hashed to.
        dim: of their embeddings.
    """

    def __init__(
        self, classes: Sequence[str], num_buckets: int = NUM_BUCKETS, dim: int = DIM
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.embedding = nn.EmbeddingBag(num_buckets, dim, mode="sum")
        self.output = nn.Linear(dim, len(self.classes))

    def forward(self, lines: Sequence[Iterable[int]]) -> Tensor:
        """The n-grams of lines, as `buckets` gives them -> logits [B, classes]."""
        bags = [torch.tensor(list(bag), dtype=torch.long) for bag in lines]
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        return self.output(self.embedding(torch.cat(bags), offsets))

    def buckets(self, symbols: Sequence[str]) -> list[int]:
        """Of all n-grams of up to `LONGEST` symbols, and of pairs around another one.

        Args:
            symbols: a line's syllables, or its characters as `characters` gives them.
        """
        line = ["<", *symbols, ">"]
        spans = [line[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(line) - n + 1)]
        around = [[line[i], "*", line[i + 2]] for i in range(len(line) - 2)]
        size = self.embedding.num_embeddings
        return [crc32(" ".join(span).encode()) % size for span in (*spans, *around)]

    @torch.no_grad()
    def opinion(self, symbols: Sequence[str], unknown_prior: float = 0.0) -> Tensor:
        """Log-probabilities [classes] float32 of a line's classes; none is ruled out.

        Args:
            symbols: as for `buckets`.
            unknown_prior: added to the logits of `UNKNOWN` classes.
        """
        logits = self([self.buckets(symbols)])[0].float()
        logits += unknown_prior * torch.tensor([n.startswith(UNKNOWN) for n in self.classes])
        told = F.softmax(logits, dim=0)
        return ((1 - DOUBT) * told + DOUBT / len(told)).log()


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
        self._classifiers, self._vocab_size = classifiers, vocab_size
        classes = classifiers[HEARD].classes
        places = {name: place for place, name in enumerate(classes)}
        of_topics = [places.get(name, places.get(name.rpartition(".")[2])) for name in topic_ids]
        if missing := [name for name, place in zip(topic_ids, of_topics) if place is None]:
            raise ValueError(f"the classifiers do not know {', '.join(missing)}")
        self._least = math.log(DOUBT / len(classes))
        self._places = torch.tensor(of_topics, dtype=torch.long)
        self._ids = torch.tensor(list(topic_ids.values()), dtype=torch.long)

    def __call__(self, kind: str, symbols: Sequence[str]) -> Tensor:
        """What a line adds to the text logits: [vocab] float32, `SAY` times the opinion of its
        topics; to what is no topic as much as to the least likely one, so that it gains nothing
        where the two disagree.

        Args:
            kind: `HEARD` or `WRITTEN`.
            symbols: the line's, see `TopicClassifier.buckets`.
        """
        leaning = torch.full((self._vocab_size,), self._least)
        opinion = self._classifiers[kind].opinion(symbols, UNKNOWN_PRIORS[kind])
        leaning[self._ids] = opinion[self._places]
        return SAY[kind] * leaning


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
            num_buckets, dim = embedding.shape
            if not (classes and num_buckets and dim):
                raise ValueError("it must have classes, and embeddings of n-grams")
            classifiers[kind] = TopicClassifier(classes, num_buckets, dim)
            weights[f"{kind}.embedding.weight"] = embedding * weights.pop(f"{kind}.step")
    both = nn.ModuleDict(classifiers).eval()
    assign_weights(both, weights, path, torch.float32)
    both.requires_grad_(False)
    return classifiers
