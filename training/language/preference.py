"""Post-training by preference: away from the model's own worst speech (DPO, arXiv:2305.18290).

The two replies of a pair share prompt and words and differ in the codes: the good one is the
teacher's, the bad one a sample of the model's own that a recogniser understands badly or that
does not stop. As for Qwen2.5-Omni's talker (arXiv:2503.20215), the loss is
-E[log sigmoid(beta * (log p/p_ref(good) - log p/p_ref(bad)))].
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from models.tokenizer import mark_ids
from models.westlake.dual_ar import (
    DualARTransformer,
    EagerEngine,
    Reply,
    SamplingConfig,
    make_frames,
    next_frames,
)
from models.westlake.firefly import FireflyArchitecture

from ..files import replacing
from ..loop import Stage, autocast
from ..recogniser.recogniser import Recogniser
from .conversations import Conversations

NUM_PROMPTS, NUM_TESTED = 240, 48
NUM_ROWS = 12  # replies that are sampled together
MAX_FRAMES = 215  # ten seconds: a reply that has not stopped by then is bad
BAD_ERROR_RATE = 0.1
BETA = 0.1
LEARNING_RATE = 5e-6
BATCH_SIZE = 6
HELDOUT_PART = 8  # of the pairs, one in so many is kept for validation
EXPLORING = SamplingConfig(temperature=0.8, top_p=0.9, repetition_penalty=1.0)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A reply that the model spoke: its prompt and good form, its own [1+K, n], and its faults.

    Fields:
        errors: the recogniser's, per character of the words.
        stopped: it ended within `MAX_FRAMES`.
    """

    prompt: Tensor
    good: Tensor
    own: Tensor
    errors: float
    stopped: bool


@torch.no_grad()
def speak(
    model: DualARTransformer,
    codec: FireflyArchitecture,
    conversations: Conversations,
    recogniser: Recogniser,
    num_prompts: int,
    sampling: SamplingConfig,
    seed: int,
) -> list[Sample]:
    """Let the model speak given words, drawn as in training; what comes back is on the CPU."""
    rng = np.random.default_rng(seed)
    end, marks = conversations.end_column(), mark_ids(conversations.tokenizer)
    samples = []
    for _ in tqdm(range(num_prompts // NUM_ROWS), desc="speaking", unit="batch", leave=False):
        drawn = [conversations.draw_reply(rng) for _ in range(NUM_ROWS)]
        replies = [
            Reply(
                model,
                prompt,
                MAX_FRAMES,
                replace(sampling, seed=int(rng.integers(2**31))),
                conversations.tokens.end,
                forced=good[0].tolist(),
                marks=marks,
            )
            for _, prompt, good in drawn
        ]
        for (text, prompt, good), reply, frames in zip(drawn, replies, _finish(model, replies)):
            stopped = reply.num_spoken < MAX_FRAMES
            own = torch.stack(frames, dim=1)
            errors = recogniser.error_rate(text, _decode(codec, own), codec.config.sample_rate)
            own = own.cpu()
            samples.append(
                Sample(
                    prompt=prompt,
                    good=torch.cat([good, end], dim=1),
                    own=torch.cat([own, end], dim=1) if stopped else own,
                    errors=errors,
                    stopped=stopped,
                )
            )
    return samples


def train_preference(
    model: DualARTransformer,
    codec: FireflyArchitecture,
    conversations: Conversations,
    recogniser: Recogniser,
    sampling: SamplingConfig,
    folder: Path,
    minutes: float,
    device: str,
) -> None:
    """Train on pairs; the model that speaks more clearly, new or old, goes into `preferred.pt`.

    Args:
        model, codec, recogniser: are moved to `device`.
        sampling: with which the two models are compared.
    """
    model, codec, recogniser = (x.to(device).eval() for x in (model, codec, recogniser))
    pairs_file = folder / "preference_pairs.pt"
    if not pairs_file.exists():
        tried = speak(model, codec, conversations, recogniser, NUM_PROMPTS, EXPLORING, seed=7)
        bad = [s for s in tried if not s.stopped or s.errors > BAD_ERROR_RATE]
        logger.info(f"preference: {len(bad)} of {len(tried)} samples are bad")
        with replacing(pairs_file) as path:
            torch.save([(s.prompt, s.good, s.own) for s in bad], path)
    pairs = torch.load(pairs_file, weights_only=True)

    def measure(candidate: DualARTransformer, name: str) -> float:
        said = speak(candidate, codec, conversations, recogniser, NUM_TESTED, sampling, seed=8)
        errors = float(np.mean([s.errors for s in said]))
        stopped = float(np.mean([s.stopped for s in said]))
        logger.info(f"preference: {name}: error rate {errors:.4f}, stopped {stopped:.3f}")
        return errors + 1 - stopped

    preferred = model
    if len(pairs) < HELDOUT_PART:
        logger.info(f"preference: {len(pairs)} bad samples are too few to learn from")
    else:
        trained = _train(model, pairs, folder, minutes, device)
        if measure(trained, "after") < measure(model, "before"):
            preferred = trained
        logger.info(f"preference: {'not kept' if preferred is model else 'kept'}")
    with replacing(folder / "preferred.pt") as path:
        torch.save(preferred.state_dict(), path)


def _train(
    model: DualARTransformer,
    pairs: Sequence[tuple[Tensor, Tensor, Tensor]],
    folder: Path,
    minutes: float,
    device: str,
) -> DualARTransformer:
    reference = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    trained = copy.deepcopy(model).to(device).train().requires_grad_(True)
    heldout, training = pairs[: len(pairs) // HELDOUT_PART], pairs[len(pairs) // HELDOUT_PART :]

    def margins(batch: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        both = [(prompt, good) for prompt, good, _ in batch]
        both += [(prompt, bad) for prompt, _, bad in batch]
        with autocast(device):
            with torch.no_grad():
                expected = log_probability(reference, both)
            ratio = log_probability(trained, both) - expected
        return ratio.chunk(2)

    def step(index: int) -> Tensor:
        rng = np.random.default_rng([9, index])
        good, bad = margins([training[i] for i in rng.choice(len(training), BATCH_SIZE)])
        return -F.logsigmoid(BETA * (good - bad)).mean()

    def validate(index: int) -> dict[str, float]:
        good, bad = margins(heldout[: 2 * BATCH_SIZE])
        return {
            "preferred": (good > bad).float().mean().item(),
            "good": good.mean().item(),
            "bad": bad.mean().item(),
        }

    Stage(
        name="preference",
        folder=folder,
        minutes=minutes,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
    ).run({"model": trained}, step, validate)
    return trained.eval().requires_grad_(False)


def log_probability(model: DualARTransformer, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """log p of each (prompt, reply)'s text tokens and codes, summed over the reply: [B]."""
    lengths = [prompt.shape[1] + reply.shape[1] for prompt, reply in pairs]
    grid = torch.stack(
        [
            F.pad(torch.cat(pair, dim=1), (0, max(lengths) - length))
            for pair, length in zip(pairs, lengths)
        ]
    ).to(model.device)
    hidden = model.forward_hidden(grid[:, :, :-1])
    sums = []
    for row, (prompt, reply) in enumerate(pairs):
        start = prompt.shape[1] - 1
        states = hidden[row, start : start + reply.shape[1]]
        targets = reply.T.to(model.device)  # [n, 1+K]
        text = model.text_logits(states).float().log_softmax(-1).gather(1, targets[:, :1])
        spoken = targets[:, 1:].any(dim=1)  # all but marks and the end
        codes = targets[spoken, 1:]
        logits = model.forward_fast(states[spoken], codes[:, :-1])
        log_codes = logits.float().log_softmax(-1).gather(2, codes[..., None])
        sums.append(text.sum() + log_codes.sum())
    return torch.stack(sums)


def _finish(model: DualARTransformer, replies: Sequence[Reply]) -> list[list[Tensor]]:
    """Step replies together to their ends; returns each one's frames [1+K]."""
    for _ in make_frames(partial(next_frames, EagerEngine(model)), replies):
        pass
    return [reply.frames for reply in replies]


def _decode(codec: FireflyArchitecture, frames: Tensor) -> np.ndarray:
    """Frames [1+K, n], of which those without codes are not spoken -> wave [T]."""
    codes = (frames[None, 1:, frames[1:].any(dim=0)] - 1).clamp(max=codec.config.codebook_size - 1)
    audio, _ = codec.decode(codes, torch.tensor([codes.shape[2]], device=codes.device))
    return audio[0, 0].cpu().numpy()
