"""Which dtype `auto` is: on a CPU int8 where memory is fast enough for it, as int4 errs more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes import CDLL
from threading import Barrier, BrokenBarrierError
from time import thread_time

import numpy as np
import torch
from loguru import logger

from ..transformer.native import HugePages
from ..transformer.quantisation import fits_4_bits
from .dual_ar import DualARTransformer

LARGE_MODEL = 100_000_000  # weights
MEASURED_BYTES = 1 << 27  # several times a processor's cache
START_SECONDS = 1.0  # in which all threads that measure must have begun
MEMORY_SHARE = 0.85  # of what memory allows, that decode steps in C reach
CODEC_SECONDS = 0.16  # of work per second of speech, at full size
MOST_WORK = 0.9  # seconds per second of speech: a tenth is to spare


def fastest_dtype(
    model: DualARTransformer, device: torch.device, library: CDLL | None, frame_rate: float
) -> str:
    """The dtype to take where none is asked for.

    Args:
        model: may be on the meta device.
        device: that it will be on.
        library: that steps it in few bits; None for PyTorch.
        frame_rate: frames a second of speech.
    """
    if device.type == "cuda":
        return "bfloat16"
    is_large = model.num_parameters >= LARGE_MODEL
    if library is None:
        return "int8" if is_large else "float32"
    if not is_large or not fits_4_bits(model.config.slow, model.config.fast):
        return "int8"
    speed = read_speed()
    work = frame_rate * bytes_per_frame(model) / (MEMORY_SHARE * speed) + CODEC_SECONDS
    dtype = "int8" if work <= MOST_WORK else "int4"
    told = "" if dtype == "int8" else f", at most {MOST_WORK} are wanted, and int4 needs about half"
    logger.info(
        f"auto takes {dtype}: memory reads {speed / 1e9:.0f} GB/s, so that a second of speech "
        f"would take {work:.2f} s of work in int8{told}"
    )
    return dtype


def bytes_per_frame(model: DualARTransformer) -> int:
    """What a frame reads in int8: the slow stack and its head once, the fast ones K times."""
    config = model.config
    slow = _num_weights(model.layers) + config.vocab_size * config.dim
    fast = _num_weights(model.fast_layers) + _num_weights(model.fast_output)
    return slow + config.num_codebooks * fast


def _num_weights(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def read_speed() -> float:
    """Bytes a second that all threads read from memory together, measured in some milliseconds.

    Their own processor time counts, as what else runs at the moment may be gone when it speaks.
    """
    num_threads = torch.get_num_threads()
    shape = num_threads, MEASURED_BYTES // num_threads
    parts = HugePages().take(shape, torch.int8).fill_(1).numpy()
    barrier = Barrier(num_threads)

    def read(part: np.ndarray) -> float:
        with suppress(BrokenBarrierError):  # the others did not come: then they are not counted on
            barrier.wait(START_SECONDS)
        started = thread_time()
        part.max()
        return len(part) / (thread_time() - started)

    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(read, parts))
