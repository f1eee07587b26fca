"""Checkpoints: found, fetched, checked, loaded and saved; the one table of published key names."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..hub import find_folder
from ..tokenizer import load_tokenizer, save_tokenizer, special_words
from ..weights import (
    assign_weights,
    fingerprint,
    give_back_large_blocks,
    read_weights,
    refuse_keys,
    write_weights,
)
from .dual_ar import DualARConfig, DualARTransformer, SamplingConfig
from .dual_ar.engines.graph import use_graphs
from .dual_ar.engines.native import compile_library, load_library
from .dual_ar.quantised import (
    fits_4_bits,
    install_quantised,
    quantise_weights,
    quantised_dtype,
    use_native,
)
from .firefly import FireflyArchitecture, FireflyConfig
from .published import missing_parts, rename_dual_ar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Config = TypeVar("Config")

PUBLISHED_CODEC = "firefly-gan-vq-fsq-8x1024-21hz-generator.pth"
MODEL_FILES = ("model.safetensors", "model.pth")
CODEC_FILES = ("codec.safetensors", PUBLISHED_CODEC)
SAMPLING_KEYS = ("temperature", "top_p", "repetition_penalty")
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DTYPES = (*FLOATS, "int8", "int4")
LARGE_MODEL = 100_000_000  # weights


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A language model, its codec and its tokenizer, ready to generate.

    The modules are in eval mode and ask for no gradients. `dtype` is the language model's, one of
    `DTYPES`; the codec is float32, but for the vocoder, which is bfloat16 unless the model is
    float32 or the CPU is slow at it.
    `emotion_ids` and `style_ids` give the token of each word in the tokenizer's `<|user:word|>`
    and `<|style:word|>`; they are empty where it has none. `fingerprint` tells the files' contents
    from others'.
    """

    name: str
    model: DualARTransformer
    codec: FireflyArchitecture
    tokenizer: PreTrainedTokenizerFast
    semantic_id: int
    end_id: int
    device: torch.device
    dtype: str
    sampling: SamplingConfig
    emotion_ids: dict[str, int]
    style_ids: dict[str, int]
    fingerprint: str

    @property
    def num_parameters(self) -> int:
        """Of the language model and the codec."""
        return self.model.num_parameters + sum(x.numel() for x in self.codec.parameters())

    @property
    def is_large(self) -> bool:
        """The model is so large that reading its weights is what a CPU does most of the time."""
        return self.model.num_parameters >= LARGE_MODEL


def load_checkpoint(
    name_or_path: str | os.PathLike = "tiny",
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
) -> Checkpoint:
    """Find, fetch, check and load a checkpoint.

    Args:
        name_or_path: a folder, in the published layout or as `save_checkpoint` writes it; else
            "tiny", which comes with this repository; else a Hugging Face id as "owner/name".
        device: "cpu", "cuda" or "auto", which is CUDA where there is one.
        dtype: of the language model; "float32", "bfloat16", on the CPU also "int8" or "int4", which
            quantise it, or "auto": as it is stored if that is quantised, else what is fastest:
            bfloat16 on CUDA; on the CPU int4 for large models and int8 for small ones where they
            step in C, else int8 and float32.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        ValueError: an unknown name, device or dtype; a file that is missing, damaged, or does not
            fit the others.
        RuntimeError: the download failed.
    """
    torch_device = _find_device(device)
    _check_dtype(dtype, torch_device)
    give_back_large_blocks()
    folder = find_folder(name_or_path, revision, (*MODEL_FILES, *CODEC_FILES))
    if dtype not in FLOATS and torch_device.type == "cpu":
        compile_library()
    config, sampling = _read_config(folder / "config.json", DualARConfig), _read_sampling(folder)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    semantic_id, end_id = tokenizer.convert_tokens_to_ids(["<|semantic|>", "<|im_end|>"])
    codec = _load_codec(folder, config)  # first: meanwhile the C file is compiled
    model, dtype = _load_model(folder, config, semantic_id, dtype, torch_device)
    if dtype != "float32" and _multiplies_bfloat16(torch_device):
        codec.head.to(torch.bfloat16)
    if torch_device.type == "cuda":
        use_graphs(model)
    return Checkpoint(
        name=str(name_or_path),
        model=model.to(torch_device).eval().requires_grad_(False),
        codec=codec.to(torch_device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        semantic_id=semantic_id,
        end_id=end_id,
        device=torch_device,
        dtype=dtype,
        sampling=sampling,
        emotion_ids=special_words(tokenizer, "user"),
        style_ids=special_words(tokenizer, "style"),
        fingerprint=fingerprint([_find_file(folder, MODEL_FILES), _find_file(folder, CODEC_FILES)]),
    )


def save_checkpoint(
    folder: str | os.PathLike,
    model: DualARTransformer,
    codec: FireflyArchitecture,
    tokenizer: PreTrainedTokenizerFast,
    *,
    sampling: SamplingConfig | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a folder that `load_checkpoint` reads; the arguments stay as they are.

    Args:
        folder: made where it does not exist.
        model, codec, tokenizer: the codec is stored with its weight norm folded.
        sampling: the checkpoint's default settings; its seed is not stored.
        dtype: of the stored matrices; vectors are stored in float32.

    Raises:
        ValueError: weights that are not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded = _new_codec(codec.config, codec.state_dict())
    folded.load_state_dict(codec.state_dict())
    write_weights(folder / "model.safetensors", model.state_dict(), dtype)
    write_weights(folder / "codec.safetensors", folded.fold_weight_norm().state_dict(), dtype)
    _write_json(folder / "config.json", dataclasses.asdict(model.config))
    _write_json(folder / "codec_config.json", dataclasses.asdict(codec.config))
    settings = {name: getattr(sampling or SamplingConfig(), name) for name in SAMPLING_KEYS}
    _write_json(folder / "generation_config.json", settings)
    save_tokenizer(folder, tokenizer.backend_tokenizer)


def _find_device(name: str) -> torch.device:
    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device is {name!r}, allowed are 'cpu', 'cuda' and 'auto'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but no CUDA GPU is found: use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def save_quantised(
    name_or_path: str | os.PathLike,
    folder: str | os.PathLike,
    dtype: str,
    revision: str | None = None,
) -> None:
    """Write a checkpoint's folder with its language model quantised, for `load_checkpoint`.

    Args:
        name_or_path, revision: as for `load_checkpoint`.
        folder: made where it does not exist.
        dtype: "int8" or "int4".

    Raises:
        ValueError: another dtype, a file that is missing or damaged, or is quantised already.
        RuntimeError: the download failed.
    """
    if dtype not in DTYPES or dtype in FLOATS:
        raise ValueError(f"dtype is {dtype!r}, allowed are 'int8' and 'int4'")
    source, folder = find_folder(name_or_path, revision, (*MODEL_FILES, *CODEC_FILES)), Path(folder)
    path, weights = _read_model(source)
    if stored := quantised_dtype(weights):
        raise ValueError(f"{path} is quantised to {stored} already: give what it was made from")
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / MODEL_FILES[0], quantise_weights(weights, dtype))
    for other in source.iterdir():
        if other.is_file() and other.name not in MODEL_FILES:
            shutil.copyfile(other, folder / other.name)


def _check_dtype(name: str, device: torch.device) -> None:
    if name not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {name!r}, allowed are 'auto', {', '.join(map(repr, DTYPES))}")
    if name in DTYPES and name not in FLOATS and device.type != "cpu":
        raise ValueError(f"dtype is {name!r}, which is for the CPU: use 'auto' on a GPU")


def _find_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {' or '.join(names)}: fetch or copy the checkpoint again")


def _read_model(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    path = _find_file(folder, MODEL_FILES)
    weights = read_weights(path)
    refuse_keys(path, "lacks keys", missing_parts(weights))
    with _naming(path):
        return path, rename_dual_ar(weights)


def _load_model(
    folder: Path, config: DualARConfig, semantic_id: int, dtype: str, device: torch.device
) -> tuple[DualARTransformer, str]:
    path, weights = _read_model(folder)
    stored = quantised_dtype(weights)
    if stored and (dtype not in ("auto", stored) or device.type != "cpu"):
        raise ValueError(
            f"{path} is quantised to {stored}, which the CPU speaks with as it is: "
            f"use dtype 'auto' and device 'cpu', or the weights it was made from"
        )
    with _naming(folder / "config.json"), torch.device("meta"):
        model = DualARTransformer(config, semantic_id)  # costs nothing: the file's tensors move in
    if dtype == "auto":
        dtype = stored or _fastest_dtype(model, device)
    if dtype not in FLOATS:
        with _naming(path):
            if stored:  # the file's are not aligned as the C code needs them
                weights = {key: tensor.clone() for key, tensor in weights.items()}
            else:
                weights = quantise_weights(weights, dtype)
            weights = install_quantised(model, weights)
    assign_weights(model, weights, path, FLOATS.get(dtype))
    if dtype not in FLOATS:
        use_native(model)
    return model, dtype


def _fastest_dtype(model: DualARTransformer, device: torch.device) -> str:
    if device.type == "cuda":
        return "bfloat16"
    is_large = model.num_parameters >= LARGE_MODEL
    if load_library() is None:
        return "int8" if is_large else "float32"
    return "int4" if is_large and fits_4_bits(model.config) else "int8"


def _multiplies_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def _load_codec(folder: Path, model: DualARConfig) -> FireflyArchitecture:
    """Float32, from weights with weight norm (published) or folded (ours); folded in any case."""
    path, config_path = _find_file(folder, CODEC_FILES), folder / "codec_config.json"
    if path.name == PUBLISHED_CODEC and not config_path.is_file():
        config = FireflyConfig()
    else:
        config = _read_config(config_path, FireflyConfig)
    if model.num_codebooks != config.num_codebooks or model.codebook_size <= config.codebook_size:
        raise ValueError(
            f"{folder}: the model speaks {model.num_codebooks} codebooks of "
            f"{model.codebook_size}, the codec {config.num_codebooks} of {config.codebook_size}: "
            "they need the same number, and the model at least one code more, for the pad"
        )
    weights = read_weights(path)
    with _naming(config_path):
        codec = _new_codec(config, weights)
    assign_weights(codec, weights, path, torch.float32)
    return codec.prepare_inference()


def _new_codec(config: FireflyConfig, weights: Iterable[str]) -> FireflyArchitecture:
    """A codec with weight norm or folded, as the keys of the weights to come are."""
    codec = FireflyArchitecture(config)
    with_norm = any(".parametrizations." in key for key in weights)
    return codec if with_norm else codec.fold_weight_norm()


def _read_json(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: fetch or copy the checkpoint again")
    with _naming(path):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object, got a {type(values).__name__}")
    return values


def _read_config(path: Path, config_class: type[Config]) -> Config:
    values = _read_json(path)
    allowed = [field.name for field in dataclasses.fields(config_class)]
    unknown = [key for key in values if key not in allowed]
    if unknown:
        raise ValueError(
            f"{path} has unknown keys {', '.join(unknown)}: allowed are {', '.join(allowed)}"
        )
    with _naming(path):
        return config_class(**values)


def _read_sampling(folder: Path) -> SamplingConfig:
    """The folder's own defaults, if any; other programs' keys stand in that file too."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return SamplingConfig()
    values = _read_json(path)
    with _naming(path):
        return SamplingConfig(**{key: values[key] for key in SAMPLING_KEYS if key in values})


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of the error that its contents lead to."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path}: {error}") from error
