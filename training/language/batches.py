"""What lies in a work folder, as batches of conversations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..codec.config import TINY_CODEC
from ..dialogues import Dialogues
from .conversations import Conversations
from .corpus import Spoken, read_spoken
from .example import Example

POOL_BATCHES = 20  # drawn at once and sorted by length, so that batches need little padding
VALIDATION_USERS = 24  # held out, that are answered then


class Corpus:
    """What lies in a work folder as training batches; what is added meanwhile is taken up."""

    def __init__(self, dialogues: Dialogues, tokenizer, work: Path) -> None:
        self.dialogues, self.tokenizer, self.work = dialogues, tokenizer, work
        self.heldout = list(read_spoken(work / "heldout_users"))
        self.num_files = 0
        self._pools: dict[bool, tuple[int, list[list[Example]]]] = {}
        self.refresh()

    def refresh(self) -> None:
        folders = [self.work / name for name in ("users", "sounds", "replies")]
        if (found := sum(len(list(folder.glob("*.pt"))) for folder in folders)) != self.num_files:
            users, sounds, replies = (list(read_spoken(folder)) for folder in folders)
            self.replies = replies
            self.conversations = Conversations(
                self.dialogues,
                [*users, *sounds],
                replies,
                self.tokenizer,
                TINY_CODEC.num_codebooks,
            )
            self.num_files = found
            self._pools.clear()  # so that a resumed training draws from the same

    def validation_users(self) -> list[Spoken]:
        """Some of the held-out users' lines, of all intents that have a reply already."""
        known = [user for user in self.heldout if user.intent in self.conversations.intents]
        return known[:: max(1, len(known) // VALIDATION_USERS)]

    def batch(self, step: int, batch_size: int, seed: int, speak: bool) -> list[Example]:
        """Conversations of about equal length together; the same step draws the same."""
        number, index = divmod(step, POOL_BATCHES)
        if self._pools.get(speak, (None,))[0] != number:
            rng = np.random.default_rng([seed, number])
            size = POOL_BATCHES * batch_size
            examples = [self.conversations.draw(rng, speak) for _ in range(size)]
            examples.sort(key=lambda e: e.grid.shape[1])
            batches = [examples[i : i + batch_size] for i in range(0, size, batch_size)]
            self._pools[speak] = number, [batches[i] for i in rng.permutation(POOL_BATCHES)]
        return self._pools[speak][1][index]
