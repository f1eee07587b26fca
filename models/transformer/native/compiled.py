"""native.c: compiled and loaded; and its functions that need no more than that.

PyTorch's own products are for floats or slower. Without a compiler, or on a processor that the C
file is not for, everything works in PyTorch alone.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    c_char_p,
    c_float,
    c_int,
    c_int64,
    c_void_p,
)
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from .threads import num_threads

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-fno-math-errno", "-fopenmp-simd", "-shared", "-fPIC")
PROCESSOR = ("model name", "flags", "Features", "CPU ")  # lines of /proc/cpuinfo
ISA_SWITCH = "WESTLAKE_ISA"  # an environment variable; without it the processor's best one
INSTRUCTION_SETS = ("amx", "avx512", "avx2", "neon")


class LinearStruct(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("bits", c_int64),
    ]


class BlockStruct(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("feed_forward_norm", c_void_p),
        *((name, LinearStruct) for name in ("qkv", "out", "gate_up", "down")),
    ]


class StackStruct(Structure):
    _fields_ = [
        ("blocks", POINTER(BlockStruct)),
        *(
            (name, c_int64)
            for name in ("num_blocks", "dim", "heads", "kv_heads", "head_dim", "hidden")
        ),
        ("eps", c_float),
    ]


class HeadStruct(Structure):
    _fields_ = [
        ("stack", StackStruct),
        ("output", LinearStruct),
        ("norm", c_void_p),
        ("embedding", c_void_p),
    ]


class EmbeddingStruct(Structure):
    _fields_ = [
        ("head", LinearStruct),
        ("tokens", c_void_p),
        ("codes", c_void_p),
        *((name, c_int64) for name in ("vocab", "num_books", "book_size", "dim", "spoken")),
    ]


class _CompileError(Exception):
    """The C file can't be compiled for this processor."""


@functools.cache
def compile_library() -> Future:
    """Begin to load the C file, compiled where need be, beside what the caller does meanwhile."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(_load)
    pool.shutdown(wait=False)
    return future


def load_library() -> CDLL | None:
    """The compiled C file; None where it can't be compiled or loaded.

    Raises:
        ValueError: `WESTLAKE_ISA` names no instruction set.
    """
    return compile_library().result()


def _load() -> CDLL | None:
    reason: Exception | None = None
    for place in (_cache_folder, tempfile.TemporaryDirectory):
        try:
            with place() as folder:
                library = _load_from(Path(folder))
            isa = isa_of(library)
            hint = "; it is faster where there is AVX-512 VNNI" if isa == "avx2" else ""
            logger.info(f"native.c for {isa} is used{hint}")
            return library
        except _CompileError as error:
            reason = error
            break
        except OSError as error:  # a folder that can't be written, or whose files can't be loaded
            reason = error
    logger.info(f"native.c is not used, but PyTorch alone, more slowly: {reason}")
    return None


@contextmanager
def _cache_folder() -> Iterator[Path]:
    """The user's own folder, kept between starts; nobody else may write into it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "westlake-omni"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        raise OSError(f"{folder} may be written by others")
    yield folder


def _load_from(folder: Path) -> CDLL:
    path = folder / f"native-{_key()}.so"
    if path.exists() and _is_private(path):
        with suppress(OSError):  # damaged: compiled again
            return _checked(CDLL(str(path)))
    _compile(path)
    return _checked(CDLL(str(path)))


def _checked(library: CDLL) -> CDLL:
    """The library, with its functions' types, if its instruction set is the one asked for."""
    library, wanted = _declared(library), _wanted()
    if wanted not in ("", isa_of(library)):
        raise _CompileError(f"{ISA_SWITCH} is {wanted}, this processor has {isa_of(library)}")
    return library


def isa_of(library: CDLL) -> str:
    """The instruction set that the library uses, of `INSTRUCTION_SETS`; AMX is AVX-512 as well."""
    return library.native_isa().decode()


def _wanted() -> str:
    wanted = os.environ.get(ISA_SWITCH, "")
    if wanted not in ("", *INSTRUCTION_SETS):
        allowed = ", ".join(INSTRUCTION_SETS)
        raise ValueError(
            f"{ISA_SWITCH} is {wanted!r}, allowed are {allowed}: unset it for the best"
        )
    return wanted


def _flags() -> tuple[str, ...]:
    if _wanted() == "avx2":
        return (*FLAGS, "-march=haswell")  # the first that had it
    is_arm = platform.machine() in ("aarch64", "arm64")
    without = ("-DWITHOUT_AMX",) if _wanted() == "avx512" else ()
    return (*FLAGS, "-mcpu=native" if is_arm else "-march=native", *without)


def _compiler() -> list[str]:
    if found := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise _CompileError("no C compiler: install cc, or ziglang with pip")


def _is_private(path: Path) -> bool:
    """The user's own, no link, and not for others to write."""
    status = path.lstat()
    return (
        not stat.S_ISLNK(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _key() -> str:
    """What tells a compiled file from another: the sources, the flags and the processor."""
    digest = hashlib.sha256()
    for source in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))):
        digest.update(source.read_bytes())
    digest.update(" ".join(_flags()).encode())
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        first = file.read().split("\n\n")[0].splitlines()
        lines = [line for line in first if line.startswith(PROCESSOR)]
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()[:16]


def _compile(path: Path) -> None:
    compiler = _compiler()
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        command = [*compiler, *_flags(), "-pthread", "-o", unfinished, str(SOURCE), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise _CompileError(f"{compiler[0]} can't be run: {error.strerror}") from error
        if done.returncode:
            lines = done.stderr.splitlines()
            reason = next((line for line in lines if "error" in line), f"{compiler[0]} failed")
            raise _CompileError(reason)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _declared(library: CDLL) -> CDLL:
    """The library, with its functions' types."""
    library.native_isa.restype = c_char_p
    library.native_product.argtypes = [
        *[c_void_p] * 3, c_float, c_void_p, c_int64, c_void_p, c_int,
    ]  # fmt: skip
    library.native_embed.argtypes = [c_void_p] * 2 + [c_int64] * 2 + [c_void_p] * 2
    library.native_step.argtypes = [c_void_p] * 6 + [c_int64, c_void_p, c_int]
    library.native_draw.argtypes = [c_void_p] * 4 + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    library.native_text.argtypes = [
        *[c_void_p] * 3, c_float, *[c_void_p] * 5, *[c_int64] * 2, *[c_void_p] * 2, c_int,
    ]  # fmt: skip
    library.native_panels.argtypes = [c_void_p] + [c_int64] * 2 + [c_void_p] * 2 + [c_int]
    library.native_quantise.argtypes = [c_void_p] + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    library.native_correct.argtypes = [c_void_p] + [c_int64] * 3 + [c_void_p] * 3 + [c_int]
    library.native_codes.argtypes = [c_void_p] * 6 + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    library.native_vocoder.argtypes = [c_void_p] * 4 + [c_int64] * 2 + [c_void_p, c_int]
    library.native_vocoder_scratch.argtypes = [c_void_p, c_int64, c_int64]
    library.native_vocoder_scratch.restype = c_int64
    library.native_refinement.argtypes = [c_void_p] * 4 + [c_int64] * 3 + [c_void_p, c_int]
    library.native_refinement_scratch.argtypes = [c_void_p] + [c_int64] * 3
    library.native_refinement_scratch.restype = c_int64
    for scratch, sizes in (
        (library.native_product_scratch, [c_int64]),
        (library.native_scratch, [c_int64, c_int64, c_int]),
        (library.native_codes_scratch, [c_int64, c_int64, c_int]),
        (library.native_text_scratch, [c_int64, c_int]),
    ):
        scratch.argtypes = [c_void_p, *sizes]
        scratch.restype = c_int64
    library.native_draw_scratch.argtypes = [c_int64, c_int]
    library.native_draw_scratch.restype = c_int64
    return library


def native_quantise(library: CDLL, weight: Tensor, steps: Tensor, scale: Tensor) -> None:
    """Round weights [out, in] float32, into what `NativeLinear` takes, but float32 scales."""
    bits = 8 if steps.dtype == torch.int8 else 4
    library.native_quantise(
        weight.data_ptr(), *weight.shape, bits, steps.data_ptr(), scale.data_ptr(),
        num_threads(),
    )  # fmt: skip


def native_correct(
    library: CDLL,
    weight: Tensor,
    block_size: int,
    factors: Tensor,
    steps: Tensor,
    scale: Tensor,
) -> None:
    """See `rounding.round_corrected`; the factors' blocks lie one after another."""
    library.native_correct(
        weight.data_ptr(), *weight.shape, block_size, factors.data_ptr(), steps.data_ptr(),
        scale.data_ptr(), num_threads(),
    )  # fmt: skip


class _Kept(threading.local):
    """A thread's memory, as what is asked for anew costs as much as a product; and views of it, as
    each operation of PyTorch's costs as much as a draw."""

    memory = torch.empty(0)
    size = 0  # numbers in it
    address = 0  # of its first number at an address that 64 divides

    def __init__(self) -> None:
        self.views: dict[tuple[int, ...], Tensor] = {}


_kept = _Kept()


def scratch_of(shape: tuple[int, ...], num_bytes: int) -> tuple[Tensor, int]:
    """A float32 tensor of `shape`, and where memory for the C file's own use lies, at an address
    that 64 divides; both until this thread's next call, the tensor over one for the same shape."""
    own = (math.prod(shape) + 15) // 16 * 16
    needed = own + num_bytes // 4 + 32
    if _kept.size < needed or shape not in _kept.views:
        with torch.inference_mode(False):  # else it could not be written outside of that mode
            if _kept.size < needed:
                _kept.memory, _kept.size = torch.empty(needed), needed
                _kept.views.clear()
                _kept.address = (_kept.memory.data_ptr() + 63) // 64 * 64
            first = (_kept.address - _kept.memory.data_ptr()) // 4
            _kept.views[shape] = _kept.memory[first : first + math.prod(shape)].view(shape)
    return _kept.views[shape], _kept.address + 4 * own


def pointer_of(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype in (torch.int32, torch.bfloat16)
    return tensor.data_ptr()
