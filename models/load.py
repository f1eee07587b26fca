"""A checkpoint's name or folder -> its family, and the loaded model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .contract import SpeechModel
from .devices import check_dtype, find_device
from .errors import UserError, shown
from .hub import check_hub_id, find_folder, local_folder

# Published config.json files of Westlake-Omni name no model type, or that of their architecture.
WESTLAKE_TYPES = (None, "westlake", "dual_ar")
OMNI_TYPE = "qwen2_5_omni"
MINI_OMNI_FILE = "model_config.yaml"  # of its own; in place of a config.json
CONFIGS = ("config.json", MINI_OMNI_FILE)


def load_model(
    name_or_path: str | os.PathLike = "tiny",
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
) -> SpeechModel:
    """Find, fetch, check and load a checkpoint of any family.

    Args:
        name_or_path: a folder; else "tiny", which comes with this repository; else a Hugging Face
            id as "owner/name".
        device: "cpu", "cuda" or "auto", which is CUDA where there is one.
        dtype: of the language model; "auto" for what is fastest, else one that its family offers.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        ValueError: an unknown name, family, device or dtype; a file that is missing, damaged, or
            does not fit the others.
        RuntimeError: the download failed.
    """
    folder = find_folder(name_or_path, revision, (MINI_OMNI_FILE,))
    family = _family(folder)
    if family == "mini_omni":
        from .mini_omni.speech_model import load_mini_omni  # each family has its own libraries

        return load_mini_omni(name_or_path, device, dtype, revision)
    if family == "omni":
        from .omni.speech_model import load_omni

        return load_omni(name_or_path, device, dtype, revision)
    from .westlake.speech_model import load_westlake

    return load_westlake(name_or_path, device, dtype, revision)


def check_checkpoint(name: str, device: str = "cpu", dtype: str = "auto") -> None:
    """Find out whether `load_model` would find a checkpoint, and knows its family; loads nothing.

    Args: as of `load_model`. A Hugging Face id that is not in the cache is asked for.

    Raises:
        ValueError: as `load_model`.
    """
    check_dtype(dtype, find_device(device))
    folder = local_folder(name)
    if folder is None:
        check_hub_id(name, CONFIGS)
        return
    _family(folder)
    if not any((folder / file).is_file() for file in CONFIGS):
        raise ValueError(f"{shown(name)} is no checkpoint: there is no {CONFIGS[0]} in it")


def _family(folder: Path) -> str:
    """One of "westlake", "omni" or "mini_omni"."""
    if (folder / MINI_OMNI_FILE).is_file():
        return "mini_omni"
    model_type = _model_type(folder / "config.json")
    if model_type in WESTLAKE_TYPES:
        return "westlake"
    if model_type == OMNI_TYPE:
        return "omni"
    allowed = ", ".join([*filter(None, WESTLAKE_TYPES), OMNI_TYPE])
    raise UserError("error_unknown_family", name=shown(model_type), allowed=allowed)


def _model_type(path: Path) -> str | None:
    """What a config.json says; None where it says nothing or can't be read, as its family will."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config.get("model_type") if isinstance(config, dict) else None
