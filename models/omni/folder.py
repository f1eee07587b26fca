"""A published Qwen2.5-Omni folder: where each key of its weights lies, and its voices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files import naming, read_json
from ..weights import assign_weights, check_weights, refuse_keys, refuse_lfs_pointer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
VOICES = "spk_dict.pt"
FETCHED = ("*.safetensors", VOICES)
STORED_FLOATS = ("F16", "BF16", "F32", "F64")  # as safetensors names them


class WeightFiles:
    """The safetensors files of a folder: opened and compared key by key, read part by part.

    Args:
        folder: with model.safetensors, or with shards and their index.

    Raises:
        ValueError: a file that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / INDEX
        self.path = index if index.is_file() else folder / WEIGHTS
        self.files = _shards(index) if index.is_file() else [self.path]
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, list[int]] = {}
        self.stored: dict[str, str] = {}  # dtypes
        for file in self.files:
            self._look_into(file)
        if index.is_file():
            named = read_json(index)["weight_map"]
            refuse_keys(index, "lacks keys", [key for key in named if key not in self._file_of])

    def check(self, expected: Mapping[str, Tensor], tables: set[str]) -> None:
        """Compare all keys and shapes with those of a model.

        Args:
            expected: the model's tensors, which may be on the meta device.
            tables: keys that the model computes itself; a file may have them, and is not asked.

        Raises:
            ValueError: keys that are missing, unexpected, or of another shape or kind.
        """
        for key in tables & self._shapes.keys():
            del self._shapes[key], self.stored[key]
        missing = [key for key in expected if key not in self._shapes]
        refuse_keys(self.path, "lacks keys", missing)
        for key, shape in self._shapes.items():
            path = self._file_of[key]
            if key not in expected:
                refuse_keys(path, "has unexpected keys", [key])
            if shape != list(expected[key].shape):
                wrong = f"{key} {shape} where {list(expected[key].shape)} is expected"
                refuse_keys(path, "has other shapes than the config asks for", [wrong])
            if self.stored[key] not in STORED_FLOATS:
                wrong = f"{key} {self.stored[key]} where one of {', '.join(STORED_FLOATS)} is"
                refuse_keys(path, "has other dtypes than weights have", [wrong])

    def load(self, prefix: str, module: nn.Module, dtype: torch.dtype) -> None:
        """Fill a part of the model, whose tensors may be on the meta device until then.

        Args:
            prefix: what its keys begin with in the files.
            module: the part.
            dtype: what its weights are converted to.

        Raises:
            ValueError: weights that are not finite.
        """
        weights: dict[str, Tensor] = {}
        for file in self.files:
            keys = [
                key for key in self._shapes if key.startswith(prefix) and self._file_of[key] == file
            ]
            with _opened(file) as opened:
                tensors = {key: opened.get_tensor(key) for key in keys}
            check_weights(file, tensors)
            weights |= {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        assign_weights(module, weights, self.path, dtype)

    def _look_into(self, file: Path) -> None:
        with _opened(file) as opened:
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                part = opened.get_slice(key)
                self._file_of[key] = file
                self._shapes[key], self.stored[key] = part.get_shape(), part.get_dtype()


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which are beside it."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{index} has no weight_map of keys and files: fetch it again")
    names = sorted(set(named.values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"{index} names a file {name}, which is not beside it: fetch it again")
    return [index.parent / name for name in names]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise ValueError(
            f"{file.parent} has no {WEIGHTS} or {INDEX}: fetch or copy the checkpoint again"
        )
    refuse_lfs_pointer(file)
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged or cut off ({error}): fetch or copy it again"
        ) from error


def read_voices(folder: Path, reference_bins: int, speaker_size: int) -> dict[str, dict[str, Any]]:
    """Read the voices, without running code from the file.

    Args:
        folder: with spk_dict.pt.
        reference_bins: mel bins of a voice's reference.
        speaker_size: numbers that describe a speaker.

    Returns:
        For each name `bos_token` (an id), `cond` [1, speaker_size] and `ref_mel` [1, T, bins],
        float32.

    Raises:
        ValueError: the file is missing, damaged, or holds something else.
    """
    path = folder / VOICES
    if not path.is_file():
        raise ValueError(f"{folder} has no {VOICES}: fetch or copy the checkpoint again")
    refuse_lfs_pointer(path)
    try:
        voices = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the unpickler raise anything
        raise ValueError(
            f"{path} can't be read as voices: it is damaged, or holds more than plain tensors, "
            "which is never run. Fetch or copy it again"
        ) from error
    if not isinstance(voices, dict) or not voices:
        raise ValueError(f"{path} must hold voices by name, got {type(voices).__name__}")
    with naming(path):
        read = {
            str(name): _voice(name, value, reference_bins, speaker_size)
            for name, value in voices.items()
        }
    for name, voice in read.items():
        check_weights(path, {f"{name}'s {part}": voice[part] for part in ("cond", "ref_mel")})
    return read


def _voice(name: object, value: object, bins: int, size: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"the voice {name!r} is a {type(value).__name__}, but must be named parts")
    parts: tuple[Any, ...] = tuple(value.get(part) for part in ("cond", "ref_mel", "bos_token"))
    cond, ref_mel, token = parts
    if not isinstance(cond, Tensor) or list(cond.shape) != [1, size]:
        raise ValueError(f"the voice {name!r} has no cond of the shape [1, {size}]")
    is_mel = isinstance(ref_mel, Tensor) and ref_mel.dim() == 3 and ref_mel.shape[1] > 0
    if not is_mel or (len(ref_mel), ref_mel.shape[2]) != (1, bins):
        raise ValueError(f"the voice {name!r} has no ref_mel of the shape [1, T, {bins}]")
    try:
        token = int(token)
    except (TypeError, ValueError):
        raise ValueError(f"the voice {name!r} has no bos_token, a token's id") from None
    return {"bos_token": token, "cond": cond.float(), "ref_mel": ref_mel.float()}
