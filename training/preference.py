"""Post-training by preference: away from the model's own worst speech (DPO, arXiv:2305.18290).

Pairs share prompt and words and differ in the codes alone: the good ones are the synthesiser's,
the bad ones the model's own samples that the judge understands worst, or that do not stop. As for
Qwen2.5-Omni's talker, the loss is -E[log sigmoid(beta * (log p/p_ref(good) - log p/p_ref(bad)))].
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.dual_ar import DualARTransformer, SamplingConfig
from models.dual_ar.generation import Reply, next_frames
from models.firefly import FireflyArchitecture

from .conversations import Conversations
from .judge import Judge
from .loop import Stage

NUM_PROMPTS = 480
NUM_ROWS = 16  # replies that are sampled together
MAX_FRAMES = 215  # ten seconds: a reply that has not stopped by then is bad
BAD_ERROR_RATE = 0.1
BETA = 0.1
BATCH_SIZE = 6
EXPLORING = SamplingConfig(temperature=0.8, top_p=0.9, repetition_penalty=1.0)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt [1+K, P], and a good and a bad reply to it [1+K, n], each with its end column."""

    prompt: Tensor
    good: Tensor
    bad: Tensor


@torch.no_grad()
def sample_pairs(
    model: DualARTransformer,
    codec: FireflyArchitecture,
    conversations: Conversations,
    judge: Judge,
    seed: int,
) -> list[Pair]:
    """Let the model speak replies of the training dialogues, and pair the bad ones."""
    rng = np.random.default_rng(seed)
    end = conversations.end_column()
    pairs = []
    for _ in tqdm(range(NUM_PROMPTS // NUM_ROWS), desc="pairs", unit="batch"):
        drawn = [conversations.draw_reply(rng) for _ in range(NUM_ROWS)]
        replies = [
            Reply(
                model,
                prompt,
                MAX_FRAMES,
                dataclasses.replace(EXPLORING, seed=int(rng.integers(2**31))),
                conversations.tokens.end,
                forced=good[0, good[0] != conversations.tokens.semantic].tolist(),
            )
            for _, prompt, good in drawn
        ]
        for (text, prompt, good), reply, frames in zip(drawn, replies, finish(model, replies)):
            if not frames:
                continue
            spoken = torch.stack(frames, dim=1)
            audio = decode(codec, spoken)
            stopped = reply.num_frames < MAX_FRAMES
            if not stopped or judge.error_rate(text, audio, codec.config.sample_rate) > (
                BAD_ERROR_RATE
            ):
                bad = torch.cat([spoken, end], dim=1) if stopped else spoken
                pairs.append(Pair(prompt=prompt, good=torch.cat([good, end], dim=1), bad=bad))
    return pairs


def finish(model: DualARTransformer, replies: Sequence[Reply]) -> list[list[Tensor]]:
    """Step replies together to their ends; returns each one's frames [1+K]."""
    frames: list[list[Tensor]] = [[] for _ in replies]
    while going := [row for row, reply in enumerate(replies) if not reply.ended]:
        for row, frame in zip(going, next_frames(model, [replies[row] for row in going])):
            if frame is not None:
                frames[row].append(frame)
    return frames


@torch.no_grad()
def decode(codec: FireflyArchitecture, frames: Tensor) -> np.ndarray:
    """Frames [1+K, n] -> wave [n * samples_per_frame]."""
    codes = (frames[None, 1:] - 1).clamp(0, codec.config.codebook_size - 1)
    audio, _ = codec.decode(codes, torch.tensor([codes.shape[2]]))
    return audio[0, 0].numpy()


def log_probability(model: DualARTransformer, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """log p of each (prompt, reply)'s codes and of its end, summed over the reply: [B]."""
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
        start = prompt.shape[1]
        states = hidden[row, start - 1 : start - 1 + reply.shape[1]]
        targets = reply.T.to(model.device)  # [n, 1+K]
        text = model.text_logits(states).float().log_softmax(-1).gather(1, targets[:, :1])
        spoken = targets[:, 1:].any(dim=1)  # all but the end column
        codes = targets[spoken, 1:]
        logits = model.forward_fast(states[spoken], codes[:, :-1])
        log_codes = logits.float().log_softmax(-1).gather(2, codes[..., None])
        sums.append(text.sum() + log_codes.sum())
    return torch.stack(sums)


def train_preference(
    model: DualARTransformer, pairs: Sequence[Pair], folder: Path, minutes: float, device: str
) -> DualARTransformer:
    """Returns the trained model; the one handed in is the reference and stays as it is."""
    reference = model.to(device).eval()
    trained = copy.deepcopy(reference).train().requires_grad_(True)
    rng = np.random.default_rng(7)
    heldout, training = pairs[: len(pairs) // 8], pairs[len(pairs) // 8 :]

    def margins(batch: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        both = [(p.prompt, p.good) for p in batch] + [(p.prompt, p.bad) for p in batch]
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                expected = log_probability(reference, both)
            ratio = log_probability(trained, both) - expected
        return ratio.chunk(2)

    def step(index: int) -> Tensor:
        chosen = rng.choice(len(training), BATCH_SIZE)
        good, bad = margins([training[i] for i in chosen])
        return -F.logsigmoid(BETA * (good - bad)).mean()

    def validate(index: int) -> dict[str, float]:
        good, bad = margins(heldout[: 4 * BATCH_SIZE])
        return {
            "preferred": (good > bad).float().mean().item(),
            "good": good.mean().item(),
            "bad": bad.mean().item(),
        }

    Stage(
        name="preference",
        folder=folder,
        minutes=minutes,
        learning_rate=5e-6,
        weight_decay=0.0,
        validate_seconds=60,
    ).run({"model": trained}, step, validate)
    return trained.eval()
