"""What the benchmarks share: checkpoints to measure, the machine's limits, and the report."""

import json
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from models.checkpoint import Checkpoint, load_checkpoint
from models.dual_ar import DualARConfig, DualARTransformer
from models.firefly import FireflyArchitecture, FireflyConfig

QWEN2_05B = DualARConfig(
    vocab_size=152_000,
    n_layer=24,
    n_head=14,
    dim=896,
    intermediate_size=4864,
    intermediate_size_fast=4864,
    n_local_heads=2,
    n_local_heads_fast=2,
    rope_base=1e6,
    max_seq_len=4096,
    n_fast_layer=4,
    codebook_size=1032,
    num_codebooks=8,
)
SHAPES = ("tiny", "qwen2-0.5b")


def build(shape: str, dtype: str) -> Checkpoint:
    """The embedded checkpoint, or a full-size one with random weights and the full-size codec."""
    tiny = load_checkpoint("tiny", dtype=dtype if shape == "tiny" else "float32")
    if shape == "tiny":
        return tiny
    torch.manual_seed(0)
    torch_dtype = getattr(torch, "float32" if dtype == "auto" else dtype)
    codec = FireflyArchitecture(FireflyConfig()).eval().requires_grad_(False).fold_weight_norm()
    return replace(
        tiny,
        name=shape,
        model=DualARTransformer(QWEN2_05B, tiny.semantic_id).to(torch_dtype).eval(),
        codec=codec,
        dtype=torch_dtype,
    )


def memory_bandwidth(num_bytes: int = 1 << 30) -> float:
    """Bytes a second that a large sum reads, the best of three."""
    data = torch.ones(num_bytes // 4)
    data.sum()
    return max(num_bytes / seconds_of(data.sum) for _ in range(3))


def seconds_of(work: Callable, *args) -> float:
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def report(name: str, figures: Mapping[str, object]) -> None:
    """Print a table, and one JSON line with the machine and versions beside the figures."""
    for key, value in figures.items():
        print(f"{key:32} {value:.4g}" if isinstance(value, float) else f"{key:32} {value}")
    machine = {
        "benchmark": name,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(machine | dict(figures)))


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor()
