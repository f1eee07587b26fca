"""The whole voice loop: python -m benchmarks.end_to_end --shape tiny

Speech that was streamed in is answered; first sound and work are counted from its end. The work is
also told over what memory alone asks of the language model, whose speed is measured between the
replies; and the first sound after 30 s of speech that came at once.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from generate import generate_long
from models.contract import SpeechModel
from models.westlake.speech_model import WestlakeModel

from .common import SHAPES, load, memory_bandwidth, report
from .lm import bytes_per_step

PIECE_SECONDS = 0.5
LONG_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Times:
    """Of a reply: seconds to its first frame and sound, and of work per second of speech."""

    first_frame: float
    first_sound: float
    rtf: float


def answer(
    model: SpeechModel, seconds: float, num_frames: int, seed: int, *, streamed: bool = True
) -> Times:
    """What a reply to that many seconds of noise takes.

    Speech that is not streamed comes at once, and is counted from its beginning.
    """
    rate = model.sample_rate
    torch.manual_seed(seed)
    turn = model.new_conversation().begin_turn(sample_rate=rate)
    wave = 0.1 * torch.randn(round(seconds * rate))
    started = time.perf_counter()
    for piece in wave.split(round(PIECE_SECONDS * rate)) if streamed else [wave]:
        turn.push(piece)
    sampling = dataclasses.replace(model.sampling, seed=seed)
    started = time.perf_counter() if streamed else started
    chunks = generate_long(model, audio=turn, sampling=sampling, max_new_tokens=num_frames)
    first = next(chunks)
    first_sound = time.perf_counter() - started
    samples = len(first.new_audio) + sum(len(chunk.new_audio) for chunk in chunks)
    rtf = (time.perf_counter() - started) * rate / max(1, samples)
    return Times(first.first_frame_seconds, first_sound, rtf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--seconds", type=float, default=3.6, help="length of the input")
    parser.add_argument("--frames", type=int, default=86, help="length of the reply")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    model, load_seconds = load(options.shape, options.dtype)
    model.warm_up()
    answer(model, 1.0, 12, seed=0)
    runs, speeds = [], []
    for seed in range(options.runs):
        speeds.append(memory_bandwidth())
        runs.append(answer(model, options.seconds, options.frames, seed))
    rtf = statistics.median(run.rtf for run in runs)
    assert isinstance(model, WestlakeModel)
    needed = model.frame_rate * bytes_per_step(model.checkpoint)  # bytes per second of speech
    long, short = (
        statistics.median(answer(model, s, 4, seed).first_sound for seed in range(5))
        for s in (LONG_SECONDS, 3)
    )
    at_once = [
        answer(model, LONG_SECONDS, 4, seed, streamed=False).first_sound for seed in range(3)
    ]
    report(
        "end_to_end",
        {
            "shape": options.shape,
            "dtype": model.dtype,
            "first_sound_seconds": statistics.median(run.first_sound for run in runs),
            "rtf": rtf,
            "rtf_over_memory_limit": rtf * statistics.median(speeds) / needed,
            "bandwidth_bytes_per_second": statistics.median(speeds),
            "first_sound_after_30s_over_3s": long / short,
            "first_sound_after_30s_at_once_seconds": statistics.median(at_once),
            "load_seconds": load_seconds,
        },
    )


if __name__ == "__main__":
    main()
