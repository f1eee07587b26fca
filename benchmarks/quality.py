"""What few bits change: python -m benchmarks.quality --dtype int8

The embedded checkpoint answers held-out questions, in writing and in float32; then both models read
these answers, and the share of positions is counted at which they hold the same token for the most
likely.
"""

import argparse
import dataclasses

import numpy as np
import torch
from torch import Tensor

from models.contract import ReplyOptions
from models.devices import DTYPES
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.conversation import Turn
from models.westlake.speech_model import WestlakeModel
from training.dialogues import load_dialogues

from .common import report


@torch.inference_mode()
def most_likely(checkpoint: Checkpoint, turn: Turn) -> Tensor:
    """The model's first choice for every text token and code of a turn's reply: [n, 1+K].

    Column by column, as it speaks.
    """
    model, reply = checkpoint.model, turn.columns[:, turn.prompt_length :]
    cache = model.new_cache()
    unread = turn.columns[:, : turn.prompt_length]
    frames = []
    for column in reply[:, :-1].T:  # the end has no codes
        hidden = checkpoint.engine.read(unread[None], [cache])[:, -1]
        fast_cache = model.new_fast_cache(1)
        inputs = [hidden, *model.embed_codes(column[1:-1, None])]
        logits = [model.text_logits(hidden), *(model.step_fast(x, fast_cache) for x in inputs)]
        frames.append(torch.cat([x.argmax(-1) for x in logits]))
        unread = column[:, None]
    return torch.stack(frames)


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
    parser.add_argument("--dtype", choices=DTYPES, default="int8")
    parser.add_argument("--questions", type=int, default=24)
    options = parser.parse_args()
    exact, small = (load_checkpoint("tiny", dtype=d) for d in ("float32", options.dtype))
    model = WestlakeModel(exact)
    held = [text for intent in load_dialogues().intents for text in intent.held]
    asked = np.random.default_rng(0).permutation(held)[: options.questions]
    turns = [answer(model, str(text), seed) for seed, text in enumerate(asked)]
    same = torch.cat([most_likely(exact, turn) == most_likely(small, turn) for turn in turns])
    report(
        "quality",
        {
            "dtype": options.dtype,
            "frames": len(same),
            "same_text_token": same[:, 0].float().mean().item(),
            "same_code": same[:, 1:].float().mean().item(),
            "same_token": same.float().mean().item(),
        },
    )


if __name__ == "__main__":
    main()
