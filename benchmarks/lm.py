"""Language model speed: python -m benchmarks.lm --shape qwen2-0.5b --dtype int8

Frames a second with full sampling, beside the limit that memory bandwidth sets: a step reads every
weight that it uses once. Reading a prompt of 1,000 columns, over what bfloat16 products of the same
size and number take at the machine's measured peak. With more users, or at another position, it is
compared to one user at the usual one; medians of runs in turn. With --plot it is measured over
positions and numbers of users.
"""

import argparse
import statistics
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from models.transformer import Stack
from models.westlake.checkpoint import Checkpoint
from models.westlake.dual_ar import Reply, SamplingConfig, next_frames

from .common import (
    SHAPES,
    load_parts,
    matrix_speed,
    memory_bandwidth,
    report,
    seconds_of,
)

WARMUP_FRAMES = 4
NUM_USERS = (1, 2, 4, 8)
POSITION = 200  # positions used, where nothing else is said
SPEECH_FRAMES_PER_SECOND = 21.53
PREFILL_COLUMNS = 1000
RUNS = 5  # of each, in turn


def bytes_per_step(checkpoint: Checkpoint) -> int:
    """What one frame reads of the weights: slow stack and text head once, the fast ones K times."""
    model = checkpoint.model
    slow = _weight_bytes(model.layers) + _weight_bytes(model.lm_head or model.embed_tokens)
    fast = _weight_bytes(model.fast_layers) + _weight_bytes(model.fast_output)
    return slow + model.config.num_codebooks * fast


def _weight_bytes(module: nn.Module) -> int:
    """Of all layers' weights, scales and biases; of a stack's tables a step reads little."""
    layers = (layer for layer in module.modules() if not isinstance(layer, Stack))
    kept = chain.from_iterable(
        chain(layer.parameters(recurse=False), layer.buffers(recurse=False)) for layer in layers
    )
    return sum(tensor.nbytes for tensor in kept)


def frames_per_second(
    checkpoint: Checkpoint, context: int, position: int, users: int, num_frames: int
) -> tuple[float, float]:
    """Steady frames a second over all users, and seconds to the first frame of one prompt."""
    model, engine = checkpoint.model, checkpoint.engine
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
    first = seconds_of(lambda: next_frames(engine, replies[:1]))
    if users > 1:
        next_frames(engine, replies[1:])
    for _ in range(WARMUP_FRAMES):
        next_frames(engine, replies)
    seconds = seconds_of(lambda: [next_frames(engine, replies) for _ in range(num_frames)])
    return users * num_frames / seconds, first


@torch.inference_mode()
def prefill(checkpoint: Checkpoint, num_columns: int) -> tuple[float, float]:
    """Seconds to read that many columns, and what its products would take in bfloat16 at the
    machine's peak; medians of three runs in turn."""
    model, slow = checkpoint.model, checkpoint.model.config.slow
    codes = torch.randint(1, model.config.codebook_size, (model.config.num_codebooks, num_columns))
    grid = torch.cat([torch.full((1, num_columns), checkpoint.semantic_id), codes])[None]
    heads = (slow.n_head + 2 * slow.n_local_heads) * slow.head_dim
    weights = slow.n_layer * slow.dim * (heads + slow.dim + 3 * slow.intermediate_size)
    seconds, speeds = [], []
    for _ in range(3):
        cache = model.new_cache(num_columns)
        seconds.append(seconds_of(checkpoint.engine.read, grid, [cache]))
        speeds.append(matrix_speed())
    return statistics.median(seconds), 2 * weights * num_columns / statistics.median(speeds)


def plot(checkpoint: Checkpoint, context: int, num_frames: int, path: Path) -> None:
    """Write a picture of frames a second against position and against users."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    last = context - num_frames - WARMUP_FRAMES - 2
    positions = [last * i // 4 or 1 for i in range(5)]
    at_position = [frames_per_second(checkpoint, context, p, 1, num_frames)[0] for p in positions]
    for_users = [
        frames_per_second(checkpoint, context, POSITION, n, num_frames)[0] for n in NUM_USERS
    ]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True)
    left.plot(positions, at_position, "o-")
    left.set_xlabel("positions used")
    left.set_ylabel("frames a second")
    right.plot(NUM_USERS, for_users, "o-")
    right.set_xlabel("users")
    for axis in (left, right):
        axis.axhline(SPEECH_FRAMES_PER_SECOND, linestyle="--", color="gray", label="real time")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    left.legend()
    figure.suptitle(f"{checkpoint.dtype}, {torch.get_num_threads()} threads")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--context", type=int, default=4096, help="positions allowed")
    parser.add_argument(
        "--position", type=int, default=POSITION, help="positions used at the start"
    )
    parser.add_argument("--users", type=int, default=1, help="conversations stepped together")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--plot", type=Path, help="write a picture to this file")
    options = parser.parse_args(arguments)
    checkpoint, load_seconds = load_parts(options.shape, options.dtype)
    context = min(options.context, checkpoint.model.config.max_seq_len)

    def run(position: int, users: int) -> tuple[float, float]:
        return frames_per_second(checkpoint, context, position, users, options.frames)

    runs = [(run(POSITION, 1), run(options.position, options.users)) for _ in range(RUNS)]
    usual = statistics.median(one for (one, _), _ in runs)
    speed, first = (statistics.median(several) for several in zip(*(asked for _, asked in runs)))
    read, read_limit = prefill(checkpoint, min(PREFILL_COLUMNS, context))
    bandwidth = memory_bandwidth()
    limit = bandwidth / bytes_per_step(checkpoint)
    report(
        "lm",
        {
            "shape": options.shape,
            "dtype": checkpoint.dtype,
            "context": context,
            "position": options.position,
            "users": options.users,
            "frames_per_second": speed,
            "over_one_user_at_usual_position": speed / usual,
            "limit_frames_per_second": limit,
            "share_of_limit": speed / options.users / limit,
            "first_frame_seconds": first,
            "prefill_seconds": read,
            "prefill_over_bfloat16_peak": read / read_limit,
            "load_seconds": load_seconds,
            "bandwidth_bytes_per_second": bandwidth,
        },
    )
    if options.plot:
        plot(checkpoint, context, options.frames, options.plot)


if __name__ == "__main__":
    main()
