"""What few bits change: python -m benchmarks.quality --dtype int8

Text: both models read the lines of held-out questions, and predict each next token. Replies: the
checkpoint answers questions in writing and in float32; then both models read these answers, and
predict each next text token and code. Figures are the perplexities, and the share of positions at
which both hold the same token for the most likely.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.contract import ReplyOptions
from models.devices import DTYPES
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.conversation import Turn
from models.westlake.speech_model import WestlakeModel
from training.dialogues import load_dialogues

from .common import report


@dataclasses.dataclass
class Predictions:
    """Of each position a model's first choice, and the nats that the true token costs."""

    chosen: Tensor
    costs: Tensor

    @classmethod
    def of(cls, logits: Tensor, true: Tensor) -> Predictions:
        """Of logits [..., size] and the tokens [...] that follow."""
        costs = F.cross_entropy(logits.float().flatten(0, -2), true.flatten(), reduction="none")
        return cls(logits.argmax(-1), costs.view(true.shape))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        return cls(torch.cat([x.chosen for x in parts]), torch.cat([x.costs for x in parts]))


@torch.inference_mode()
def read_text(checkpoint: Checkpoint, text: str) -> Predictions:
    """A text's tokens after the first: [n]."""
    ids = torch.tensor(checkpoint.tokenizer.encode(text))
    columns = torch.zeros(1 + checkpoint.model.config.num_codebooks, len(ids), dtype=torch.long)
    columns[0] = ids
    hidden = checkpoint.model.forward_hidden(columns[None, :, :-1])[0]
    return Predictions.of(checkpoint.model.text_logits(hidden), ids[1:])


@torch.inference_mode()
def read_reply(checkpoint: Checkpoint, turn: Turn) -> Predictions:
    """Every text token and code of a turn's reply: [n, 1+K]. Column by column, as it speaks."""
    model, reply = checkpoint.model, turn.columns[:, turn.prompt_length :]
    cache = model.new_cache()
    unread = turn.columns[:, : turn.prompt_length]
    frames = []
    for column in reply[:, :-1].T:  # the end has no codes
        hidden = checkpoint.engine.read(unread[None], [cache])[:, -1]
        fast_cache = model.new_fast_cache(1)
        inputs = [hidden, *model.embed_codes(column[1:-1, None])]
        logits = [model.text_logits(hidden), *(model.step_fast(x, fast_cache) for x in inputs)]
        parts = [Predictions.of(x, true) for x, true in zip(logits, column[:, None], strict=True)]
        frames.append(Predictions.joined(parts))
        unread = column[:, None]
    return Predictions(
        torch.stack([frame.chosen for frame in frames]),
        torch.stack([frame.costs for frame in frames]),
    )


def compared(name: str, exact: Predictions, small: Predictions) -> dict[str, float]:
    """Figures of one kind of token."""
    return {
        f"{name}_perplexity_float32": exact.costs.mean().exp().item(),
        f"{name}_perplexity": small.costs.mean().exp().item(),
        f"same_{name}": (exact.chosen == small.chosen).float().mean().item(),
    }


def answer(model: WestlakeModel, text: str, seed: int) -> Turn:
    """A question in writing and its reply."""
    conversation = model.new_conversation()
    turn = conversation.begin_turn(text)
    turn.finish()
    sampling = dataclasses.replace(model.sampling, seed=seed)
    for _ in conversation.reply(turn, ReplyOptions(sampling=sampling)):
        pass
    return conversation.turns[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny", help="as of load_model")
    parser.add_argument("--dtype", choices=DTYPES, default="int8")
    parser.add_argument("--questions", type=int, default=24)
    options = parser.parse_args()
    pair = [load_checkpoint(options.checkpoint, dtype=d) for d in ("float32", options.dtype)]
    model = WestlakeModel(pair[0])
    held = [text for intent in load_dialogues().intents for text in intent.held]
    asked = [str(text) for text in np.random.default_rng(0).permutation(held)[: options.questions]]
    turns = [answer(model, text, seed) for seed, text in enumerate(asked)]
    texts, replies = [], []
    for checkpoint in pair:
        texts.append(Predictions.joined([read_text(checkpoint, text) for text in asked]))
        replies.append(Predictions.joined([read_reply(checkpoint, turn) for turn in turns]))
    words = [Predictions(x.chosen[:, 0], x.costs[:, 0]) for x in replies]
    codes = [Predictions(x.chosen[:, 1:], x.costs[:, 1:]) for x in replies]
    report(
        "quality",
        {
            "checkpoint": options.checkpoint,
            "dtype": options.dtype,
            "tokens": len(texts[0].chosen),
            "frames": len(replies[0].chosen),
            **compared("text_token", *texts),
            **compared("reply_token", *words),
            **compared("code", *codes),
        },
    )


if __name__ == "__main__":
    main()
