"""A published folder, and the ear and the voice beside it: checked and loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import FLOATS, QUANTISED, check_dtype, find_device, multiplies_bfloat16
from ..errors import UserError
from ..files import MAX_LAYERS, check_sizes, naming, read_json
from ..hub import find_folder
from ..tokenizer import TextTokenizer, load_tokenizer
from ..transformer.native import compile_library, load_library
from ..transformer.quantisation import (
    fits_4_bits,
    prepare_quantised,
    quantise_weights,
    with_quantised_layers,
)
from ..weights import assign_weights, fingerprint, give_back_large_blocks, planned, read_weights
from .codec import SnacDecoder, snac_package
from .config import CONFIG_FILE, MiniOmniConfig, read_config
from .ear import Adapter, Ear
from .engine import Engine
from .model import MiniOmniTransformer
from .published import ADAPTER, rename_codec, rename_encoder, rename_language_model

MODEL_FILE = "lit_model.pth"
EAR, VOICE = "whisper", "snac"  # folders of the checkpoint's, where they are not fetched
EAR_ID, VOICE_ID = "openai/whisper-small", "hubertsiuzdak/snac_24khz"
LIMITS = {"encoder_layers": MAX_LAYERS, "num_mel_bins": 1 << 10, "max_source_positions": 1 << 14}
PART_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A language model and its engine, the ear, the voice and the tokenizer.

    The modules are in eval mode and ask for no gradients. `dtype` is the language model's, one of
    `DTYPES` of models/devices.py; the codec is float32, and the ear too, unless the model is not
    and the device is fast with bfloat16. `fingerprint` tells the files' contents from others'.
    """

    name: str
    engine: Engine
    ear: Ear
    codec: SnacDecoder
    tokenizer: TextTokenizer
    device: torch.device
    dtype: str
    fingerprint: str

    @property
    def model(self) -> MiniOmniTransformer:
        return self.engine.model

    @property
    def num_parameters(self) -> int:
        """Of all parts; of the codec, what speaks."""
        parts = (*self.ear.parameters(), *self.codec.parameters())
        return self.model.num_parameters + sum(x.numel() for x in parts)


def load_checkpoint(
    name_or_path: str | os.PathLike, device: str = "cpu", dtype: str = "auto",
    revision: str | None = None,
) -> Checkpoint:  # fmt: skip
    """Find, fetch, check and load a checkpoint.

    Args:
        name_or_path: a folder in the published layout, in which `whisper/` and `snac/` may hold
            the ear's and the voice's files; else a Hugging Face id as "owner/name".
        device: "cpu", "cuda" or "auto", which is CUDA where there is one.
        dtype: of the language model; "auto" is bfloat16 on CUDA and int8 on the CPU.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        ValueError: an unknown name, device or dtype; a file that is missing, damaged, or does not
            fit the others; a package that is missing.
        RuntimeError: a download failed.
    """
    torch_device = find_device(device)
    check_dtype(dtype, torch_device)
    if dtype == "auto":
        dtype = "bfloat16" if torch_device.type == "cuda" else "int8"
    snac_package()
    give_back_large_blocks()
    if dtype in QUANTISED:
        compile_library()  # meanwhile the files are read
    folder = find_folder(name_or_path, revision, (MODEL_FILE, CONFIG_FILE))
    config = read_config(folder / CONFIG_FILE)
    tokenizer = load_tokenizer(folder, config.text.end, ())
    codec, codec_file = _load_codec(_part_folder(folder, VOICE, VOICE_ID, PART_FILES))
    if codec.codebook_size != config.audio.end:
        raise ValueError(
            f"{codec_file.parent} speaks {codec.codebook_size} codes, but {folder / CONFIG_FILE} "
            f"has {config.audio.end}: they need the same number"
        )
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {MODEL_FILE}: fetch or copy the checkpoint again")
    weights = read_weights(path)
    of_adapter = {key: tensor for key, tensor in weights.items() if key.startswith(ADAPTER)}
    ear_folder = _part_folder(folder, EAR, EAR_ID, PART_FILES[:1])
    ear, ear_file = _load_ear(ear_folder, config, of_adapter, path)
    if dtype != "float32" and multiplies_bfloat16(torch_device):
        ear.to(torch.bfloat16)
    others = {key: tensor for key, tensor in weights.items() if key not in of_adapter}
    library = load_library() if dtype in QUANTISED else None
    model = new_model(config, rename_language_model(others, config, path), path, dtype, library)
    return Checkpoint(
        name=str(name_or_path),
        engine=Engine(model.to(torch_device).eval().requires_grad_(False), library),
        ear=ear.to(torch_device).eval().requires_grad_(False),
        codec=codec.to(torch_device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        device=torch_device,
        dtype=dtype,
        fingerprint=fingerprint([path, ear_file, codec_file]),
    )


def new_model(
    config: MiniOmniConfig, weights: dict[str, Tensor], path: Path, dtype: str, library: CDLL | None
) -> MiniOmniTransformer:
    """A language model of a file's weights.

    Args:
        config: the sizes.
        weights: under our names; without those of a head, the embedding serves.
        path: of the file, for the errors.
        dtype: of `DTYPES`; one of few bits quantises them.
        library: that does it faster, and computes with few bits; None for PyTorch.

    Raises:
        ValueError: weights of other keys or shapes, or sizes that 4 bits do not fit.
    """
    with planned():  # the file's tensors move in
        model = MiniOmniTransformer(config, is_tied="lm_head.weight" not in weights)
    if dtype not in QUANTISED:
        assign_weights(model, weights, path, FLOATS[dtype])
        return model
    if dtype == "int4" and not fits_4_bits(config.stack):
        raise UserError("error_dtype_sizes", name=dtype)
    with planned():
        with_quantised_layers(model, dtype)
    with naming(path):
        weights = quantise_weights(weights, dtype, library)
    assign_weights(model, weights, path, None)
    del weights  # so that those which do not stay in place are given up one by one
    prepare_quantised(model, library, in_place=True)
    return model


def _part_folder(folder: Path, name: str, hub_id: str, files: Sequence[str]) -> Path:
    """Where a part lies that the checkpoint's publishers left to others; else files to fetch."""
    own = folder / name
    if own.is_dir():
        return own
    try:
        return find_folder(hub_id, None, files)
    except RuntimeError as error:
        raise RuntimeError(f"{error}, or put its files into {own}") from error


def _weights_file(folder: Path) -> Path:
    for name in PART_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {' or '.join(PART_FILES)}: fetch or copy it again")


def _load_ear(
    folder: Path, config: MiniOmniConfig, of_adapter: dict[str, Tensor], adapter_file: Path
) -> tuple[Ear, Path]:
    """The ear in float32, and the file of its encoder."""
    from transformers import WhisperConfig  # here, as this import takes seconds

    values: dict[str, Any] = read_json(folder / "config.json")
    check_sizes(folder / "config.json", values, LIMITS)
    if values.get("model_type") != "whisper":
        found = values.get("model_type")
        raise ValueError(f"{folder / 'config.json'} is of a {found} model, not of a whisper")
    path = _weights_file(folder)
    encoder = rename_encoder(read_weights(path))
    try:
        settings = WhisperConfig(**values)
    except Exception as error:  # transformers' and the hub's errors have no common type
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    with naming(folder / "config.json"), planned():
        ear = Ear(settings, Adapter(config))
    assign_weights(ear.encoder, encoder, path, torch.float32)
    weights = {key.removeprefix(ADAPTER): tensor for key, tensor in of_adapter.items()}
    assign_weights(ear.adapter, weights, adapter_file, torch.float32)
    return ear, path


def _load_codec(folder: Path) -> tuple[SnacDecoder, Path]:
    """The voice in float32, and the file of its weights."""
    path, values = _weights_file(folder), read_json(folder / "config.json")
    check_sizes(folder / "config.json", values, LIMITS)
    with naming(folder / "config.json"), planned():
        codec = SnacDecoder(values)
    assign_weights(codec.snac, rename_codec(read_weights(path)), path, torch.float32)
    return codec.prepare_inference(), path
