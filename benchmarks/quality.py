"""What few bits change: python -m benchmarks.quality --dtype int8

Text: both models read the lines of held-out questions, and predict each next token. Replies: the
checkpoint answers questions in writing and in float32; then both models read these answers, and
predict each next text token and, of what is spoken, each code. Figures are the perplexities, and
the share of positions at which both hold the same token for the most likely.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.devices import DTYPES
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.dual_ar import (
    DualARTransformer,
    PromptTokens,
    Reply,
    make_frames,
    next_frames,
    turn_grid,
)
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


class Answered(NamedTuple):
    """A question [1+K, T], and the columns [n, 1+K] of its reply, without the end."""

    prompt: Tensor
    reply: Tensor


@torch.inference_mode()
def read_text(checkpoint: Checkpoint, text: str) -> Predictions:
    """A text's tokens after the first: [n]."""
    ids = torch.tensor(checkpoint.tokenizer.encode(text))
    columns = torch.zeros(1 + checkpoint.model.config.num_codebooks, len(ids), dtype=torch.long)
    columns[0] = ids
    hidden = checkpoint.model.forward_hidden(columns[None, :, :-1])[0]
    return Predictions.of(checkpoint.model.text_logits(hidden), ids[1:])


@torch.inference_mode()
def read_replies(
    checkpoint: Checkpoint, turns: Sequence[Answered]
) -> tuple[Predictions, Predictions]:
    """Every text token of all replies, [n], and every code that is spoken, [m, K]. Column by
    column, as it speaks."""
    model, engine = checkpoint.model, checkpoint.engine
    caches = [model.new_cache(turn.prompt.shape[1] + len(turn.reply)) for turn in turns]
    read = [engine.read(turn.prompt[None], [cache]) for turn, cache in zip(turns, caches)]
    hidden, going = torch.cat([x[:, -1] for x in read]), list(range(len(turns)))
    marks, words, codes = torch.tensor(sorted(checkpoint.mark_ids), dtype=torch.long), [], []
    for position in range(max(len(turn.reply) for turn in turns)):
        columns = torch.stack([turns[row].reply[position] for row in going])
        words.append(Predictions.of(model.text_logits(hidden), columns[:, 0]))
        spoken = ~torch.isin(columns[:, 0], marks)
        if spoken.any():
            codes.append(_read_codes(model, hidden[spoken], columns[spoken, 1:]))
        left = [n for n, row in enumerate(going) if len(turns[row].reply) > position + 1]
        going = [going[n] for n in left]
        if going:
            hidden = engine.read(columns[left, :, None], [caches[row] for row in going])[:, -1]
    return Predictions.joined(words), Predictions.joined(codes)


def _read_codes(model: DualARTransformer, hidden: Tensor, codes: Tensor) -> Predictions:
    """The next codes [n, K] of each reply, from what the slow stack made of the columns before."""
    cache = model.new_fast_cache(len(codes))
    inputs = [hidden, *model.embed_codes(codes[:, :-1]).unbind(1)]
    logits = [model.step_fast(x, cache) for x in inputs]
    parts = [Predictions.of(x, true) for x, true in zip(logits, codes.unbind(1), strict=True)]
    return Predictions(
        torch.stack([part.chosen for part in parts], dim=1),
        torch.stack([part.costs for part in parts], dim=1),
    )


def compared(name: str, exact: Predictions, small: Predictions) -> dict[str, float]:
    """Figures of one kind of token."""
    return {
        f"{name}_perplexity_float32": exact.costs.mean().exp().item(),
        f"{name}_perplexity": small.costs.mean().exp().item(),
        f"same_{name}": (exact.chosen == small.chosen).float().mean().item(),
    }


def answer(checkpoint: Checkpoint, texts: Sequence[str], num_frames: int) -> list[Answered]:
    """Questions in writing and their replies, all made side by side; silent ones are left out."""
    model, layout = checkpoint.model, PromptTokens.from_encode(checkpoint.tokenizer.encode)
    prompts, replies = [], []
    for seed, text in enumerate(texts):
        ids = checkpoint.tokenizer.encode(text)
        prompts.append(turn_grid(layout, ids, None, model.config.num_codebooks))
        sampling = dataclasses.replace(checkpoint.sampling, seed=seed)
        replies.append(
            Reply(model, prompts[-1], num_frames, sampling, layout.end, marks=checkpoint.mark_ids)
        )
    for _ in make_frames(partial(next_frames, checkpoint.engine), replies):
        pass
    pairs = zip(prompts, replies, strict=True)
    return [Answered(prompt, torch.stack(x.columns)) for prompt, x in pairs if x.num_spoken]


def progress(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny", help="as of load_model")
    parser.add_argument("--dtype", choices=DTYPES, default="int8")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--frames", type=int, default=128, help="of a reply at most")
    options = parser.parse_args()
    progress("loading")
    pair = [load_checkpoint(options.checkpoint, dtype=d) for d in ("float32", options.dtype)]
    held = [text for intent in load_dialogues().intents for text in intent.held]
    asked = [str(text) for text in np.random.default_rng(0).permutation(held)[: options.questions]]
    progress(f"{len(asked)} questions, answered in float32 by at most {options.frames} frames")
    turns = answer(pair[0], asked, options.frames)
    texts, replies = [], []
    for checkpoint in pair:
        progress(f"questions and {len(turns)} replies, read in {checkpoint.dtype}")
        texts.append(Predictions.joined([read_text(checkpoint, text) for text in asked]))
        replies.append(read_replies(checkpoint, turns))
    words, codes = zip(*replies)
    report(
        "quality",
        {
            "checkpoint": options.checkpoint,
            "dtype": options.dtype,
            "tokens": len(texts[0].chosen),
            "frames": len(codes[0].chosen),
            **compared("text_token", *texts),
            **compared("reply_token", *words),
            **compared("code", *codes),
        },
    )


if __name__ == "__main__":
    main()
