"""The families side by side on this machine: python -m benchmarks.compare

Random weights of the published shapes, each family in a process of its own, and the embedded
checkpoint. Memory is that of the weights. First text and first sound count from the end of a spoken
turn of three seconds; of Qwen2.5-Omni, whose parts are measured one by one and added up, from the
end of a prompt of 200 positions that is read at once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import torch

from generate import generate_long
from models.contract import SpeechModel

from .common import bytes_of, load, memory_bandwidth, report

SECONDS = 3.0  # of the user's turn
NUM_FRAMES = 86  # of Westlake-Omni's reply, four seconds
NUM_TURNS = 3
POSITION, COLUMNS, CHUNK = 200, 40, 16  # of Mini-Omni
HEADER = (
    "system", "dtype", "accepts", "languages", "parameters", "memory", "first text",
    "first sound", "work per second of speech",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system's line of the table; seconds and bytes."""

    system: str
    dtype: str
    accepts: str
    languages: str
    parameters: int
    weight_bytes: int
    first_text_seconds: float
    first_sound_seconds: float
    real_time_factor: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.system,
            self.dtype,
            self.accepts,
            self.languages,
            f"{self.parameters / 1e6:,.0f} M",
            f"{self.weight_bytes / 1e9:.2f} GB",
            f"{self.first_text_seconds:.2f} s",
            f"{self.first_sound_seconds:.2f} s",
            f"{self.real_time_factor:.2f} s",
        )


def accepted(kinds: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(kinds))


def turn_seconds(model: SpeechModel, seed: int) -> tuple[float, float, float]:
    """Seconds to the first text, to the first sound, and of work a second of speech, from the end
    of a turn that was streamed in."""
    torch.manual_seed(seed)
    turn = model.new_conversation().begin_turn(sample_rate=model.sample_rate)
    for piece in (0.1 * torch.randn(round(SECONDS * model.sample_rate))).split(8000):
        turn.push(piece)
    started = time.perf_counter()
    text = sound = 0.0
    num_samples = 0
    options: dict[str, Any] = {"max_new_tokens": NUM_FRAMES, "log_content": False}
    with closing(generate_long(model, audio=turn, **options)) as chunks:
        for chunk in chunks:
            now = time.perf_counter() - started
            text = text or (now if chunk.new_text else 0.0)
            sound = sound or (now if len(chunk.new_audio) else 0.0)
            num_samples += len(chunk.new_audio)
    work = time.perf_counter() - started
    return text or sound, sound, work * model.sample_rate / max(1, num_samples)


def westlake(shape: str, dtype: str) -> Row:
    """Westlake-Omni, or the embedded checkpoint."""
    model: Any = load(shape, dtype)[0]
    model.warm_up()
    turn_seconds(model, 0)
    turns = [turn_seconds(model, seed) for seed in range(1, 1 + NUM_TURNS)]
    text, sound, work = (statistics.median(values) for values in zip(*turns))
    return Row(
        system="the embedded checkpoint" if shape == "tiny" else "Westlake-Omni",
        dtype=model.dtype,
        accepts=accepted(model.accepts),
        languages="Chinese",
        parameters=model.num_parameters,
        weight_bytes=bytes_of(model.checkpoint.model, model.checkpoint.codec),
        first_text_seconds=text,
        first_sound_seconds=sound,
        real_time_factor=work,
    )


def omni(shape: str, dtype: str) -> Row:
    """Qwen2.5-Omni, at the published 36 evaluations."""
    from models.omni.sampling import FlowConfig
    from models.omni.speech_model import OmniModel

    from . import omni as parts

    figures = parts.measure(parts.config_of(shape), dtype, FlowConfig(), parts.REFERENCE)
    return Row(
        system=f"Qwen2.5-Omni-{shape.upper()}",
        dtype=dtype,
        accepts=accepted(OmniModel.accepts),
        languages="Chinese, English and others",
        real_time_factor=figures["real_time_factor_after_the_text"],
        **{key: figures[key] for key in SHARED},
    )


def mini_omni(dtype: str) -> Row:
    """Mini-Omni."""
    from . import mini_omni as whole

    model = whole.full_size(dtype)
    figures = whole.measure(model, SECONDS, POSITION, COLUMNS, CHUNK)
    return Row(
        system="Mini-Omni",
        dtype=dtype,
        accepts=accepted(model.accepts),
        languages="English",
        real_time_factor=figures["real_time_factor"],
        **{key: figures[key] for key in SHARED},
    )


SHARED = ("parameters", "weight_bytes", "first_text_seconds", "first_sound_seconds")
SYSTEMS: dict[str, tuple[Callable[..., Row], tuple[str, ...]]] = {
    "tiny": (westlake, ("tiny", "auto")),
    "westlake": (westlake, ("qwen2-0.5b", "int8")),
    "omni-3b": (omni, ("3b", "int4")),
    "omni-7b": (omni, ("7b", "int4")),
    "mini-omni": (mini_omni, ("int8",)),
}


def measured(name: str) -> Row:
    """A system's row, from a process of its own, which gives all its memory back."""
    make, arguments = SYSTEMS[name]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *arguments).result()


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args(arguments)
    rows = [measured(name) for name in options.systems]
    print(table(rows))
    figures: dict[str, Any] = {"rows": [asdict(row) for row in rows]}
    report("compare", figures | {"bandwidth_bytes_per_second": memory_bandwidth()})


if __name__ == "__main__":
    main()
