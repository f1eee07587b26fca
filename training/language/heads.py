"""Heads that are trained beside the language model and dropped with the training.

They teach fast what replies alone teach slowly: a CTC head (Graves et al., 2006) on an inner layer
spells the user's speech, a classifier on the last layer tells what was asked, and one on the inner
layer which syllable is spoken in every frame of a reply.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.westlake.dual_ar import DualARTransformer

from ..recogniser.spelling import Speller, Spelling
from .example import Example

LISTENING_LAYER = 3  # its output is what the heads of words and syllables read
SPELLING_WEIGHT = 0.5
QUESTION_WEIGHT = 0.5
SYLLABLE_WEIGHT = 1.0


class Heads(nn.Module):
    """Heads that are trained beside the model: what words were heard, what was asked, and which
    syllable is spoken next.

    Args:
        spelling: of all that users say.
        questions: all that may be asked.
        syllables: all that replies are made of, and "" for silence.
    """

    def __init__(
        self,
        model: DualARTransformer,
        spelling: Spelling,
        questions: Sequence[str],
        syllables: Sequence[str],
    ) -> None:
        super().__init__()
        dim = model.config.dim
        self.speller = Speller(dim, spelling)
        self.questions = {question: index for index, question in enumerate(questions)}
        self.question_head = nn.Linear(dim, len(questions))
        self.syllables = {syllable: index for index, syllable in enumerate(syllables)}
        self.syllable_head = nn.Linear(dim, len(syllables))
        self.hidden: dict[int, Tensor] = {}
        for layer in (LISTENING_LAYER, len(model.layers) - 1):
            model.layers[layer].register_forward_hook(partial(self._keep, layer))
        self.last_layer = layer

    def _keep(self, layer: int, module, args, output: Tensor) -> None:
        self.hidden[layer] = output

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Of the last forward pass: CTC loss per unit, cross-entropy of questions and syllables."""
        inner, last = (
            self.hidden[layer].unflatten(0, (len(examples), -1))  # [B, T, dim]
            for layer in (LISTENING_LAYER, self.last_layer)
        )
        asked = [(row, *question) for row, e in enumerate(examples) for question in e.asked]
        rows, columns, names = zip(*asked)
        indices = torch.tensor([self.questions[name] for name in names], device=last.device)
        loss = QUESTION_WEIGHT * F.cross_entropy(
            self.question_head(last[list(rows), list(columns)]).float(), indices
        )
        spans = [(row, *heard) for row, e in enumerate(examples) for heard in e.heard]
        if spans:
            heard = [inner[row, start:end] for row, start, end, _ in spans]
            spelling = self.speller.loss(heard, [text for *_, text in spans])
            loss = loss + SPELLING_WEIGHT * spelling
        said = [(row, *spoken) for row, e in enumerate(examples) for spoken in e.said]
        if said:
            columns = [inner[row, start : start + len(names)] for row, start, names in said]
            indices = [self.syllables[name] for *_, names in said for name in names]
            loss = loss + SYLLABLE_WEIGHT * F.cross_entropy(
                self.syllable_head(torch.cat(columns)).float(),
                torch.tensor(indices, device=inner.device),
            )
        return loss
