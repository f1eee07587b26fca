"""The CTC head that spells what is heard in hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..speech.pinyin import syllables

Syllable = tuple[str, ...]


class Spelling:
    """Texts as numbers of units: initials, and finals with their tone; 0 is the blank.

    Args:
        texts: all that will be asked for.
        units: the known ones; texts that hold others are left out. None: all that the texts hold.
    """

    def __init__(self, texts: Iterable[str], units: Sequence[str] | None = None) -> None:
        spelt = {
            text: [unit for syllable in syllables(text) for unit in syllable] for text in texts
        }
        found = {unit for spelling in spelt.values() for unit in spelling}
        self.units = sorted(found) if units is None else list(units)
        index = {unit: number for number, unit in enumerate(self.units, start=1)}
        self.targets = {
            text: torch.tensor([index[unit] for unit in spelling])
            for text, spelling in spelt.items()
            if index.keys() >= set(spelling)
        }


class Speller(nn.Module):
    """A linear CTC head (Graves et al., 2006): hidden states -> initials and finals with tone.

    It is trained beside a model, so that what it reads carries the words, and then dropped.

    Args:
        dim: width of the hidden states.
        spelling: of every text that it will be asked for.
    """

    def __init__(self, dim: int, spelling: Spelling) -> None:
        super().__init__()
        self.targets = spelling.targets
        self.head = nn.Linear(dim, len(spelling.units) + 1)

    def loss(self, heard: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """Mean CTC loss a unit of hidden states [T, dim] each, in which the texts are spoken."""
        logits = self.head(nn.utils.rnn.pad_sequence(list(heard))).float()  # [T, N, units + 1]
        targets = [self.targets[text] for text in texts]
        return F.ctc_loss(
            logits.log_softmax(-1),
            torch.cat(targets).to(logits.device),
            torch.tensor([len(h) for h in heard]),
            torch.tensor([len(t) for t in targets]),
            zero_infinity=True,
        )
