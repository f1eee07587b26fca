"""Which dtype `auto` is: on a CPU int8 where memory is fast enough for it, as int4 errs more."""

from __future__ import annotations

import statistics
from ctypes import CDLL, addressof
from time import thread_time

import torch
from loguru import logger

from ..transformer.native import (
    PANEL,
    HugePages,
    LinearStruct,
    isa_of,
    pointer_of,
    scratch_of,
    share_of_threads,
)
from ..transformer.quantisation import fits_4_bits
from .dual_ar import DualARTransformer

LARGE_MODEL = 100_000_000  # weights
MEASURED_BYTES = 1 << 27  # more than most processors' caches
NUM_INPUTS = 1024
PASSES = 5  # the first begins threads, and some caches keep only what has come more than once
# Of work per second of speech, at full size, for the codec and all else than to read weights: about
# what was measured with each; NEON's was not.
OTHER_SECONDS = {"amx": 0.1, "avx512": 0.15, "avx2": 0.5, "neon": 0.5}
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
    slow, fast = bytes_per_frame(model)
    speed, again = read_speed(library, MEASURED_BYTES), read_speed(library, fast)
    step = slow / speed + model.config.num_codebooks * fast / again
    work = frame_rate * step + OTHER_SECONDS[isa_of(library)]
    dtype = "int8" if work <= MOST_WORK else "int4"
    told = "" if dtype == "int8" else f", at most {MOST_WORK} are wanted, and int4 needs about half"
    logger.info(
        f"auto takes {dtype}: memory reads {speed / 1e9:.0f} GB/s, so that a second of speech "
        f"would take {work:.2f} s of work in int8{told}"
    )
    return dtype


def bytes_per_frame(model: DualARTransformer) -> tuple[int, int]:
    """What a frame reads in int8: of the slow stack and its head; and K times of the fast ones."""
    config = model.config
    slow = _num_weights(model.layers) + config.vocab_size * config.dim
    fast = _num_weights(model.fast_layers) + _num_weights(model.fast_output)
    return slow, fast


def _num_weights(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def read_speed(library: CDLL, num_bytes: int) -> float:
    """Bytes of weights a second that a product with one row reads, measured in some milliseconds.

    The processor time of this thread counts, as what else runs now may be gone when it speaks; of
    some passes the median.

    Args:
        library: from `load_library`.
        num_bytes: of weights of 8 bits; they come from the memory or the cache that holds so many.
    """
    num_outputs = num_bytes // NUM_INPUTS // PANEL * PANEL
    weight = HugePages().take((num_outputs, NUM_INPUTS // 4)).fill_(1)
    scale, x = torch.ones(num_outputs).bfloat16(), torch.ones(1, NUM_INPUTS)
    linear = LinearStruct(pointer_of(weight), pointer_of(scale), None, NUM_INPUTS, num_outputs, 8)
    y, scratch = scratch_of((1, num_outputs), library.native_product_scratch(addressof(linear), 1))
    seconds = []
    with share_of_threads() as threads:
        for _ in range(PASSES):
            started = thread_time()
            library.native_product(
                addressof(linear), x.data_ptr(), None, 0, y.data_ptr(), 1, scratch, threads
            )
            seconds.append(thread_time() - started)
    return weight.nbytes / statistics.median(seconds)
