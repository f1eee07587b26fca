"""A checkpoint that is damaged or does not fit together is refused with an error that says why."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoint import (
    CONFIG,
    change_json,
    new_model,
    published_weights,
    save_small,
    write_tokenizer,
)

from models.westlake.checkpoint import PUBLISHED_CODEC, load_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_codec) -> Path:
    return save_small(tmp_path_factory.mktemp("saved"), new_model(), small_codec)


@pytest.fixture
def folder(tmp_path, saved) -> Path:
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def refused(folder: Path, *parts: str, **options: str) -> None:
    """The error has all the parts, in order."""
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, parts))):
        load_checkpoint(folder, **options)


def test_device_and_dtype(saved, monkeypatch):
    refused(saved, "device is 'gpu'", "'cpu', 'cuda' and 'auto'", device="gpu")
    refused(saved, "dtype is 'int2'", "'auto', 'float32', 'bfloat16'", dtype="int2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(saved, "device is 'cuda'", "use 'cpu' or 'auto'", device="cuda")
    assert load_checkpoint(saved, device="auto").device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("config.json", ("has no config.json",)),
        ("codec_config.json", ("has no codec_config.json",)),
        ("tokenizer.json", ("has no tokenizer", "tokenizer.json or vocab.json")),
        ("model.safetensors", ("has no model.safetensors or model.pth", "again")),
        ("codec.safetensors", ("has no codec.safetensors or " + PUBLISHED_CODEC, "again")),
    ],
)
def test_missing_file(folder, name, parts):
    (folder / name).unlink()
    refused(folder, str(folder), *parts)


@pytest.mark.parametrize(
    ("name", "key"),
    [("model.safetensors", "norm.weight"), ("codec.safetensors", "backbone.norm.weight")],
)
def test_keys_are_strict(folder, name, key):
    weights = load_file(folder / name)
    save_file({k: tensor for k, tensor in weights.items() if k != key}, folder / name)
    refused(folder, name, f"lacks keys (1): {key}")
    save_file(weights | {"extra": torch.zeros(1)}, folder / name)
    refused(folder, name, "has unexpected keys (1): extra")


@pytest.mark.parametrize("name", ["model.safetensors", "codec.safetensors"])
def test_cut_off_weights(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    refused(folder, name, "can't be read as weights", "cut off")


@pytest.mark.parametrize(
    "key",
    [
        "layers.1.self_attn.q_proj.bias",
        "layers.0.self_attn.k_proj.weight",
        "fast_layers.1.feed_forward.up_proj.weight",
        "fast_layers.0.self_attn.wv.weight",
    ],
)
def test_missing_part_of_a_joined_layer_is_named_as_in_the_file(folder, key):
    (folder / "model.safetensors").unlink()
    weights = published_weights(older=True)
    assert weights.pop(key, None) is not None
    torch.save({f"model.{key}": tensor for key, tensor in weights.items()}, folder / "model.pth")
    refused(folder, "model.pth", f"lacks keys (1): model.{key}")


def test_two_keys_for_the_same_weights(folder):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"model.norm.weight": torch.ones(64)}, path)
    refused(folder, "model.safetensors", "norm.weight", "keep only one")


def test_parts_that_can_not_be_joined(folder):
    (folder / "model.safetensors").unlink()
    weights = published_weights() | {"layers.0.self_attn.k_proj.weight": torch.zeros(32, 63)}
    torch.save(weights, folder / "model.pth")
    refused(folder, "model.pth")


@pytest.mark.parametrize(
    ("name", "changes", "parts"),
    [
        ("config.json", {"n_layers": 2}, ("unknown keys n_layers", "allowed are", "n_layer")),
        ("config.json", {"dim": "64"}, ()),
        ("config.json", {"vocab_size": 300.5}, ()),
        ("config.json", {"n_head": 5}, ("dim 64",)),
        ("config.json", {"n_head": 0}, ()),
        ("config.json", {"n_layer": 2**31}, ("n_layer is 2147483648", "at most 1024")),
        ("config.json", {"n_layer": -1}, ("n_layer is -1", "at least 1")),
        ("config.json", {"n_layer": True}, ("n_layer is True",)),
        ("config.json", {"max_seq_len": 2**40}, ("max_seq_len",)),
        ("config.json", {"norm_eps": float("nan")}, ("norm_eps is nan",)),
        ("config.json", {"tie_word_embeddings": "yes"}, ("tie_word_embeddings is 'yes'",)),
        ("codec_config.json", {"encoder_depths": [2**31] * 4}, ("encoder_depths",)),
        ("codec_config.json", {"encoder_dims": 64}, ("encoder_dims is 64",)),
        ("config.json", {"dim": 128}, ()),
        ("codec_config.json", {"n_mel": 2}, ("unknown keys n_mel", "allowed are", "n_mels")),
        ("codec_config.json", {"hop_length": 200}, ("must multiply to hop_length",)),
        ("codec_config.json", {"sample_rate": "fast"}, ()),
        ("generation_config.json", {"temperature": 5}, ("temperature is 5", "temperature < 2")),
        ("generation_config.json", {"top_p": "all"}, ()),
    ],
)
def test_bad_values_in_a_config(folder, name, changes, parts):
    change_json(folder / name, **changes)
    refused(folder, name, *parts)


@pytest.mark.parametrize("name", ["config.json", "codec_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_damaged_json(folder, name, content):
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    refused(folder, name)


def test_missing_key_in_the_config(folder):
    values = {key: value for key, value in CONFIG.items() if key != "dim"}
    (folder / "config.json").write_text(json.dumps(values))
    refused(folder, "config.json", "dim")


def test_tokenizer_of_another_model(folder):
    change_json(folder / "config.json", vocab_size=262)
    refused(folder, "the id 262", "vocab_size 262")
    write_tokenizer(folder, ["<|im_start|>", "<|im_end|>"])
    refused(folder, "no special token <|semantic|>")


def test_model_and_codec_must_speak_the_same_codes(folder):
    change_json(folder / "codec_config.json", fsq_levels=[8, 8, 4, 4])
    refused(folder, "the model speaks 8 codebooks of 1024, the codec 8 of 1024", "the pad")


@pytest.mark.parametrize("name", ["model.safetensors", "codec.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_broken_weights_are_refused_at_load(folder, name, value):
    weights = load_file(folder / name)
    key = next(key for key, tensor in weights.items() if tensor.dim() == 2)
    weights[key][0, 0] = value
    save_file(weights, folder / name)
    refused(folder, name, key, "has weights up to", "damaged")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "codec.safetensors", "config.json", "tokenizer.json"]
)
def test_a_git_lfs_pointer_is_called_one(folder, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / name).write_text(pointer)
    refused(folder, name, "is a Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("shard", ["../model.safetensors", "missing.safetensors"])
def test_an_index_names_files_beside_it_only(folder, shard):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "model.safetensors.index.json", "which is not beside it")
