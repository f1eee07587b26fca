"""Published folders: loaded strictly, or refused by name."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from models.mini_omni.checkpoint import load_checkpoint
from models.mini_omni.config import MiniOmniConfig


@pytest.fixture
def folder(mini_omni_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(mini_omni_folder, tmp_path / "copy"))


def change_yaml(folder: Path, **values: object) -> None:
    path = folder / "model_config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def change_json(folder: Path, part: str, **values: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(path: Path, change: Callable[[dict], object]) -> None:
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def test_the_published_sizes():
    config = MiniOmniConfig()
    assert config.vocab_size == 181_120 and config.stack.head_dim == 64
    assert (config.text.end, config.text.pad, config.text.input, config.text.answer) == (
        *range(151_936, 151_940),
    )
    assert (config.audio.end, config.audio.pad, config.audio.answer) == (4096, 4097, 4099)


MODEL, EAR, VOICE = "lit_model.pth", "whisper/pytorch_model.bin", "snac/pytorch_model.bin"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / MODEL).unlink(), f"has no {MODEL}"),
    "no config": (lambda f: (f / "model_config.yaml").unlink(), "has no model_config.yaml"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "no ear": (lambda f: (f / EAR).unlink(), "whisper has no model.safetensors or pytorch"),
    "no voice": (lambda f: (f / VOICE).unlink(), "snac has no model.safetensors or pytorch"),
    "cut off": (lambda f: (f / MODEL).write_bytes(b"PK"), "can't be read as weights"),
    "yaml": (lambda f: (f / "model_config.yaml").write_text("a: [", "utf-8"), "is damaged"),
    "deep yaml": (lambda f: (f / "model_config.yaml").write_text("[" * 20_000), "is damaged"),
    "a list": (lambda f: (f / "model_config.yaml").write_text("[1]"), "names and values, got a l"),
    "a word": (lambda f: change_yaml(f, n_layer="two"), "n_layer is 'two', allowed are numbers"),
    "huge": (lambda f: change_yaml(f, n_layer=10**9), "n_layer is 1000000000, allowed"),
    "long": (lambda f: change_yaml(f, block_size=10**6), "block_size is 1000000, allowed"),
    "short": (lambda f: change_yaml(f, block_size=32), "block_size is 32, but must be above 32"),
    "a deep whisper": (
        lambda f: change_json(f, "whisper", encoder_layers=10**6),
        "whisper/config.json: encoder_layers is 1000000, but must be at most 1024",
    ),
    "a whisper of many bins": (
        lambda f: change_json(f, "whisper", num_mel_bins=10**6),
        "num_mel_bins is 1000000, but must be at most 1024",
    ),
    "a whisper of half seconds": (
        lambda f: change_json(f, "whisper", max_source_positions=75),
        "max_source_positions is 75, but must be whole seconds",
    ),
    "a codec of no rate": (
        lambda f: change_json(f, "snac", sampling_rate=0),
        "sampling_rate is 0, but must be 8000 to 192000",
    ),
    "a wide codec": (
        lambda f: change_json(f, "snac", codebook_dim=1 << 30),
        "codebook_dim is 1073741824, but must be at most 16777216",
    ),
    "codes that the codec lacks": (
        lambda f: change_yaml(f, audio_vocab_size=100, padded_vocab_size=264 + 64 + 700),
        "snac speaks 64 codes, but .*model_config.yaml has 36",
    ),
    "too deep": (lambda f: change_yaml(f, n_layer=2000), "numbers up to 1024"),
    "zero": (lambda f: change_yaml(f, n_head=0), "n_head is 0, but must be above 0"),
    "heads": (lambda f: change_yaml(f, n_head=3), "must be n_head 3 times an even size"),
    "groups": (lambda f: change_yaml(f, n_query_groups=3), "must divide n_head 4"),
    "vocabularies": (lambda f: change_yaml(f, padded_vocab_size=9), "padded_vocab_size is 9"),
    "another model": (
        lambda f: change_yaml(f, parallel_residual=True),
        "parallel_residual is True, but only False is computed",
    ),
    "shapes": (
        lambda f: change_yaml(f, intermediate_size=128),
        r"lit_model.pth has other shapes .*fc_1.weight \[192, 32\] where \[128, 32\]",
    ),
    "rows": (lambda f: change_yaml(f, n_query_groups=1), "attn.weight of 256 rows, not 192"),
    "a missing key": (
        lambda f: change_weights(f / MODEL, lambda w: w.pop("transformer.h.1.norm_2.weight")),
        r"lit_model.pth lacks keys \(1\): layers.1.post_attention_layernorm.weight",
    ),
    "a missing half": (
        lambda f: change_weights(f / MODEL, lambda w: w.pop("transformer.h.0.mlp.fc_2.weight")),
        "lacks keys .*transformer.h.0.mlp.fc_2.weight",
    ),
    "halves of two shapes": (
        lambda f: change_weights(
            f / MODEL, lambda w: w.update({"transformer.h.0.mlp.fc_2.weight": torch.ones(2, 3)})
        ),
        "lacks keys .*transformer.h.0.mlp.fc_2.weight of the shape of fc_1",
    ),
    "no rows": (
        lambda f: change_weights(
            f / MODEL, lambda w: w.update({"transformer.h.0.attn.attn.bias": torch.tensor(1.0)})
        ),
        "attn.bias of 0 rows, not ",
    ),
    "a foreign key": (
        lambda f: change_weights(f / MODEL, lambda w: w.update(x=torch.ones(1))),
        r"lit_model.pth has unexpected keys \(1\): x",
    ),
    "no adapter": (
        lambda f: change_weights(f / MODEL, lambda w: w.pop("whisper_adapter.proj.weight")),
        r"lit_model.pth lacks keys \(1\): proj.weight",
    ),
    "not finite": (
        lambda f: change_weights(f / MODEL, lambda w: w["lm_head.weight"].mul_(torch.nan)),
        "has weights up to nan",
    ),
    "not whisper": (
        lambda f: change_json(f, "whisper", model_type="bert"),
        "is of a bert model, not of a whisper",
    ),
    "another whisper": (
        lambda f: change_json(f, "whisper", d_model=64),
        "features have 64 numbers, but the language model's adapter takes 32",
    ),
    "a damaged whisper": (
        lambda f: change_json(f, "whisper", encoder_layers="x"),
        "whisper/config.json: ",
    ),
    "the ear's keys": (
        lambda f: change_weights(f / EAR, lambda w: w.pop("encoder.conv1.bias")),
        r"whisper/pytorch_model.bin lacks keys \(1\): conv1.bias",
    ),
    "another codec": (
        lambda f: change_json(f, "snac", vq_strides=[8, 4, 2, 1]),
        r"vq_strides is \[8, 4, 2, 1\], but only \[4, 2, 1\] is spoken with",
    ),
    "a codec with attention": (
        lambda f: change_json(f, "snac", attn_window_size=32),
        "attn_window_size is 32, but only None",
    ),
    "an unknown setting": (
        lambda f: change_json(f, "snac", unknown=1),
        "snac/config.json: .*unknown",
    ),
    "the voice's keys": (
        lambda f: change_weights(f / VOICE, lambda w: w.update(x=torch.ones(1))),
        r"snac/pytorch_model.bin has unexpected keys \(1\): x",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(folder, fault):
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder, dtype="float32")


def test_a_pickle_is_never_run(folder, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    torch.save({"x": Harmful()}, folder / VOICE)
    with pytest.raises(ValueError, match="which is never run"):
        load_checkpoint(folder)
    assert not (tmp_path / "harm").exists()


def test_older_names_of_a_weight_norm(folder, mini_omni):
    def rename(weights):
        for key in [key for key in weights if ".parametrizations.weight.original" in key]:
            kind = "gv"[int(key[-1])]
            weights[f"{key.partition('.parametrizations')[0]}.weight_{kind}"] = weights.pop(key)

    change_weights(folder / VOICE, rename)
    codec, codes = load_checkpoint(folder).codec, torch.ones(7, 2, dtype=torch.long)
    assert torch.equal(codec(codes, 0, 0), mini_omni.checkpoint.codec(codes, 0, 0))


def test_without_the_package(mini_omni_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "snac", None)
    monkeypatch.setitem(sys.modules, "snac.layers", None)
    with pytest.raises(ValueError, match="the package snac, which is not installed: pip install"):
        load_checkpoint(mini_omni_folder)


def test_parts_that_cannot_be_fetched(folder, monkeypatch):
    def fail(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    shutil.rmtree(folder / "snac")
    with pytest.raises(RuntimeError, match="hubertsiuzdak/snac_24khz.* or put its files into"):
        load_checkpoint(folder)


def test_the_ear_is_fetched_once_not_in_two_formats(folder, tmp_path, monkeypatch):
    asked = {}

    def fetch(repo_id, *, allow_patterns, **options):
        asked[repo_id] = allow_patterns
        return folder / "elsewhere"

    (folder / "whisper").rename(folder / "elsewhere")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    load_checkpoint(folder)
    assert "model.safetensors" in asked["openai/whisper-small"]
    assert "pytorch_model.bin" not in asked["openai/whisper-small"]


def test_sizes_that_4_bits_do_not_fit(folder):
    weights = folder / MODEL
    change_yaml(folder, intermediate_size=96)

    def shrink(w):
        for key in [key for key in w if "mlp." in key or "adapter." in key]:
            first, second = (min(n, 96) if n == 192 else n for n in w[key].shape)
            w[key] = w[key][:first, :second].clone()

    change_weights(weights, shrink)
    with pytest.raises(ValueError, match="layers of sizes that 64 does not divide: use 'int8'"):
        load_checkpoint(folder, dtype="int4")
    assert load_checkpoint(folder, dtype="int8").engine.model.quantisation == "int8"
