"""native.c, compiled for each instruction set that this processor runs."""

import atexit
import functools
import os
import shutil
import tempfile
from ctypes import CDLL
from pathlib import Path
from unittest import mock

import pytest
import torch
from emulated import COMPILER, EMULATOR, EmulatedLibrary

from models.transformer.native import compiled as library
from models.westlake.firefly.native_layers import sample_dtype

# The first is the processor's best; AVX-512 is apart where that is AMX.
INSTRUCTION_SETS = ("native", "avx512", "avx2", "avxvnni", "neon")

# What AVX-512 decodes a codec in, whichever this processor is faster at.
DECODERS = {"bfloat16": "-mno-avx512fp16", "float32": "-mno-avx512bf16"}


def library_for(isa: str) -> CDLL | EmulatedLibrary:
    """The library, or the test is skipped."""
    if isa == "neon":
        found = _emulated()
    elif isa in DECODERS:
        found = _decoding(isa)
    else:
        found = library.load_library() if isa == "native" else _compiled(isa)
    if found is None:
        pytest.skip(f"native.c can't be compiled for {isa} here")
    return found


@functools.cache
def _compiled(isa: str) -> CDLL | None:
    """Without tiles; or in 256 bits: AVX2 alone, or with AVX-VNNI's product, which AVX-512 VNNI has
    too."""
    best = library.load_library()
    if best is None or library.isa_of(best) not in ("amx", "avx512") or library.isa_of(best) == isa:
        return None
    if isa == "avxvnni":
        return _compiled_with("-DWITHOUT_AVX512")
    with mock.patch.dict(os.environ, {library.ISA_SWITCH: isa}):
        return library._load()


def _decoding(dtype: str) -> CDLL | None:
    best = library.load_library()
    if best is None or library.isa_of(best) not in ("amx", "avx512"):
        return None
    if library.isa_of(best) == "avx512" and sample_dtype(best) == getattr(torch, dtype):
        return None  # the best one is that
    found = _compiled_with("-DWITHOUT_AMX", DECODERS[dtype])
    has_pairs = torch.cpu._is_avx512_bf16_supported()
    assert found is None or sample_dtype(found) == getattr(torch, dtype) or not has_pairs
    return found if has_pairs or dtype == "float32" else None


@functools.cache
def _compiled_with(*flags: str) -> CDLL | None:
    given = (*library._flags(), *flags)
    with mock.patch.object(library, "_flags", lambda: given):
        return library._load()


@functools.cache
def _emulated() -> EmulatedLibrary | None:
    if not (shutil.which(COMPILER) and shutil.which(EMULATOR)):
        return None
    folder = tempfile.TemporaryDirectory()
    emulated = EmulatedLibrary(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(emulated.close)
    return emulated
