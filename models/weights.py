"""Weight files: read without running code from them, checked key by key, written whole."""

import ctypes
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)
NUM_LISTED = 4
LARGEST_WEIGHT = 1e5  # above float16's range; what is larger was not trained
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BLOCK, NUM_BLOCKS = 1 << 14, 256  # bytes, and how many blocks of them a fingerprint reads of a file
M_MMAP_THRESHOLD = -3  # as malloc.h has it
LARGE_BLOCK = 1 << 21  # bytes; what a reply needs for a moment is mostly smaller


def give_back_large_blocks() -> None:
    """Let the system have freed large blocks again at once, where the C library is glibc.

    By default it keeps them among smaller ones that are in use: a tenth of a gigabyte.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


class _WithoutInit(TorchFunctionMode):
    """What `nn.init` would draw is left as it is."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        given = kwargs or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return given.get("tensor", *args[:1])
        return function(*args, **given)


@contextmanager
def planned() -> Iterator[None]:
    """Modules made meanwhile have sizes and no weights, which costs nothing, however large.

    Nothing is drawn for them, either: PyTorch would import its compiler for that.
    """
    with torch.device("meta"), _WithoutInit():
        yield


def give_back_freed_memory() -> None:
    """Let the system have what was freed among what is in use, where the C library is glibc."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def read_weights(path: Path, *, integers: bool = False) -> dict[str, Tensor]:
    """Read a .safetensors file, or a .pth or .bin file, whose weights may lie under "state_dict".

    Tensors come on the CPU and mapped from the file where its format allows.

    Args:
        path: of the file.
        integers: quantised weights and numbers are allowed beside floating point ones.

    Raises:
        ValueError: the file is damaged, or holds anything but dense tensors of finite weights.
    """
    refuse_lfs_pointer(path)
    weights: object
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            mappable = zipfile.is_zipfile(path)
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except Exception as error:  # a foreign file can make the unpickler raise anything
        raise ValueError(
            f"{path} can't be read as weights: it is damaged, cut off, or holds more than plain "
            "tensors, which is never run. Fetch or copy it again"
        ) from error
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path} holds a {type(weights).__name__}, but must hold a state dict")
    check_weights(path, weights, integers=integers)
    return dict(weights)


def check_weights(path: Path, weights: Mapping, *, integers: bool = False) -> None:
    """Raise a ValueError where a file holds anything but dense tensors of finite weights.

    Args:
        path: of the file, for the error.
        weights: by key.
        integers: quantised weights and numbers are allowed beside floating point ones.
    """
    for key, tensor in weights.items():
        if fault := _fault_of(key, tensor, integers):
            raise ValueError(f"{path}: {key} {fault}")


def _fault_of(key: object, tensor: object, integers: bool) -> str | None:
    """What is wrong with an entry of a state dict."""
    if not isinstance(key, str):
        return f"is a {type(key).__name__} as a key, but keys must be names"
    wanted = "must be a floating point tensor of 16, 32 or 64 bits"
    if not isinstance(tensor, Tensor):
        return f"is {type(tensor).__name__}, but {wanted}"
    if tensor.layout != torch.strided or tensor.is_meta:
        return f"is {'a meta' if tensor.is_meta else 'no dense'} tensor: save its values, densely"
    if tensor.dtype not in FLOATS:
        allowed = integers and tensor.dtype in INTEGERS
        return None if allowed else f"is {tensor.dtype}, but {wanted}"
    if tensor.numel():
        largest = max(map(abs, map(float, tensor.aminmax())))
        if not largest <= LARGEST_WEIGHT:  # NaN too
            return f"has weights up to {largest}, allowed are {LARGEST_WEIGHT:g}: it is damaged"
    return None


def read_metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says of itself; empty for other files, and damaged ones."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def refuse_lfs_pointer(path: Path) -> None:
    """Raise a ValueError if the file only stands for one that Git LFS has not fetched."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")


def assign_weights(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None
) -> None:
    """Make a file's tensors the module's own, which may be on the meta device until then.

    Args:
        module: what they belong to.
        weights: under the module's key names, as `read_weights` allows them.
        path: the file they came from, for the errors.
        dtype: what floating point ones are converted to; None leaves them as they are.

    Raises:
        ValueError: keys that are missing, unexpected, or of another shape.
    """
    expected = module.state_dict()
    refuse_keys(path, "lacks keys", [key for key in expected if key not in weights])
    refuse_keys(path, "has unexpected keys", [key for key in weights if key not in expected])
    wrong = [
        f"{key} {list(weights[key].shape)} where {list(tensor.shape)} is expected"
        for key, tensor in expected.items()
        if weights[key].shape != tensor.shape
    ]
    refuse_keys(path, "has other shapes than the config asks for", wrong)
    wrong = [
        f"{key} {weights[key].dtype} where {tensor.dtype} is expected"
        for key, tensor in expected.items()
        if weights[key].is_floating_point() != tensor.is_floating_point()
        or (not tensor.is_floating_point() and weights[key].dtype != tensor.dtype)
    ]
    refuse_keys(path, "has other dtypes than it says", wrong)
    # If one must be converted, copy all: one left would keep the whole file mapped.
    copy = dtype is not None and any(tensor.dtype != dtype for tensor in weights.values())
    converted = {
        key: tensor.to(dtype if dtype and tensor.is_floating_point() else tensor.dtype, copy=copy)
        for key, tensor in weights.items()
    }
    module.load_state_dict(converted, strict=True, assign=True)


def refuse_keys(path: Path, fault: str, items: list[str]) -> None:
    """Raise a ValueError that lists the first of the items, if there are any."""
    if items:
        listed = ", ".join(items[:NUM_LISTED]) + (", ..." if len(items) > NUM_LISTED else "")
        raise ValueError(
            f"{path} {fault} ({len(items)}): {listed}. Give the weights that belong to the config"
        )


def write_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file, under another name first: readers see the old file or the new.

    With a dtype, matrices are stored as that, and vectors (biases, norms), which are few, as
    float32; else all as they are.

    Args:
        path: of the file.
        weights: by key.
        dtype: of the stored matrices.
        metadata: what the file says of itself.

    Raises:
        ValueError: a value that is not finite, before or after the conversion.
    """
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    if dtype is not None:
        stored = {
            key: tensor.to(dtype if tensor.dim() > 1 else torch.float32)
            for key, tensor in stored.items()
        }
    for key, tensor in stored.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{key} has values that are not finite as {tensor.dtype}: not saved")
    write_whole(path, save(stored, metadata={"format": "pt", **(metadata or {})}))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as a whole: readers see the old one or the new."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file then takes the place of this one; nothing of it is left if
    that fails."""
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def fingerprint(paths: Sequence[Path]) -> str:
    """What tells the files' contents from others': of large ones, blocks all over them are read."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for index in range(min(NUM_BLOCKS, -(-size // BLOCK))):
                file.seek(max(BLOCK * index, size * index // NUM_BLOCKS))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
