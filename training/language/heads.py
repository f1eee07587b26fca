"""Heads that are trained beside the language model and dropped with the training.

They teach fast what replies alone teach slowly: a classifier on the last layer tells what was
asked, and two on an inner layer which syllable is heard in every frame of the user's speech, and
which one is spoken in every frame of a reply. Beside them the model's own text head learns to write
down the syllables while it hears them.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.westlake.dual_ar import DualARTransformer

from .example import Example

LISTENING_LAYER = 2  # its output is what the heads of words and syllables read
HEARING_WEIGHT = 1.0
QUESTION_WEIGHT = 1.0
SPEAKING_WEIGHT = 1.0
SPELLING_WEIGHT = 2.0


class Heads(nn.Module):
    """Heads that are trained beside the model: what words were heard, what was asked, and which
    syllable is spoken next.

    Args:
        heard: all syllables that users' lines are made of, without tones, and "" for silence.
        written: the text tokens that the model writes them down as, and that for nothing new.
        questions: all that may be asked.
        spoken: all syllables that replies are made of, and "" for silence.
    """

    def __init__(
        self,
        model: DualARTransformer,
        heard: Sequence[str],
        written: Sequence[int],
        questions: Sequence[str],
        spoken: Sequence[str],
    ) -> None:
        super().__init__()
        dim = model.config.dim
        self.heard = {syllable: index for index, syllable in enumerate(heard)}
        self.hearing_head = nn.Linear(dim, len(heard))
        self.register_buffer("written", torch.tensor(written), persistent=False)
        self.questions = {question: index for index, question in enumerate(questions)}
        self.question_head = nn.Linear(dim, len(questions))
        self.spoken = {syllable: index for index, syllable in enumerate(spoken)}
        self.speaking_head = nn.Linear(dim, len(spoken))
        self.models = [model]  # in a list: it isn't a part of this module
        self.hidden: dict[int, Tensor] = {}
        for layer in (LISTENING_LAYER, len(model.layers) - 1):
            model.layers[layer].register_forward_hook(partial(self._keep, layer))
        self.last_layer = layer

    def _keep(self, layer: int, module, args, output: Tensor) -> None:
        self.hidden[layer] = output

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Of the last forward pass: cross-entropy of questions and of syllables."""
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
        heard = [(row, *span) for row, e in enumerate(examples) for span in e.heard]
        said = [(row, *span) for row, e in enumerate(examples) for span in e.said]
        return (
            loss
            + HEARING_WEIGHT * _syllable_loss(self.hearing_head, self.heard, inner, heard)
            + SPEAKING_WEIGHT * _syllable_loss(self.speaking_head, self.spoken, inner, said)
            + SPELLING_WEIGHT * self._spelling_loss(examples, last)
        )

    def _spelling_loss(self, examples: Sequence[Example], last: Tensor) -> Tensor:
        """How little the text head writes, over the columns of speech, what is said in them; per
        syllable (connectionist temporal classification: Graves et al., 2006).

        Args:
            last: hidden [B, T, dim] of the last layer.
        """
        spelled = [(row, *span) for row, e in enumerate(examples) for span in e.spelled]
        if not spelled:
            return last.new_zeros((), dtype=torch.float32)
        (model,) = self.models
        pieces = [last[row, first : first + length] for row, first, length, _ in spelled]
        hidden = model.norm(nn.utils.rnn.pad_sequence(pieces))  # [T, N, dim]
        head = model.embed_tokens if model.lm_head is None else model.lm_head
        logits = F.linear(hidden, head.weight[self.written]).float()
        targets = [self.heard[name] for *_, names in spelled for name in names]
        losses = F.ctc_loss(
            logits.log_softmax(-1),
            torch.tensor(targets, device=last.device, dtype=torch.long),
            torch.tensor([len(piece) for piece in pieces]),
            torch.tensor([len(names) for *_, names in spelled]),
            reduction="sum",
            zero_infinity=True,  # of speech so fast that it has fewer frames than syllables
        )
        return losses / max(1, len(targets))


def _syllable_loss(
    head: nn.Linear,
    indices: Mapping[str, int],
    hidden: Tensor,
    spans: Sequence[tuple[int, int, Sequence[str]]],
) -> Tensor:
    """Cross-entropy of the syllables in columns of hidden states [B, T, dim].

    Args:
        spans: (row, first column, syllable in each column from there).
    """
    if not any(names for *_, names in spans):  # some are too short to be told
        return hidden.new_zeros((), dtype=torch.float32)
    columns = [hidden[row, start : start + len(names)] for row, start, names in spans]
    targets = [indices[name] for *_, names in spans for name in names]
    logits = head(torch.cat(columns)).float()
    return F.cross_entropy(logits, torch.tensor(targets, device=hidden.device))
