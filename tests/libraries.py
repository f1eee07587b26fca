"""native.c, compiled for each instruction set that this processor runs."""

import functools
import os
from ctypes import CDLL
from unittest import mock

import pytest

from models.westlake.dual_ar.engines import library

INSTRUCTION_SETS = ("native", "avx2", "avxvnni")  # the first: the processor's best


def library_for(isa: str) -> CDLL:
    """The library, or the test is skipped."""
    found = library.load_library() if isa == "native" else _compiled(isa)
    if found is None:
        pytest.skip(f"native.c can't be compiled for {isa} here")
    return found


@functools.cache
def _compiled(isa: str) -> CDLL | None:
    """In 256 bits: AVX2 alone, or with AVX-VNNI's product, which AVX-512 VNNI has too."""
    best = library.load_library()
    if best is None or library.isa_of(best) != "avx512":
        return None
    with mock.patch.dict(os.environ, {library.ISA_SWITCH: "avx2"}):
        if isa == "avx2":
            return library._load()
        flags = (*library.FLAGS, "-march=native", "-DWITHOUT_AVX512")
        with mock.patch.object(library, "_flags", lambda: flags):
            return library._load()
