"""Heads that are trained beside the language model and dropped with the training.

They teach fast what replies alone teach slowly: a classifier on the last layer tells what was
asked, and two on an inner layer which syllable is heard in every frame of the user's speech, and
which one is spoken in every frame of a reply. Beside them the model's own text head learns to write
down the syllables while it hears them.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.westlake.dual_ar import DualARTransformer

from .batch import Batch, Labels

LISTENING_LAYER = 2  # its output is what the heads of words and syllables read
HEARING_WEIGHT = 1.0
QUESTION_WEIGHT = 1.0
SPEAKING_WEIGHT = 1.0
SPELLING_WEIGHT = 2.0


class Heads(nn.Module):
    """Linear heads on a model's hidden states: which syllable is heard in a frame, what was asked,
    and which syllable is spoken in a frame.

    Args:
        labels: number what is heard, asked and said; a head has an output for each.
    """

    written: Tensor

    def __init__(self, model: DualARTransformer, labels: Labels) -> None:
        super().__init__()
        dim = model.config.dim
        self.hearing_head = nn.Linear(dim, len(labels.heard))
        self.register_buffer("written", torch.tensor(labels.written), persistent=False)
        self.question_head = nn.Linear(dim, len(labels.questions))
        self.speaking_head = nn.Linear(dim, len(labels.said))
        self.models = [model]  # in a list: it isn't a part of this module
        self.hidden: dict[int, Tensor] = {}
        for layer in (LISTENING_LAYER, len(model.layers) - 1):
            model.layers[layer].register_forward_hook(partial(self._keep, layer))
        self.last_layer = layer

    def _keep(self, layer: int, module, args, output: Tensor) -> None:
        self.hidden[layer] = output

    def loss(self, batch: Batch) -> Tensor:
        """Of the last forward pass: cross-entropy of questions and of syllables."""
        inner, last = self.hidden[LISTENING_LAYER], self.hidden[self.last_layer]  # [B * T, dim]
        asked = self.question_head(last[batch.question_places]).float()
        heard = self.hearing_head(inner[batch.heard_places])
        said = self.speaking_head(inner[batch.said_places])
        return (
            QUESTION_WEIGHT * F.cross_entropy(asked, batch.questions)
            + HEARING_WEIGHT * _mean_cross_entropy(heard, batch.heard)
            + SPEAKING_WEIGHT * _mean_cross_entropy(said, batch.said)
            + SPELLING_WEIGHT * self._spelling_loss(batch, last)
        )

    def _spelling_loss(self, batch: Batch, last: Tensor) -> Tensor:
        """How little the text head writes, over the columns of speech, what is said in them; per
        syllable (connectionist temporal classification: Graves et al., 2006).

        Args:
            last: hidden [B * T, dim] of the last layer.
        """
        if not len(batch.spelled_lengths):
            return last.new_zeros((), dtype=torch.float32)
        (model,) = self.models
        hidden = model.norm(last[batch.spelled_places])  # [L, u, dim]
        head = model.embed_tokens if model.lm_head is None else model.lm_head
        logits = F.linear(hidden, head.weight[self.written]).float()
        losses = F.ctc_loss(
            logits.log_softmax(-1),
            batch.spelled,
            batch.spelled_lengths,
            batch.spelling_lengths,
            reduction="sum",
            zero_infinity=True,  # of speech so fast that it has fewer frames than syllables
        )
        return losses / max(1, len(batch.spelled))


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of syllables' logits [n, ...]; 0 of none, as some are too short to be told."""
    return F.cross_entropy(logits.float(), targets, reduction="sum") / max(1, len(targets))
