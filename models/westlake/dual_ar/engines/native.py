"""Products with quantised weights, a position's way through a stack of them, a token's draw, a
frame's codes, and rounding, in C.

PyTorch's own products are for floats or slower, and for lone positions its own cost is the most.
The C file is compiled when it is first asked for, within about two seconds. Without a compiler, or
on a processor that it is not for, everything works in PyTorch alone.
"""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    addressof,
    c_float,
    c_int,
    c_int64,
    c_void_p,
)
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor, nn

from ..cache import KVCache

SOURCE = Path(__file__).with_suffix(".c")
MAX_HEAD = 256  # as in the C file
PIECE = 64  # rows of a product at once: few enough for a core's own cache
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


class _Linear(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("bits", c_int64),
    ]


class _Block(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("feed_forward_norm", c_void_p),
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
    ]


class _Stack(Structure):
    _fields_ = [
        ("blocks", POINTER(_Block)),
        *(
            (name, c_int64)
            for name in ("num_blocks", "dim", "heads", "kv_heads", "head_dim", "hidden")
        ),
        ("eps", c_float),
    ]


class _Head(Structure):
    _fields_ = [
        ("stack", _Stack),
        ("output", _Linear),
        ("norm", c_void_p),
        ("embedding", c_void_p),
    ]


@functools.cache
def compile_library() -> Future:
    """Begin to compile the C file, beside what the caller does meanwhile."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(_compile)
    pool.shutdown(wait=False)
    return future


def load_library() -> CDLL | None:
    """The compiled C file; None where it can't be compiled."""
    return compile_library().result()


def _compile() -> CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.info("no C compiler: quantised weights are used through PyTorch, more slowly")
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "native.so"
        command = [compiler, *FLAGS, "-o", str(path), str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "")
            logger.info(f"quantised weights are used through PyTorch, more slowly: {reason}")
            return None
        library = CDLL(str(path))
    library.native_product.argtypes = [c_void_p] * 3 + [c_int64, c_void_p, c_int]
    library.native_step.argtypes = [c_void_p] * 6 + [c_int64, c_void_p, c_int]
    library.native_draw.argtypes = [c_void_p] * 4 + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    library.native_quantise.argtypes = [c_void_p] + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    library.native_codes.argtypes = [c_void_p] * 6 + [c_int64] * 3 + [c_void_p] * 2 + [c_int]
    for scratch, num_sizes in (
        (library.native_product_scratch, 1),
        (library.native_scratch, 2),
        (library.native_codes_scratch, 2),
    ):
        scratch.argtypes = [c_void_p] + [c_int64] * num_sizes
        scratch.restype = c_int64
    return library


class NativeLinear:
    """A quantised layer as the C file sees it.

    Args:
        library: from `load_library`.
        weight: int8 [out, in], or uint8 [out, in / 2], two inputs a byte, the first in its upper
            half.
        scale: bfloat16 [out], or [out, in / 64, 2].
        bias: bfloat16 [out] or None.
    """

    def __init__(self, library: CDLL, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.compiled = library
        self.tensors = (weight, scale, bias)  # what the pointers point to
        bits = 8 if weight.dtype == torch.int8 else 4
        self.num_outputs = len(weight)
        pointers = [None if x is None else _pointer(x) for x in self.tensors]
        self.struct = _Linear(*pointers, weight.shape[1] * 8 // bits, self.num_outputs, bits)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out], in x's dtype."""
        result = x.new_empty(len(x), self.num_outputs)
        linear = addressof(self.struct)
        for rows, to in zip(x.split(PIECE), result.split(PIECE), strict=True):
            inputs = rows.float().contiguous()
            y, scratch = _scratch(to.shape, self.compiled.native_product_scratch(linear, len(rows)))
            self.compiled.native_product(
                linear, inputs.data_ptr(), y.data_ptr(), len(rows), scratch.data_ptr(),
                torch.get_num_threads(),
            )  # fmt: skip
            to.copy_(y)
        return result


class NativeStack:
    """A stack's blocks as the C file sees them.

    Args:
        library: from `load_library`.
        stack: of quantised layers, which have a `native` form, and bfloat16 norms.
    """

    def __init__(self, library: CDLL, stack: nn.ModuleList) -> None:
        config = stack.config
        self.compiled = library
        self.angles = stack.rope[:, 1].contiguous()
        blocks = [
            _Block(
                _pointer(block.input_layernorm.weight),
                _pointer(block.post_attention_layernorm.weight),
                *(
                    layer.native.struct
                    for layer in (
                        block.self_attn.wqkv,
                        block.self_attn.wo,
                        block.feed_forward.w_gate_up,
                        block.feed_forward.w_down,
                    )
                ),
            )
            for block in stack
        ]
        self.struct = _Stack(
            (_Block * len(blocks))(*blocks),
            len(blocks),
            config.dim,
            config.n_head,
            config.n_local_heads,
            config.head_dim,
            config.intermediate_size,
            config.norm_eps,
        )

    def __call__(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Run one position of each row, and append it to the caches, which do not advance.

        Args:
            x: [B, dim].
            caches: bfloat16, of B rows in all.

        Returns:
            [B, dim].
        """
        pointers, lengths, rooms = [], [], []
        for cache in caches:
            pointers += cache.pointers()
            lengths += [cache.length] * cache.num_rows
            rooms += [cache.max_len] * cache.num_rows
        angles = self.angles[lengths]
        num_rows, stack = len(x), addressof(self.struct)
        hidden, scratch = _scratch(
            x.shape, self.compiled.native_scratch(stack, num_rows, max(lengths))
        )
        hidden.copy_(x)
        self.compiled.native_step(
            stack, hidden.data_ptr(), angles.data_ptr(), (c_void_p * len(pointers))(*pointers),
            (c_int64 * num_rows)(*lengths), (c_int64 * num_rows)(*rooms), num_rows,
            scratch.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return hidden.to(x.dtype, copy=True)


class NativeDraw:
    """`sampling.sample`.

    Args:
        library: from `load_library`.
    """

    def __init__(self, library: CDLL) -> None:
        self.compiled = library

    def __call__(self, logits: Tensor, window: Tensor, settings: Tensor, points: Tensor) -> Tensor:
        """See `sampling.sample`."""
        changed, scratch = _scratch(logits.shape, 4 * logits.numel())
        changed.copy_(logits)
        window, points = window.contiguous(), points.contiguous()
        drawn = torch.empty(len(logits), dtype=torch.long)
        self.compiled.native_draw(
            changed.data_ptr(), window.data_ptr(), settings.data_ptr(), points.data_ptr(),
            *logits.shape, window.shape[1], drawn.data_ptr(), scratch.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return drawn


class NativeCodes:
    """`generation.draw_codes`: the fast stack, its head and `NativeDraw` in turn.

    Args:
        library: from `load_library`.
        stack: the fast stack.
        norm: bfloat16 [dim], the weight of the norm after it.
        output: its head, a quantised layer's `native` form.
        embedding: bfloat16 [codebook_size, dim], what the stack reads of a code.
    """

    def __init__(
        self,
        library: CDLL,
        stack: nn.ModuleList,
        norm: Tensor,
        output: NativeLinear,
        embedding: Tensor,
    ) -> None:
        self.compiled = library
        self.stack = NativeStack(library, stack)
        self.num_codebooks = stack.config.max_seq_len
        self.struct = _Head(self.stack.struct, output.struct, _pointer(norm), _pointer(embedding))

    def __call__(self, hidden: Tensor, windows: Tensor, settings: Tensor, points: Tensor) -> Tensor:
        """See `generation.draw_codes`."""
        windows, points = windows.contiguous(), points.contiguous()
        codes = torch.empty(points.shape, dtype=torch.long)
        head = addressof(self.struct)
        x, scratch = _scratch(hidden.shape, self.compiled.native_codes_scratch(head, *codes.shape))
        x.copy_(hidden)
        self.compiled.native_codes(
            head, x.data_ptr(), self.stack.angles.data_ptr(), windows.data_ptr(),
            settings.data_ptr(), points.data_ptr(), *windows.shape, codes.data_ptr(),
            scratch.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return codes


def native_quantise(library: CDLL, weight: Tensor, steps: Tensor, scale: Tensor) -> None:
    """Round weights [out, in] float32, into what `NativeLinear` takes, but float32 scales."""
    bits = 8 if steps.dtype == torch.int8 else 4
    library.native_quantise(
        weight.data_ptr(), *weight.shape, bits, steps.data_ptr(), scale.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


_kept = threading.local()  # memory that is asked for anew costs as much as a product


def _scratch(shape: Sequence[int], num_bytes: int) -> tuple[Tensor, Tensor]:
    """A float32 tensor of `shape`, and memory for the C file's own use, at an address that 64
    divides; both until this thread's next call."""
    own = (4 * math.prod(shape) + 63) // 64 * 64
    memory = getattr(_kept, "memory", torch.empty(0, dtype=torch.uint8))
    if len(memory) < own + num_bytes + 64:
        with torch.inference_mode(False):  # else it could not be written outside of that mode
            memory = _kept.memory = torch.empty(own + num_bytes + 64, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % 64 :]
    return memory[: 4 * math.prod(shape)].view(torch.float32).view(shape), memory[own:]


def _pointer(tensor: Tensor) -> int:
    assert tensor.is_contiguous() and tensor.dtype in (torch.int8, torch.uint8, torch.bfloat16)
    return tensor.data_ptr()
