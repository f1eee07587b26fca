"""Codec speed: python -m benchmarks.codec --shape qwen2-0.5b

Seconds of work per second of speech, encoding and decoding in pieces and at once, medians of runs
in turn; and whether the work for a piece grows with what came before it.
"""

import argparse
import statistics

import torch

from generate import CHUNK_FRAMES
from models.devices import FLOATS
from models.transformer.native import load_library
from models.westlake.checkpoint import load_checkpoint
from models.westlake.firefly import FireflyArchitecture, FireflyConfig

from .common import SHAPES, report, seconds_of

EARLY, LATE = 20, 2000
RUNS = 5  # of each, in turn


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--frames", type=int, default=128, help="length of the speech")
    parser.add_argument("--chunk", type=int, default=CHUNK_FRAMES, help="frames decoded at once")
    parser.add_argument(
        "--dtype", choices=FLOATS, default="bfloat16", help="of the model: float32 is exact"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    plain = FireflyArchitecture(FireflyConfig()).eval()
    codec = FireflyArchitecture(FireflyConfig()).eval().prepare_inference()
    if options.shape == "tiny":
        codec, plain = (load_checkpoint("tiny", dtype=d).codec for d in (options.dtype, "float32"))
    else:
        if options.dtype != "float32":
            codec.pack(load_library())
    config = codec.config
    codes = torch.randint(config.codebook_size, (1, config.num_codebooks, options.frames))
    wave = 0.1 * torch.randn(1, 1, options.frames * config.samples_per_frame)
    seconds = options.frames / config.frame_rate
    lengths = torch.tensor([options.frames])

    def decode_in_chunks() -> None:
        state = codec.new_state()
        for piece in codes.split(options.chunk, dim=2):
            codec.decode_chunk(piece, state)

    def encode_in_chunks() -> None:
        state = codec.new_state()
        for piece in wave.split(config.sample_rate // 2, dim=2):
            codec.encode_chunk(piece, state)

    works = {
        "encode_rtf": encode_in_chunks,
        "decode_rtf": decode_in_chunks,
        "decode_rtf_whole": lambda: codec.decode(codes, lengths),
        "decode_rtf_plain_float32": lambda: plain.decode(codes, lengths),
    }
    for work in works.values():
        work()
    runs = [{name: seconds_of(work) for name, work in works.items()} for _ in range(RUNS)]
    figures = {name: statistics.median(run[name] for run in runs) / seconds for name in works}
    report(
        "codec",
        {
            "shape": options.shape,
            "dtype": options.dtype,
            "chunk_frames": options.chunk,
            **figures,
            "decode_over_plain": figures["decode_rtf"] / figures["decode_rtf_plain_float32"],
            "late_over_early": late_over_early(codec),
        },
    )


def late_over_early(codec: FireflyArchitecture) -> float:
    """Work for frame 2,000 over that for frame 20, medians over the frames around each."""
    state = codec.new_state()
    codes = torch.randint(codec.config.codebook_size, (1, codec.config.num_codebooks, LATE + 10))
    times = [seconds_of(codec.decode_chunk, frame, state) for frame in codes.split(1, 2)]
    return statistics.median(times[LATE - 10 : LATE + 10]) / statistics.median(
        times[EARLY - 10 : EARLY + 10]
    )


if __name__ == "__main__":
    main()
