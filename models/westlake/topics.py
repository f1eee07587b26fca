"""What a transcript is about, told by its n-grams: a second opinion on the topic of a reply.

The language model decides by one token what a reply is about. Of what it has heard wrong it makes
other mistakes there than a classifier that counts n-grams, so both together make fewer.
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
NUM_BUCKETS, DIM = 1 << 16, 64
LONGEST = 3  # of the n-grams
DOUBT = 0.02  # share of its opinion that all classes have alike, so that it rules out none


class TopicClassifier(nn.Module):
    """Tells classes of transcripts apart: the sum of embeddings of hashed n-grams, and a linear
    layer (after fastText: Joulin et al., 2017).

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

    def forward(self, transcripts: Sequence[Iterable[int]]) -> Tensor:
        """The n-grams of transcripts, as `buckets` gives them -> logits [B, classes]."""
        bags = [torch.tensor(list(bag), dtype=torch.long) for bag in transcripts]
        offsets = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        return self.output(self.embedding(torch.cat(bags), offsets))

    def buckets(self, syllables: Sequence[str]) -> list[int]:
        """Of all n-grams of up to `LONGEST` syllables, and of pairs around another one."""
        line = ["<", *syllables, ">"]
        spans = [line[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(line) - n + 1)]
        around = [[line[i], "*", line[i + 2]] for i in range(len(line) - 2)]
        size = self.embedding.num_embeddings
        return [crc32(" ".join(span).encode()) % size for span in (*spans, *around)]

    @torch.no_grad()
    def opinion(self, syllables: Sequence[str]) -> Tensor:
        """Log-probabilities [classes] float32 of a transcript's classes; none is ruled out."""
        told = F.softmax(self([self.buckets(syllables)])[0].float(), dim=0)
        return ((1 - DOUBT) * told + DOUBT / len(told)).log()


class TopicLeaning:
    """A classifier's opinion as what is added to the text logits where a topic is written.

    Args:
        classifier: of topics and, by their last words, of what asks on whatever the topic is.
        topic_ids: the text token of each topic.
        vocab_size: of the text tokens.

    Raises:
        ValueError: a topic that is of no class.
    """

    def __init__(
        self, classifier: TopicClassifier, topic_ids: Mapping[str, int], vocab_size: int
    ) -> None:
        self._classifier, self._vocab_size = classifier, vocab_size
        places = {name: place for place, name in enumerate(classifier.classes)}
        of_topics = [places.get(name, places.get(name.rpartition(".")[2])) for name in topic_ids]
        if missing := [name for name, place in zip(topic_ids, of_topics) if place is None]:
            raise ValueError(f"the classifier does not know {', '.join(missing)}")
        self._places = torch.tensor(of_topics, dtype=torch.long)
        self._ids = torch.tensor(list(topic_ids.values()), dtype=torch.long)

    def __call__(self, syllables: Sequence[str]) -> Tensor:
        """What a transcript adds to the text logits: [vocab] float32; to what is no topic as much
        as to the least likely one, so that it gains nothing where the two disagree."""
        least = math.log(DOUBT / len(self._classifier.classes))
        leaning = torch.full((self._vocab_size,), least)
        leaning[self._ids] = self._classifier.opinion(syllables)[self._places]
        return leaning


def write_topics(path: Path, classifier: TopicClassifier) -> None:
    """Keep a classifier, in float16."""
    classes = {"classes": json.dumps(classifier.classes)}
    write_weights(path, classifier.state_dict(), torch.float16, classes)


def read_topics(path: Path) -> TopicClassifier:
    """What `write_topics` has kept.

    Raises:
        ValueError: another file, or a damaged one.
    """
    weights = read_weights(path)
    with naming(path), planned():
        classes = json.loads(read_metadata(path)["classes"])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes must be a list of names")
        num_buckets, dim = weights["embedding.weight"].shape
        if not (classes and num_buckets and dim):
            raise ValueError("it must have classes, and embeddings of n-grams")
        classifier = TopicClassifier(classes, num_buckets, dim)
    assign_weights(classifier, weights, path, torch.float32)
    return classifier.eval().requires_grad_(False)
