"""How texts are spelled for the recognisers of the recipe, and the CTC head that learns it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .synthesise import PUNCTUATION, phonemes

LINES_A_RUN = 40  # starting espeak-ng takes longer than reading a line

Syllable = tuple[str, ...]


def read_lines(texts: Sequence[str]) -> dict[str, list[Syllable]]:
    """`phonemes` of each text, by text; many lines are given to espeak-ng at once."""
    readings = {}
    for start in range(0, len(texts), LINES_A_RUN):
        lines = texts[start : start + LINES_A_RUN]
        syllables = iter(phonemes("。".join(lines)))
        for line in lines:
            num_characters = sum(char not in PUNCTUATION for char in line)
            readings[line] = [tuple(next(syllables)) for _ in range(num_characters)]
    return readings


class Speller(nn.Module):
    """A linear CTC head (Graves et al., 2006): hidden states -> initials and finals with tone.

    It is trained beside a model, so that what it reads carries the words, and then dropped.

    Args:
        dim: width of the hidden states.
        readings: of every text that it will be asked for, as from `read_lines`.
    """

    def __init__(self, dim: int, readings: Mapping[str, Sequence[Syllable]]) -> None:
        super().__init__()
        spellings = {
            text: [unit for syllable in syllables for unit in syllable]
            for text, syllables in readings.items()
        }
        units = sorted({unit for spelling in spellings.values() for unit in spelling})
        index = {unit: i for i, unit in enumerate(units, start=1)}  # 0 is the blank
        self.targets = {
            text: torch.tensor([index[unit] for unit in spelling])
            for text, spelling in spellings.items()
        }
        self.head = nn.Linear(dim, len(units) + 1)

    def loss(self, heard: Sequence[Tensor], texts: Sequence[Sequence[str]]) -> Tensor:
        """Mean CTC loss a unit of hidden states [T, dim] each, in which the texts are spoken."""
        logits = self.head(nn.utils.rnn.pad_sequence(list(heard))).float()  # [T, N, units + 1]
        targets = [torch.cat([self.targets[text] for text in spoken]) for spoken in texts]
        return F.ctc_loss(
            logits.log_softmax(-1),
            torch.cat(targets).to(logits.device),
            torch.tensor([len(h) for h in heard]),
            torch.tensor([len(t) for t in targets]),
            zero_infinity=True,
        )
