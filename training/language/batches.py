"""What lies in a work folder, as batches of conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..codec.config import TINY_CODEC
from ..dialogues import Dialogues
from .batch import Batch, Labels
from .conversations import Conversations
from .corpus import Spoken, read_spoken
from .example import Example

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


# What is learned of a batch: the marks that replies begin with, their words, or their speech too.
Kind = Literal["questions", "words", "spoken"]


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """Conversations in a batch of each `Kind`, and of how many frames of a spoken one the codes are
    learned."""

    questions: int
    words: int
    spoken: int
    code_frames: int


class Batches:
    """Training batches by their number; the same number gives the same.

    Args:
        kinds: number -> its batch's kind.
        workers: processes that draw ahead until `close`, 0 for none.
    """

    def __init__(
        self,
        corpus: Corpus,
        sizes: BatchSizes,
        seed: int,
        kinds: Callable[[int], Kind],
        workers: int = 0,
    ) -> None:
        self._pools, self._workers = _Pools(corpus, sizes, seed, kinds), workers
        self._next, self._drawn = 0, _batches_from(0, self._pools, workers)

    def __call__(self, number: int) -> Batch:
        if number != self._next:
            self.close()
            self._drawn = _batches_from(number, self._pools, self._workers)
        self._next = number + 1
        return next(self._drawn)

    def close(self) -> None:
        """End the processes; without it they live as long as anything still refers to this."""
        self._drawn.close()


class _Pools(torch.utils.data.Dataset):
    """Number -> batches from number * POOL_BATCHES on; of each kind those of equal length together.

    They are arrays, as those pass between processes as they are.
    """

    def __init__(
        self, corpus: Corpus, sizes: BatchSizes, seed: int, kinds: Callable[[int], Kind]
    ) -> None:
        self.corpus, self.sizes, self.seed, self.kinds = corpus, sizes, seed, kinds
        conversations = corpus.conversations
        self.draws: dict[Kind, Callable[[np.random.Generator], Example]] = {
            "questions": conversations.draw_question,
            "words": partial(conversations.draw, speak=False),
            "spoken": conversations.draw,
        }

    def __getitem__(self, number: int) -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng([self.seed, number])
        kinds = [self.kinds(number * POOL_BATCHES + index) for index in range(POOL_BATCHES)]
        sorted_by_length = {}
        for kind in sorted(set(kinds)):
            size = getattr(self.sizes, kind)
            num_batches = kinds.count(kind)
            examples = [self.draws[kind](rng) for _ in range(num_batches * size)]
            examples.sort(key=lambda e: e.grid.shape[1])
            parts = [examples[i : i + size] for i in range(0, len(examples), size)]
            sorted_by_length[kind] = iter([parts[i] for i in rng.permutation(num_batches)])
        batches = (
            self.corpus.labels.collate(next(sorted_by_length[kind]), self.sizes.code_frames, rng)
            for kind in kinds
        )
        return [
            {f.name: getattr(batch, f.name).numpy() for f in dataclasses.fields(batch)}
            for batch in batches
        ]


def _batches_from(number: int, pools: _Pools, workers: int) -> Generator[Batch, None, None]:
    pool, skipped = divmod(number, POOL_BATCHES)
    loader = DataLoader(
        pools,
        batch_size=None,
        sampler=count(pool),
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # shares the corpus
        collate_fn=list,  # as they are
        generator=torch.Generator(),  # else it draws from the global one, which the steps use
    )
    for drawn in loader:
        for arrays in drawn[skipped:]:
            yield Batch(**{name: torch.from_numpy(x) for name, x in arrays.items()})
        skipped = 0
