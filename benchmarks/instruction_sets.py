"""What each way to compute gives: python -m benchmarks.instruction_sets --dtype int8

Frames a second at full size in native.c for this processor's best instruction set, in native.c for
AVX2, and in PyTorch, in turn in one process.
"""

import argparse
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from models.devices import QUANTISED
from models.transformer.native import ISA_SWITCH, compile_library
from models.westlake import checkpoint as loading
from models.westlake.checkpoint import Checkpoint, load_checkpoint

from .common import SHAPES, checkpoint_folder, report
from .lm import POSITION, frames_per_second

WAYS = ("best", "avx2", "pytorch")
CONTEXT = 1024  # positions allowed


@contextmanager
def computing(way: str) -> Iterator[None]:
    """Within it, checkpoints are loaded to compute that way."""
    chosen = {ISA_SWITCH: way} if way == "avx2" else {}
    compile_library.cache_clear()
    with mock.patch.dict(os.environ, chosen):
        if way == "pytorch":
            with mock.patch.object(loading, "load_library", lambda: None):
                yield
        else:
            yield
    compile_library.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--frames", type=int, default=20, help="of each way in each run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", choices=QUANTISED, default="int8")
    options = parser.parse_args()
    checkpoints: dict[str, Checkpoint] = {}
    with checkpoint_folder(options.shape) as folder:
        for way in WAYS:
            with computing(way):
                checkpoints[way] = load_checkpoint(folder, dtype=options.dtype)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way, checkpoint in checkpoints.items():
            speed, _ = frames_per_second(checkpoint, CONTEXT, POSITION, 1, options.frames)
            speeds[way].append(speed)
    best, avx2, pytorch = (statistics.median(speeds[way]) for way in WAYS)
    report(
        "instruction_sets",
        {
            "shape": options.shape,
            "dtype": options.dtype,
            "best_frames_per_second": best,
            "avx2_frames_per_second": avx2,
            "pytorch_frames_per_second": pytorch,
            "avx2_over_best": avx2 / best,
            "avx2_over_pytorch": avx2 / pytorch,
        },
    )


if __name__ == "__main__":
    main()
