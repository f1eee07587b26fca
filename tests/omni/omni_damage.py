"""Published folders, damaged; and what is said of them."""

import json

import pytest
from safetensors.torch import load_file, save_file

from models.omni.speech_model import load_omni


def replace(path, content: str | bytes) -> None:
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def change_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    replace(folder / "config.json", json.dumps(config))


def change_weights(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    path.unlink()
    save_file(weights, path, {"format": "pt"})


def refused(folder, dtype: str = "auto") -> str:
    with pytest.raises(ValueError) as caught:
        load_omni(folder, "cpu", dtype, None)
    return str(caught.value)
