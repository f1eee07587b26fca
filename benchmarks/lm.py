"""Language model speed: python -m benchmarks.lm --shape qwen2-0.5b --context 4096

Frames a second at several positions and for several users, with full sampling, beside the limit
that memory bandwidth sets: every weight that a frame uses is read once a step.
"""

import argparse
from collections.abc import Sequence

import torch

from models.checkpoint import Checkpoint
from models.dual_ar import SamplingConfig
from models.dual_ar.generation import Reply, next_frames

from .common import SHAPES, build, memory_bandwidth, report, seconds_of

WARMUP_FRAMES = 4


def weights_per_frame(checkpoint: Checkpoint) -> int:
    """Weights that one frame reads: the slow stack and text head once, the fast ones K times."""
    model = checkpoint.model
    slow = sum(p.numel() for p in model.layers.parameters()) + model.embed_tokens.weight.numel()
    fast = sum(p.numel() for p in model.fast_layers.parameters()) + model.fast_output.weight.numel()
    return slow + model.config.num_codebooks * fast


def frames_per_second(
    checkpoint: Checkpoint, context: int, position: int, users: int, num_frames: int
) -> tuple[float, float]:
    """Steady frames a second over all users, and seconds to the first frame of one prompt."""
    model = checkpoint.model
    codes = torch.randint(1, model.config.codebook_size, (model.config.num_codebooks, position))
    prompt = torch.cat([torch.full((1, position), checkpoint.semantic_id), codes])
    replies = [
        Reply(
            model,
            prompt,
            context - position,
            SamplingConfig(seed=user),
            cache=model.new_cache(context),
        )
        for user in range(users)
    ]
    first = seconds_of(lambda: next_frames(model, replies[:1]))
    if users > 1:
        next_frames(model, replies[1:])
    for _ in range(WARMUP_FRAMES):
        next_frames(model, replies)
    seconds = seconds_of(lambda: [next_frames(model, replies) for _ in range(num_frames)])
    return users * num_frames / seconds, first


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--context", type=int, default=4096, help="positions allowed")
    parser.add_argument("--position", type=int, default=200, help="positions used at the start")
    parser.add_argument("--users", type=int, default=1, help="conversations stepped together")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args(arguments)
    checkpoint = build(options.shape, options.dtype)
    context = min(options.context, checkpoint.model.config.max_seq_len)
    speed, first = frames_per_second(
        checkpoint, context, options.position, options.users, options.frames
    )
    num_bytes = weights_per_frame(checkpoint) * checkpoint.dtype.itemsize
    bandwidth = memory_bandwidth()
    report(
        "lm",
        {
            "shape": options.shape,
            "dtype": str(checkpoint.dtype).removeprefix("torch."),
            "context": context,
            "position": options.position,
            "users": options.users,
            "frames_per_second": speed,
            "limit_frames_per_second": bandwidth / num_bytes,
            "share_of_limit": speed / options.users / (bandwidth / num_bytes),
            "first_frame_seconds": first,
            "bandwidth_bytes_per_second": bandwidth,
        },
    )


if __name__ == "__main__":
    main()
