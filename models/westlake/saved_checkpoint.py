"""Checkpoints as folders that `load_checkpoint` reads: as they are, or quantised."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from ..devices import QUANTISED
from ..errors import UserError, shown
from ..files import write_json
from ..tokenizer import TextTokenizer, load_tokenizer, save_tokenizer
from ..transformer.native import load_library
from ..weights import write_weights
from .checkpoint import new_codec, quantised_weights
from .checkpoint_files import (
    MODEL_FILES,
    OPTIONAL_FILES,
    SAMPLING_KEYS,
    find_checkpoint,
    read_config,
    read_model,
)
from .dual_ar import DualARConfig, DualARTransformer, SamplingConfig
from .firefly import FireflyArchitecture
from .moods import MOODS_FILE, MoodClassifier, write_moods
from .syllables import SYLLABLES_FILE, SyllableModel, write_syllables
from .topics import TOPICS_FILE, TopicClassifier, write_topics


def save_checkpoint(
    folder: str | os.PathLike,
    model: DualARTransformer,
    codec: FireflyArchitecture,
    tokenizer: TextTokenizer,
    *,
    sampling: SamplingConfig | None = None,
    topics: Mapping[str, TopicClassifier] | None = None,
    moods: MoodClassifier | None = None,
    syllables: SyllableModel | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that `load_checkpoint` reads; the arguments stay as they are.

    Loaded with the same dtype, it gives the same replies, as long as none is asked for here.

    Args:
        folder: made where it does not exist.
        model, codec, tokenizer: the codec is stored with its weight norm folded.
        sampling: the checkpoint's default settings; its seed is not stored.
        topics: what has a say in what a reply is about, see `write_topics`; None for none.
        moods: what has a say in the emotion that is perceived; None for none.
        syllables: which of those that are heard follow which; None where that is not known.
        dtype: of the stored matrices, where vectors are stored in float32; None stores all as it
            is, quantised weights too.

    Raises:
        ValueError: weights that are not finite, or a dtype for a quantised model.
    """
    if dtype is not None and model.quantisation:
        raise ValueError(f"a model of {model.quantisation} is saved as it is, without a dtype")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded = new_codec(codec.config, codec.state_dict())
    folded.load_state_dict(codec.state_dict())
    weights = model.state_dict()
    write_weights(folder / "model.safetensors", weights, dtype, _declared(model.quantisation))
    write_weights(folder / "codec.safetensors", folded.fold_weight_norm().state_dict(), dtype)
    write_json(folder / "config.json", dataclasses.asdict(model.config))
    write_json(folder / "codec_config.json", dataclasses.asdict(codec.config))
    settings = {name: getattr(sampling or SamplingConfig(), name) for name in SAMPLING_KEYS}
    write_json(folder / "generation_config.json", settings)
    save_tokenizer(folder, tokenizer.backend)
    for name in OPTIONAL_FILES:  # of an earlier checkpoint
        (folder / name).unlink(missing_ok=True)
    if topics is not None:
        write_topics(folder / TOPICS_FILE, topics)
    if moods is not None:
        write_moods(folder / MOODS_FILE, moods)
    if syllables is not None:
        write_syllables(folder / SYLLABLES_FILE, syllables)


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
    if dtype not in QUANTISED:
        raise UserError("error_unknown_dtype", name=shown(dtype), allowed="'int8' and 'int4'")
    source, folder = find_checkpoint(os.fspath(name_or_path), revision), Path(folder)
    if folder.exists() and folder.samefile(source):
        raise UserError("error_same_folder")
    read = read_model(source)
    if read.quantised:
        raise ValueError(
            f"{read.path} is quantised to {read.quantised} already: give what it was made from"
        )
    config = read_config(source / "config.json", DualARConfig)
    tokenizer = load_tokenizer(source, config.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    weights = quantised_weights(read, dtype, config, tokenizer, load_library())
    write_weights(folder / MODEL_FILES[0], weights, metadata=_declared(dtype))
    for other in source.iterdir():
        if other.is_file() and not other.name.startswith(("model", "pytorch_model")):
            shutil.copyfile(other, folder / other.name)


def _declared(quantisation: str | None) -> dict[str, str]:
    """What a language model's file says of itself."""
    return {"dtype": quantisation} if quantisation else {}
