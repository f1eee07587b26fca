"""Mini-Omni at full size, random weights: python -m benchmarks.mini_omni --dtype int8

Seconds of work for a frame, in which the model reads every weight once and SNAC speaks, beside the
twentieth of a second that leaves time enough; and from the end of a spoken turn to the first sound.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperConfig

from generate import generate_long
from models.audio import AudioClip
from models.devices import DTYPES, QUANTISED, multiplies_bfloat16
from models.hub import TINY
from models.mini_omni.checkpoint import Checkpoint, new_model
from models.mini_omni.codec import SnacDecoder
from models.mini_omni.config import MiniOmniConfig
from models.mini_omni.ear import SAMPLE_RATE, Adapter, Ear
from models.mini_omni.engine import Engine
from models.mini_omni.generation import Reply, next_columns, prompt_of_text
from models.mini_omni.model import MiniOmniTransformer
from models.mini_omni.speech_model import MiniOmniModel
from models.tokenizer import load_tokenizer
from models.transformer.native import load_library

from .common import bytes_of, memory_bandwidth, report, seconds_of

WHISPER_SMALL: dict[str, Any] = {
    "d_model": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}
SNAC_24KHZ = {
    "sampling_rate": 24_000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
FRAME_LIMIT = 1 / 20  # seconds
WARMUP_COLUMNS = 4
CPU = torch.device("cpu")


def full_size(dtype: str) -> MiniOmniModel:
    """The published sizes with random weights."""
    torch.manual_seed(0)
    library = load_library() if dtype in QUANTISED else None
    torch.set_default_dtype(torch.bfloat16)  # half of the memory until it is quantised
    try:
        weights = MiniOmniTransformer(MiniOmniConfig()).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    model = new_model(MiniOmniConfig(), weights, Path("random"), dtype, library)
    del weights
    ear = Ear(WhisperConfig(**WHISPER_SMALL), Adapter(MiniOmniConfig()))
    if dtype != "float32" and multiplies_bfloat16(CPU):
        ear.to(torch.bfloat16)
    codec = SnacDecoder(SNAC_24KHZ).prepare_inference()
    checkpoint = Checkpoint(
        name="random",
        engine=Engine(model.eval().requires_grad_(False), library),
        ear=ear.eval().requires_grad_(False),
        codec=codec.eval().requires_grad_(False),
        tokenizer=load_tokenizer(TINY, 10**6),
        device=CPU,
        dtype=dtype,
        fingerprint="random",
    )
    return MiniOmniModel(checkpoint)


def column_seconds(
    model: MiniOmniModel, position: int, num_columns: int, *, has_text: bool
) -> float:
    """Of one column, at a position: the median. Without text its head is not read."""
    engine = model.checkpoint.engine
    prompt = prompt_of_text(engine.model, [0] * position)
    reply = Reply(engine.model, prompt, num_columns + WARMUP_COLUMNS)
    reply.text_ended = not has_text
    for _ in range(WARMUP_COLUMNS):
        next_columns(engine, [reply])
    times = []
    while not reply.ended:
        times.append(seconds_of(next_columns, engine, [reply]))
    return statistics.median(times)


def speech_seconds(model: MiniOmniModel, chunk_frames: int) -> float:
    """Of one frame's sound, in pieces of so many frames with what lies around them."""
    codec = model.checkpoint.codec
    num_frames = chunk_frames + 2 * codec.context
    codes = torch.randint(codec.codebook_size, (7, num_frames))
    return best(lambda: codec(codes, 0, 0)) / chunk_frames


def best(work: Callable) -> float:
    work()
    return min(seconds_of(work) for _ in range(3))


def first_text(model: MiniOmniModel, seconds: float) -> float:
    """Seconds from the end of a spoken turn to the first text token."""
    engine = model.checkpoint.engine
    turn = model.new_conversation().begin_turn(sample_rate=SAMPLE_RATE)
    turn.push(0.1 * torch.randn(round(seconds * SAMPLE_RATE)))
    started = time.perf_counter()
    turn.finish()
    assert turn.prompt is not None, "it is finished"
    next_columns(engine, [Reply(engine.model, turn.prompt, WARMUP_COLUMNS)])
    return time.perf_counter() - started


def first_sound(model: MiniOmniModel, seconds: float) -> float:
    """Seconds from the end of a spoken turn to the first sound."""
    clip = AudioClip(0.1 * torch.randn(round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    started = time.perf_counter()
    with closing(generate_long(model, audio=clip, max_new_tokens=8, log_content=False)) as chunks:
        for chunk in chunks:
            if len(chunk.new_audio):
                return time.perf_counter() - started
    raise RuntimeError("the random model has said nothing: try another seed")


def measure(
    model: MiniOmniModel, seconds: float, position: int, num_columns: int, chunk_frames: int
) -> dict[str, Any]:
    """The figures of a model; see `main` for the arguments."""
    model.warm_up()
    checkpoint = model.checkpoint
    column = column_seconds(model, position, num_columns, has_text=True)
    speech = speech_seconds(model, chunk_frames)
    wave = 0.1 * torch.randn(round(seconds * SAMPLE_RATE))
    return {
        "dtype": model.dtype,
        "engine": checkpoint.engine.name,
        "parameters": model.num_parameters,
        "weight_bytes": bytes_of(checkpoint.model, checkpoint.ear, checkpoint.codec),
        "position": position,
        "column_seconds": column,
        "column_seconds_after_the_text": column_seconds(
            model, position, num_columns, has_text=False
        ),
        "speech_seconds_per_frame": speech,
        "frame_seconds": column + speech,
        "frame_limit_seconds": FRAME_LIMIT,
        "real_time_factor": (column + speech) * model.frame_rate,
        "ear_seconds": best(lambda: checkpoint.ear(wave)),
        "first_text_seconds": first_text(model, seconds),
        "first_sound_seconds": first_sound(model, seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=DTYPES, default="int8")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the input")
    parser.add_argument("--position", type=int, default=200, help="columns read before")
    parser.add_argument("--columns", type=int, default=40, help="columns that are timed")
    parser.add_argument("--chunk", type=int, default=16, help="frames decoded at once")
    options = parser.parse_args()
    model = full_size(options.dtype)
    sizes = (options.seconds, options.position, options.columns, options.chunk)
    bandwidth = {"bandwidth_bytes_per_second": memory_bandwidth()}
    report("mini_omni", measure(model, *sizes) | bandwidth)


if __name__ == "__main__":
    main()
