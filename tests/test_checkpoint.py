"""Checkpoints of both layouts load exactly, and what is saved loads equal."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoint import (
    CONFIG,
    CONTROL_TOKENS,
    SAMPLING,
    SEMANTIC_ID,
    change_json,
    new_model,
    published_weights,
    save_small,
    write_tokenizer,
)

from models.errors import UserError
from models.load import load_model
from models.tokenizer import load_tokenizer
from models.transformer.native import load_library
from models.westlake.checkpoint import PUBLISHED_CODEC, load_checkpoint
from models.westlake.dual_ar import DualARTransformer, SamplingConfig
from models.westlake.firefly import FireflyArchitecture
from models.westlake.firefly.native_layers import sample_dtype
from models.westlake.published import rename_dual_ar
from models.westlake.saved_checkpoint import save_checkpoint
from models.westlake.speech_model import WestlakeModel


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return new_model()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, model, small_codec) -> Path:
    return save_small(tmp_path_factory.mktemp("saved"), model, small_codec)


@pytest.fixture
def folder(tmp_path, saved) -> Path:
    """A copy of `saved` to change."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def equal_weights(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    found = module.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(tensor, expected[key]) for key, tensor in found.items()
    )


def folded(codec: FireflyArchitecture) -> dict[str, torch.Tensor]:
    """Weights without weight norm."""
    keys = [
        key.replace("parametrizations.weight.original0", "weight")
        for key in codec.state_dict()
        if not key.endswith("original1")
    ]
    paths = [key.rpartition(".") for key in keys]
    return {
        key: getattr(codec.get_submodule(module), name)
        for key, (module, _, name) in zip(keys, paths)
    }


def test_published_layout_at_full_codec_size(tmp_path, full_codec):
    weights = published_weights(older=True)
    nested = {"state_dict": {f"model.{key}": tensor for key, tensor in weights.items()}}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(nested, tmp_path / "model.pth")
    write_tokenizer(tmp_path, CONTROL_TOKENS)
    torch.save(full_codec.state_dict(), tmp_path / PUBLISHED_CODEC)
    checkpoint = load_checkpoint(tmp_path, dtype="float32")
    assert equal_weights(checkpoint.model, rename_dual_ar(published_weights()))
    assert equal_weights(checkpoint.codec, folded(full_codec))
    assert checkpoint.name == str(tmp_path)
    assert (checkpoint.semantic_id, checkpoint.end_id) == (SEMANTIC_ID, 258)
    assert checkpoint.model.semantic_id == SEMANTIC_ID
    assert checkpoint.emotion_ids == checkpoint.style_ids == checkpoint.heard_ids == {}
    assert not checkpoint.mark_ids
    assert checkpoint.sampling == SamplingConfig()
    assert checkpoint.device == torch.device("cpu")
    assert checkpoint.dtype == "float32"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("older", [False, True])
def test_published_files_in_all_their_forms(folder, nested, prefix, older):
    weights = published_weights(older=older)
    weights = {prefix + key: tensor for key, tensor in weights.items()}
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": weights} if nested else weights, folder / "model.pth")
    assert equal_weights(
        load_checkpoint(folder, dtype="float32").model, rename_dual_ar(published_weights())
    )


def test_codec_with_weight_norm_is_folded(folder, small_codec):
    (folder / "codec.safetensors").unlink()
    torch.save(small_codec.state_dict(), folder / PUBLISHED_CODEC)
    assert equal_weights(load_checkpoint(folder, dtype="float32").codec, folded(small_codec))


def test_saved_loads_equal(saved, model, small_codec):
    checkpoint = load_checkpoint(saved, dtype="float32")
    assert checkpoint.model.config == model.config
    assert equal_weights(checkpoint.model, model.state_dict())
    assert checkpoint.codec.config == small_codec.config
    assert checkpoint.sampling == SAMPLING
    assert checkpoint.emotion_ids == {"sad": 260, "happy": 261}
    assert checkpoint.style_ids == {"calm": 262} and checkpoint.mark_ids == {260, 261, 262}
    for module in (checkpoint.model, checkpoint.codec):
        assert not module.training
        assert not any(weight.requires_grad for weight in module.parameters())
        buffers = [*module.parameters(), *module.buffers()]
        assert not any(tensor.is_meta for tensor in buffers)


@torch.no_grad()
def test_a_loaded_model_computes_the_same(saved, model, small_codec):
    checkpoint = load_checkpoint(saved, dtype="float32")
    grid = torch.randint(0, 260, (1, 9, 12), generator=torch.Generator().manual_seed(0))
    for found, expected in zip(checkpoint.model(grid), model(grid)):
        assert torch.equal(found, expected)
    wave = torch.rand(1, 1, 8192, generator=torch.Generator().manual_seed(0)) - 0.5
    lengths = torch.tensor([8192])
    codes, code_lengths = checkpoint.codec.encode(wave, lengths)
    assert torch.equal(codes, small_codec.encode(wave, lengths)[0])
    decoded = checkpoint.codec.decode(codes, code_lengths)[0]
    torch.testing.assert_close(decoded, small_codec.decode(codes, code_lengths)[0])


def test_saving_again_gives_the_same_files(saved, tmp_path):
    checkpoint = load_checkpoint(saved, dtype="float32")
    save_checkpoint(
        tmp_path,
        checkpoint.model,
        checkpoint.codec,
        checkpoint.tokenizer,
        sampling=checkpoint.sampling,
        dtype=torch.float32,
    )
    names = sorted(path.name for path in saved.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes(), name


@torch.no_grad()
def test_saving_leaves_the_codec_as_it_is(small_codec, saved):
    assert any(".parametrizations." in key for key in small_codec.state_dict())
    small_codec.decode(torch.zeros(1, 8, 2, dtype=torch.long), torch.tensor([2]))
    keys = load_file(saved / "codec.safetensors").keys()
    assert not any(".parametrizations." in key for key in keys)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_sixteen_bit_storage(tmp_path, saved, model, small_codec, stored):
    tokenizer = load_tokenizer(saved, CONFIG["vocab_size"])
    save_checkpoint(tmp_path, model, small_codec, tokenizer, dtype=stored)
    on_disk = load_file(tmp_path / "model.safetensors")
    checkpoint = load_checkpoint(tmp_path, dtype="float32")
    for key, tensor in checkpoint.model.state_dict().items():
        assert on_disk[key].dtype == (stored if tensor.dim() > 1 else torch.float32)
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, model.state_dict()[key], atol=1e-4, rtol=2**-7)
    assert all(weight.dtype == torch.float32 for weight in checkpoint.codec.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("is_fast", "head"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_in_pytorch(saved, model, monkeypatch, is_fast, head):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: is_fast)
    monkeypatch.setattr("models.westlake.checkpoint.load_library", lambda: None)
    checkpoint = load_checkpoint(saved, dtype="bfloat16")
    assert checkpoint.dtype == "bfloat16"
    assert all(weight.dtype == torch.bfloat16 for weight in checkpoint.model.parameters())
    for name, weight in checkpoint.codec.named_parameters():  # the codes stay exact
        assert weight.dtype == (head if name.startswith("head.") else torch.float32)
    vocoder = checkpoint.codec.head
    assert vocoder.packed is None
    assert (vocoder.conv_pre.packed is not None) == is_fast
    logits, _ = checkpoint.model(torch.ones(1, 9, 4, dtype=torch.long))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("is_fast", [True, False])
def test_the_codec_decodes_in_c(saved, monkeypatch, is_fast):
    library = load_library()
    if library is None:
        pytest.skip("there is no library on this CPU")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: is_fast)
    codec = load_checkpoint(saved, dtype="bfloat16").codec
    assert codec.head.packed is not None
    assert {weight.dtype for weight in codec.head.parameters()} == {sample_dtype(library)}
    assert load_checkpoint(saved, dtype="float32").codec.head.packed is None


def test_tiny_is_the_default(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("models.hub.TINY", saved)
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint().name == "tiny"


def test_other_programs_keys_in_the_generation_config_are_none_of_ours(folder):
    change_json(folder / "generation_config.json", do_sample=True, eos_token_id=[1, 2])
    assert load_checkpoint(folder, dtype="float32").sampling.top_p == 0.9
    (folder / "generation_config.json").unlink()
    assert load_checkpoint(folder, dtype="float32").sampling == SamplingConfig()


def sharded(folder: Path, weights: dict[str, torch.Tensor], stem: str, suffix: str) -> None:
    """Cut in two, with an index, as other tools write large checkpoints."""
    names = [f"{stem}-{i:05d}-of-00002.{suffix}" for i in (1, 2)]
    keys = list(weights)
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    for name, half in zip(names, halves):
        part = {key: weights[key].contiguous() for key in half}
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(
            part, folder / name
        )
    where = {key: name for name, half in zip(names, halves) for key in half}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("form", ["bin", "sharded bin", "sharded safetensors"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.model."])
def test_files_of_other_tools(folder, form, prefix):
    weights = {prefix + key: tensor for key, tensor in published_weights().items()}
    weights[f"{prefix}freqs_cis"] = torch.zeros(4, 2)
    weights[f"{prefix}causal_mask"] = torch.zeros(4, 4)
    (folder / "model.safetensors").unlink()
    if form == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif form == "sharded bin":
        sharded(folder, weights, "pytorch_model", "bin")
    else:
        sharded(folder, weights, "model", "safetensors")
    change_json(folder / "config.json", model_type="dual_ar", architectures=["X"], dtype="float32")
    loaded = load_checkpoint(folder, dtype="float32")
    assert equal_weights(loaded.model, rename_dual_ar(published_weights()))
    assert load_model(folder).family == "westlake"


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_the_fingerprint_is_of_all_shards(folder, suffix):
    """The index is the same whatever the weights are."""
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weights = published_weights()
    found = []
    for scale in (1.0, 1.0, 0.5):
        sharded(folder, weights | {"norm.weight": scale * weights["norm.weight"]}, stem, suffix)
        found.append(load_checkpoint(folder, dtype="float32").fingerprint)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ["model.safetensors", "codec.safetensors"])
def test_the_fingerprint_is_of_the_model_and_the_codec(folder, name):
    before = load_checkpoint(folder, dtype="float32").fingerprint
    assert load_checkpoint(folder, dtype="float32").fingerprint == before
    weights = load_file(folder / name)
    key = next(iter(weights))
    save_file(weights | {key: 0.5 * weights[key]}, folder / name)
    assert load_checkpoint(folder, dtype="float32").fingerprint != before


def test_a_model_of_an_unknown_family(folder):
    change_json(folder / "config.json", model_type="llama")
    with pytest.raises(UserError, match="model_type 'llama'.*westlake"):
        load_model(folder)


def test_the_contract_of_a_loaded_model(saved):
    model = load_model(saved, dtype="float32")
    assert isinstance(model, WestlakeModel)
    assert (model.device, model.dtype, model.family) == ("cpu", "float32", "westlake")
    assert (model.emotions, model.styles, model.voices) == (("sad", "happy"), ("calm",), ())
    assert model.accepts == {"audio", "text"}
    assert model.sample_rate / model.frame_rate == model.checkpoint.codec.config.samples_per_frame
    names = [field.name for field in model.sampling_fields]
    assert names == ["temperature", "top_p", "repetition_penalty"]
    for field in model.sampling_fields:
        for value in (field.low, field.high):
            dataclasses.replace(model.sampling, **{field.name: value})
