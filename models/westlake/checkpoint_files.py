"""A checkpoint's files: which they are, and what stands in them, checked."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from ..errors import shown
from ..files import MAX_LAYERS, MAX_SIZE, naming, read_json
from ..hub import find_folder
from ..weights import read_metadata, read_weights, refuse_keys
from .dual_ar import SamplingConfig
from .moods import MOODS_FILE
from .published import missing_parts, rename_dual_ar, unwrapped
from .syllables import SYLLABLES_FILE
from .topics import TOPICS_FILE

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

PUBLISHED_CODEC = "firefly-gan-vq-fsq-8x1024-21hz-generator.pth"
INDEX = ".index.json"  # of a file that is cut into several
MODEL_FILES = (
    "model.safetensors",
    "model.pth",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
CODEC_FILES = ("codec.safetensors", PUBLISHED_CODEC)
OPTIONAL_FILES = (TOPICS_FILE, MOODS_FILE, SYLLABLES_FILE)
FETCHED = (
    *MODEL_FILES,
    *CODEC_FILES,
    *OPTIONAL_FILES,
    "model-*-of-*.safetensors",
    "pytorch_model-*-of-*.bin",
)
SAMPLING_KEYS = ("temperature", "top_p", "repetition_penalty")
# What transformers puts into a config.json beside a model's sizes.
FOREIGN_KEYS = (
    "_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype",
    "transformers_version",
)  # fmt: skip
MAX_SIZES = {
    "n_layer": MAX_LAYERS,
    "n_fast_layer": MAX_LAYERS,
    "num_codebooks": 1 << 10,
    "max_seq_len": 1 << 20,
    "dim": 1 << 16,
    "codebook_size": 1 << 16,
    "n_fft": 1 << 16,
    "win_length": 1 << 16,
    "n_mels": 1 << 10,
    "encoder_depths": 1 << 10,
    "encoder_dims": 1 << 13,
    "decoder_dim": 1 << 13,
}
MAX_LIST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelWeights:
    """A language model's weights under our names, the file they came from, and its dtype.

    `quantised` is "int8" or "int4" where the file declares it, else None: floats.
    """

    path: Path
    weights: dict[str, Tensor]
    quantised: str | None


def find_checkpoint(name_or_path: str, revision: str | None) -> Path:
    """The folder of a checkpoint of this family, fetched where it has to be."""
    return find_folder(name_or_path, revision, FETCHED)


def find_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that the folder has.

    Raises:
        ValueError: it has none.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {' or '.join(names)}: fetch or copy the checkpoint again")


def read_model(folder: Path) -> ModelWeights:
    """Read the language model's weights, from whichever of `MODEL_FILES` there is.

    Raises:
        ValueError: there is none, or it is damaged, incomplete, or holds what it does not declare.
    """
    path = find_file(folder, MODEL_FILES)
    quantised = read_metadata(path).get("dtype")
    if path.name.endswith(INDEX):
        weights = _read_shards(path)
    else:
        weights = read_weights(path, integers=quantised is not None)
    weights = unwrapped(weights)
    refuse_keys(path, "lacks keys", missing_parts(weights))
    with naming(path):
        return ModelWeights(path=path, weights=rename_dual_ar(weights), quantised=quantised)


def weight_files(folder: Path) -> list[Path]:
    """All files that a checkpoint's weights are read from, an index among them.

    Raises:
        ValueError: there are none, or an index names what is not beside it.
    """
    path = find_file(folder, MODEL_FILES)
    shards = _shards(path) if path.name.endswith(INDEX) else []
    optional = [folder / name for name in OPTIONAL_FILES if (folder / name).is_file()]
    return [path, *shards, find_file(folder, CODEC_FILES), *optional]


def _read_shards(index: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _shards(index):
        weights |= read_weights(path)
    refuse_keys(index, "lacks keys", [key for key in _weight_map(index) if key not in weights])
    return weights


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which are beside it."""
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"{index} names a file {name}, which is not beside it: fetch it again")
    return [index.parent / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each key."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index} has no weight_map of keys and files: fetch it again")
    return shards


def read_config(path: Path, config_class: type[Config]) -> Config:
    """Read a config dataclass from its JSON file.

    Raises:
        ValueError: unknown keys, values of another type, or that do not fit together.
    """
    values = {key: value for key, value in read_json(path).items() if key not in FOREIGN_KEYS}
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ValueError(
            f"{path} has unknown keys {', '.join(unknown)}: allowed are {', '.join(fields)}"
        )
    for key, value in values.items():
        kind = fields[key].type
        kind = kind.__name__ if isinstance(kind, type) else str(kind)
        limit = MAX_SIZES.get(key, MAX_SIZE)
        if not _fits(value, kind, limit):
            came = shown(repr(value))
            raise ValueError(f"{path}: {key} is {came}, but must be {kind} of at most {limit}")
    with naming(path):
        return config_class(**values)


def _fits(value: object, kind: str, limit: int) -> bool:
    """A JSON value is what the field's annotation says, finite, and of a size that can be."""
    if kind.endswith(" | None"):
        return value is None or _fits(value, kind.removesuffix(" | None"), limit)
    if kind == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "int":
        return isinstance(value, int) and abs(value) <= limit
    if kind == "float":
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    if "tuple" in kind:
        if not isinstance(value, (list, tuple)) or len(value) > MAX_LIST:
            return False
        return all(_fits(item, "int", limit) for item in value)
    return True


def read_sampling(folder: Path) -> SamplingConfig:
    """The folder's own defaults, if any; other programs' keys stand in that file too."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return SamplingConfig()
    values: dict[str, Any] = read_json(path)
    with naming(path):
        return SamplingConfig(**{key: values[key] for key in SAMPLING_KEYS if key in values})
