"""Speed on a GPU: python -m benchmarks.gpu --minutes 2

One JSON line a figure, what matters most first, until time is up: Westlake-Omni's language model
for one user and for many, its first sound, its codec, the embedded checkpoint, Qwen2.5-Omni's
parts. Weights are random but the embedded checkpoint's, and made on the GPU.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from generate import CHUNK_FRAMES
from models.devices import find_device
from models.errors import UserError
from models.omni.sampling import FlowConfig
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.dual_ar import DualARTransformer, EagerEngine, choose_engine
from models.westlake.firefly import FireflyArchitecture, FireflyConfig
from models.westlake.speech_model import WestlakeModel

from .common import QWEN2_05B, SHAPES, memory_bandwidth, seconds_of
from .end_to_end import answer
from .lm import POSITION, bytes_per_step, frames_per_second
from .omni import REFERENCE, Parts, added_up, config_of, measured
from .omni import SHAPES as OMNI_SHAPES

NUM_USERS = (2, 4, 8, 16, 32, 64)
HEARD_SECONDS, REPLY_FRAMES, RUNS = 3.6, 86, 3
CODEC_FRAMES = 128

Figures = dict[str, float]


def full_size(device: torch.device) -> Checkpoint:
    """Random weights of the published size in bfloat16, with the embedded checkpoint's tokens."""
    tiny = load_checkpoint("tiny", device.type, "bfloat16")
    torch.manual_seed(0)
    with device:
        model = DualARTransformer(QWEN2_05B, tiny.semantic_id)
        codec = FireflyArchitecture(FireflyConfig())
    codec = codec.to(device).prepare_inference().eval().requires_grad_(False)
    codec.head.to(torch.bfloat16)
    for weight in model.parameters():  # alone: the rotary tables stay as they are
        weight.data = weight.data.bfloat16()
    model = model.to(device).eval().requires_grad_(False)
    return dataclasses.replace(
        tiny, name="random", engine=choose_engine(model, None), codec=codec, dtype="bfloat16"
    )


def one_user(checkpoint: Checkpoint, num_frames: int) -> Iterator[Figures]:
    context = checkpoint.model.config.max_seq_len
    speed, first = frames_per_second(checkpoint, context, POSITION, 1, num_frames)
    yield {"frames_per_second": speed, "first_frame_of_a_new_process_seconds": first}
    speed, first = frames_per_second(checkpoint, context, POSITION, 1, num_frames)
    yield {"frames_per_second": speed, f"first_frame_after_{POSITION}_columns_seconds": first}
    limit = memory_bandwidth(device=checkpoint.device) / bytes_per_step(checkpoint)
    yield {"limit_frames_per_second": limit, "share_of_limit": speed / limit}
    eager = dataclasses.replace(checkpoint, engine=EagerEngine(checkpoint.model))
    speed, _ = frames_per_second(eager, context, POSITION, 1, num_frames)
    yield {"frames_per_second_without_graphs": speed}


def first_sound(checkpoint: Checkpoint) -> Iterator[Figures]:
    model = WestlakeModel(checkpoint)
    model.warm_up()
    for num_frames in (12, REPLY_FRAMES):  # of all sizes of chunks
        answer(model, HEARD_SECONDS, num_frames, seed=0)
    runs = [answer(model, HEARD_SECONDS, REPLY_FRAMES, seed) for seed in range(RUNS)]
    names = [field.name for field in dataclasses.fields(runs[0])]
    yield {name: statistics.median(getattr(run, name) for run in runs) for name in names}


@torch.inference_mode()
def codec_speed(checkpoint: Checkpoint) -> Iterator[Figures]:
    codec, device = checkpoint.codec, checkpoint.device
    config = codec.config
    shape = 1, config.num_codebooks, CODEC_FRAMES
    codes = torch.randint(config.codebook_size, shape, device=device)
    wave = 0.1 * torch.randn(1, 1, CODEC_FRAMES * config.samples_per_frame, device=device)

    def decode() -> None:
        state = codec.new_state()
        for piece in codes.split(CHUNK_FRAMES, dim=2):
            codec.decode_chunk(piece, state)

    def encode() -> None:
        state = codec.new_state()
        for piece in wave.split(config.sample_rate // 2, dim=2):
            codec.encode_chunk(piece, state)

    for name, work in {"decode_rtf": decode, "encode_rtf": encode}.items():
        work()
        seconds = statistics.median(seconds_of(work) for _ in range(RUNS))
        yield {name: seconds * config.frame_rate / CODEC_FRAMES}


def many_users(
    checkpoint: Checkpoint, num_frames: int, numbers: Sequence[int]
) -> Iterator[Figures]:
    context = checkpoint.model.config.max_seq_len
    for users in numbers:
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        speed, _ = frames_per_second(checkpoint, context, POSITION, users, num_frames)
        yield {"users": users, "frames_per_second": speed, "of_each": speed / users} | memory()


def omni(shape: str, device: torch.device) -> Iterator[Figures]:
    parts = Parts(config_of(shape), "bfloat16", device)
    figures: Figures = {}
    for more in measured(parts, FlowConfig(), REFERENCE):
        figures |= more
        yield more
    yield added_up(figures) | {"weight_bytes": parts.num_bytes} | memory()


def memory() -> Figures:
    """Of the GPU, bytes that PyTorch has at most held so far."""
    if not torch.cuda.is_initialized():
        return {}
    return {"peak_bytes": torch.cuda.max_memory_reserved()}


def tell(part: str, figures: Figures) -> None:
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps({"benchmark": "gpu", "part": part, **rounded}), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="auto, cpu or cuda")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b", help="of Westlake-Omni")
    parser.add_argument("--omni", choices=OMNI_SHAPES, nargs="*", default=["3b"])
    parser.add_argument("--users", type=int, nargs="*", default=NUM_USERS)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=2.0, help="after which it ends")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    try:
        device = find_device(options.device)
    except UserError as error:
        parser.error(str(error))
    tiny = load_checkpoint("tiny", device.type)
    large = full_size(device) if options.shape != "tiny" else tiny
    parts: dict[str, Callable[[], Iterator[Figures]]] = {
        "machine": lambda: iter([{"bytes_per_second": memory_bandwidth(device=device)}]),
        "one user": lambda: one_user(large, options.frames),
        "first sound": lambda: first_sound(large),
        "users": lambda: many_users(large, options.frames // 2, options.users),
        "codec": lambda: codec_speed(large),
        "tiny, one user": lambda: one_user(tiny, options.frames),
        "tiny, first sound": lambda: first_sound(tiny),
        **{f"omni {shape}": partial(omni, shape, device) for shape in options.omni},
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    about = {"device": name, "torch": torch.__version__, "engine": large.engine.name}
    print(json.dumps({"benchmark": "gpu"} | about), flush=True)
    for part, work in parts.items():
        try:
            for figures in work():
                tell(part, figures)
                if time.monotonic() > end:
                    sys.exit(f"time is up in the part {part!r}: give it more --minutes")
        except (RuntimeError, ValueError, FloatingPointError) as error:  # the others may be well
            message = f"{type(error).__name__}: {error}"
            print(json.dumps({"benchmark": "gpu", "part": part, "error": message}), flush=True)


if __name__ == "__main__":
    main()
