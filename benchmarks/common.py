"""What the benchmarks share: checkpoints to measure, the machine's limits, and the report."""

import json
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain
from multiprocessing import get_context

import torch
from tokenizers import Tokenizer
from torch import nn

from models.contract import SpeechModel
from models.load import load_model
from models.tokenizer import MARK, TextTokenizer
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.firefly import FireflyArchitecture, FireflyConfig
from models.westlake.saved_checkpoint import save_checkpoint

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


@contextmanager
def checkpoint_folder(shape: str) -> Iterator[str]:
    """Where to load the shape from: the embedded checkpoint, or a full-size one, random weights."""
    if shape == "tiny":
        yield "tiny"
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, so that this one's memory is what loading and speaking take.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(_write_full_size, folder).result()
        yield folder


def _without_marks(tokenizer: TextTokenizer) -> TextTokenizer:
    """One without what published models were not taught, such as to write down what is heard."""
    content = json.loads(tokenizer.backend.to_str())
    tokens = content["added_tokens"]
    content["added_tokens"] = [one for one in tokens if not re.fullmatch(MARK, one["content"])]
    return TextTokenizer(Tokenizer.from_str(json.dumps(content)))


def _write_full_size(folder: str) -> None:
    tokenizer = _without_marks(load_checkpoint("tiny").tokenizer)
    torch.manual_seed(0)
    model = DualARTransformer(QWEN2_05B, tokenizer.get_vocab()["<|semantic|>"])
    codec = FireflyArchitecture(FireflyConfig())
    save_checkpoint(folder, model, codec, tokenizer, dtype=torch.bfloat16)


def load(shape: str, dtype: str) -> tuple[SpeechModel, float]:
    """The shape's model, and the seconds that loading it took, from files just written."""
    with checkpoint_folder(shape) as folder:
        started = time.perf_counter()
        model = load_model(folder, dtype=dtype)
        return model, time.perf_counter() - started


def load_parts(shape: str, dtype: str) -> tuple[Checkpoint, float]:
    """As `load`, for what looks into the language model."""
    with checkpoint_folder(shape) as folder:
        started = time.perf_counter()
        checkpoint = load_checkpoint(folder, dtype=dtype)
        return checkpoint, time.perf_counter() - started


def memory_bandwidth(num_bytes: int = 1 << 30, device: torch.device | str = "cpu") -> float:
    """Bytes a second that a large sum reads, the best of three."""
    data = torch.ones(num_bytes // 4, device=device)
    data.sum()
    return max(num_bytes / seconds_of(data.sum) for _ in range(3))


def matrix_speed(size: int = 2048) -> float:
    """Operations a second, two a multiplication, of a large product in bfloat16; best of three."""
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    a @ b
    return max(2 * size**3 / seconds_of(torch.matmul, a, b) for _ in range(3))


def bytes_of(*modules: nn.Module) -> int:
    """Of the modules' weights and buffers as they lie in memory, what is shared counted once."""
    tensors = (x for module in modules for x in chain(module.parameters(), module.buffers()))
    return sum({x.data_ptr(): x.nbytes for x in tensors}.values())


def seconds_of(work: Callable, *args) -> float:
    """Of a call, and of what it gave a GPU to do."""
    _wait_for_gpu()
    started = time.perf_counter()
    work(*args)
    _wait_for_gpu()
    return time.perf_counter() - started


def warm_seconds_of(work: Callable, *args) -> float:
    """The same, on a GPU after a first call, which finds and loads what computes it."""
    if torch.cuda.is_initialized():
        work(*args)
    return seconds_of(work, *args)


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


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
        "rss_bytes": _resident_bytes(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(machine | dict(figures)))


def _resident_bytes() -> int | None:
    """Memory that is resident now, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor()
