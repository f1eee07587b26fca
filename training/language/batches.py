"""What lies in a work folder, as batches of conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..codec.config import TINY_CODEC
from ..dialogues import Dialogues
from .batch import Batch, Labels
from .conversations import Conversations
from .corpus import Spoken, read_spoken

POOL_BATCHES = 20  # drawn at once and sorted by length, so that batches need little padding
MAX_FIXED_FRAMES = 1200
VALIDATION_USERS = 24  # held out, that are answered then


class Corpus:
    """What lies in a work folder: what is said, and who says it."""

    def __init__(self, dialogues: Dialogues, tokenizer, work: Path) -> None:
        users, sounds, replies, heldout = (
            list(read_spoken(work / name))
            for name in ("users", "sounds", "replies", "heldout_users")
        )
        self.conversations = Conversations(
            dialogues, [*users, *sounds], replies, tokenizer, TINY_CODEC.num_codebooks
        )
        self.labels = Labels(dialogues, tokenizer)
        self.heldout = [user for user in heldout if user.intent in self.conversations.intents]

    def validation_users(self) -> list[Spoken]:
        """Some of the held-out users' lines, of all intents that have a reply."""
        return self.heldout[:: max(1, len(self.heldout) // VALIDATION_USERS)]

    def fixed_batch(self, size: int) -> Batch:
        """Spoken conversations to compare by, always the same."""
        rng = np.random.default_rng(6)
        examples = [self.conversations.draw(rng) for _ in range(size)]
        return self.labels.collate(examples, MAX_FIXED_FRAMES, rng)


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """Conversations in a batch whose words are learned; in one that is spoken, and of how many of
    its frames the codes are learned."""

    words: int
    spoken: int
    code_frames: int


class Batches:
    """Training batches by their number; the same number gives the same.

    Args:
        speaks: number -> whether its conversations are spoken, else only words are learned.
        workers: processes that draw ahead, 0 for none.
    """

    def __init__(
        self,
        corpus: Corpus,
        sizes: BatchSizes,
        seed: int,
        speaks: Callable[[int], bool],
        workers: int = 0,
    ) -> None:
        self.corpus, self.sizes, self.seed, self.speaks = corpus, sizes, seed, speaks
        self.workers = workers
        self._next, self._drawn = -1, iter(())

    def __call__(self, number: int) -> Batch:
        if number != self._next:
            self._drawn = self._from(number)
        self._next = number + 1
        return next(self._drawn)

    def _from(self, number: int) -> Iterator[Batch]:
        pool, skipped = divmod(number, POOL_BATCHES)
        pools = DataLoader(
            _Pools(self, pool),
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,  # shares the corpus
            collate_fn=list,  # as they are
        )
        for drawn in pools:
            for arrays in drawn[skipped:]:
                yield Batch(**{name: torch.from_numpy(x) for name, x in arrays.items()})
            skipped = 0

    def pool(self, number: int) -> list[Batch]:
        """Batches from number * POOL_BATCHES on; of each kind those of equal length together."""
        rng = np.random.default_rng([self.seed, number])
        kinds = [self.speaks(number * POOL_BATCHES + index) for index in range(POOL_BATCHES)]
        sorted_by_length = {}
        for speak in sorted(set(kinds)):
            size, num_batches = self._size(speak), kinds.count(speak)
            examples = [
                self.corpus.conversations.draw(rng, speak) for _ in range(num_batches * size)
            ]
            examples.sort(key=lambda e: e.grid.shape[1])
            parts = [examples[i : i + size] for i in range(0, len(examples), size)]
            sorted_by_length[speak] = iter([parts[i] for i in rng.permutation(num_batches)])
        return [
            self.corpus.labels.collate(next(sorted_by_length[speak]), self.sizes.code_frames, rng)
            for speak in kinds
        ]

    def _size(self, speak: bool) -> int:
        return self.sizes.spoken if speak else self.sizes.words


class _Pools(torch.utils.data.Dataset):
    """Pools from one on, as arrays: they pass between processes as they are."""

    def __init__(self, batches: Batches, first: int) -> None:
        self.batches, self.first = batches, first

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> list[dict[str, np.ndarray]]:
        return [
            {f.name: getattr(batch, f.name).numpy() for f in dataclasses.fields(batch)}
            for batch in self.batches.pool(self.first + index)
        ]
