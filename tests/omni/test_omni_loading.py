"""Published folders of Qwen2.5-Omni load strictly and quietly; what is wrong is named."""

import logging
import os
import pickle
import shutil

import pytest
import torch
from omni_damage import change_config, change_weights, refused
from omni_small import ID, small_model, write_folder
from omni_talk import LONG, ask

from models.errors import UserError
from models.load import load_model
from models.omni.config import quiet
from models.omni.folder import read_voices
from models.omni.speech_model import OmniModel, load_omni


def test_the_family_is_told_by_the_config_and_loading_is_quiet(folder, capfd, caplog):
    model = load_model(folder)
    assert isinstance(model, OmniModel) and model.family == "omni"
    assert model.voices == ("Chelsie", "Ethan")
    assert model.accepts == {"audio", "text", "image", "video"}
    assert (model.sample_rate, model.frame_rate) == (24_000, 50)
    ask(model, text=LONG, frames=3)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "") and caplog.records == []


def test_what_transformers_warns_of_is_kept_back(copy):
    """A token that the vocabulary lacks, as published configs have some."""
    change_config(
        copy, lambda config: config["thinker_config"]["text_config"].update(bos_token_id=151_643)
    )
    logger, records = logging.getLogger("transformers"), []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        load_omni(copy, "cpu", "auto", None)
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def test_every_part_is_the_published_one(omni, published):
    checkpoint, thinker = omni.checkpoint, published.thinker
    parts = {
        checkpoint.language_model: thinker.model,
        checkpoint.lm_head: thinker.lm_head,
        checkpoint.audio_tower: thinker.audio_tower,
        checkpoint.vision_tower: thinker.visual,
        checkpoint.talker: published.talker,
        checkpoint.token2wav: published.token2wav,
    }
    for ours, theirs in parts.items():
        tensors = dict([*ours.named_parameters(), *ours.named_buffers()])
        expected = dict([*theirs.named_parameters(), *theirs.named_buffers()])
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert sum(map(torch.numel, published.parameters())) == omni.num_parameters


def test_shards_older_keys_and_fewer_bits(published, folder, copy):
    (copy / "model.safetensors").unlink()
    with quiet():
        published.save_pretrained(copy / "shards", max_shard_size="2MB")
    shards = sorted((copy / "shards").glob("*.safetensors*"))
    assert len(shards) > 3
    for path in shards:
        shutil.move(path, copy / path.name)

    def older(config):
        for part in (config["thinker_config"]["text_config"], config["talker_config"]):
            rope = part.pop("rope_parameters")
            part["rope_theta"] = rope["rope_theta"]
            part["rope_scaling"] = {
                "mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"
            }  # fmt: skip
        config["torch_dtype"] = config.pop("dtype")

    change_config(copy, older)
    model = load_omni(copy, "cpu", "bfloat16", None)
    assert model.dtype == "bfloat16"
    assert model.checkpoint.language_model.dtype == torch.bfloat16
    frequencies = published.thinker.model.rotary_emb.inv_freq
    assert torch.equal(model.checkpoint.language_model.rotary_emb.inv_freq, frequencies)
    for name, weight in model.checkpoint.token2wav.state_dict().items():
        assert torch.equal(weight, published.token2wav.state_dict()[name])
    assert len(ask(model, text=LONG, frames=12).codes) == 12
    (copy / sorted(path.name for path in copy.glob("model-*"))[1]).unlink()
    assert "model-00002" in refused(copy)


KEY = "thinker.audio_tower.conv1.weight"


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda weights: weights.pop(KEY), "lacks keys"),
        (lambda weights: weights.update({"thinker.foreign": torch.ones(1)}), "thinker.foreign"),
        (lambda weights: weights.update({KEY: torch.ones(2, 3)}), "[2, 3] where [32, 128, 3]"),
        (lambda weights: weights.update({KEY: weights[KEY].int()}), "I32"),
    ],
)
def test_wrong_weights_are_named(copy, change, fault):
    change_weights(copy, change)
    message = refused(copy)
    assert fault in message and ("foreign" in fault or KEY in message)
    assert "model.safetensors" in message


def test_tables_in_the_file_are_no_fault(copy):
    table = {"token2wav.code2wav_dit_model.rotary_embed.inv_freq": torch.ones(8)}
    change_weights(copy, lambda weights: weights.update(table))
    assert load_omni(copy, "cpu", "auto", None).checkpoint.token2wav is not None


@pytest.mark.parametrize(
    "name, content, fault",
    [
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"\1\2\3", "damaged"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../b"}}', "../b"),
        ("model.safetensors.index.json", "{}", "weight_map"),
        ("config.json", '{"model_type": "qwen2_5_omni"}', "thinker_config"),
        ("tokenizer.json", None, "no tokenizer"),
        ("spk_dict.pt", None, "has no spk_dict.pt"),
        ("spk_dict.pt", b"damaged", "spk_dict.pt can't be read"),
    ],
)
def test_files_that_are_missing_or_damaged_are_named(copy, name, content, fault):
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).unlink(missing_ok=True)
        (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert fault in refused(copy)


def test_the_tokenizer_must_be_the_model_s(copy):
    change_config(
        copy, lambda config: config["thinker_config"].update(audio_token_index=ID["<|IMAGE|>"])
    )
    assert "<|AUDIO|> the id 259, but config.json says audio_token_index 265" in refused(copy)


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(
    "voices, fault",
    [
        ({}, "by name"),
        ({"A": 1}, "'A' is a int"),
        ({"A": {"cond": torch.ones(1, 9)}}, "no cond of the shape [1, 8]"),
        ({"A": {"cond": torch.ones(1, 8), "ref_mel": torch.ones(1, 4, 79)}}, "no ref_mel"),
        ({"A": {"cond": torch.ones(1, 8), "ref_mel": torch.ones(1, 4, 80)}}, "no bos_token"),
    ],
)
def test_voices_are_checked(tmp_path, voices, fault):
    torch.save(voices, tmp_path / "spk_dict.pt")
    with pytest.raises(ValueError, match="spk_dict.pt") as caught:
        read_voices(tmp_path, 80, 8)
    assert fault in str(caught.value)


def test_no_code_is_run_from_the_voices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spk_dict.pt").write_bytes(pickle.dumps({"A": _Attack()}, protocol=2))
    with pytest.raises(ValueError, match="never run"):
        read_voices(tmp_path, 80, 8)
    assert not (tmp_path / "attacked").exists()


def test_unknown_voices_and_dtypes_are_told(omni, folder):
    for call, code in (
        (lambda: load_omni(folder, "tpu", "auto", None), "error_unknown_device"),
        (lambda: load_omni(folder, "cpu", "int3", None), "error_unknown_dtype"),
        (lambda: omni.voice("Nobody"), "error_unknown_voice"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.code == code


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_language_models_of_few_bits(tmp_path, dtype):
    published = small_model(inner=128, width=64)  # sizes that four bits fit
    with quiet():
        model = load_omni(write_folder(tmp_path, published), "cpu", dtype, None)
    answer = ask(model, text=LONG, frames=6)
    assert (model.dtype, len(answer.codes)) == (dtype, 6)
    layer = model.checkpoint.language_model.layers[0].mlp.down_proj
    assert layer.state_dict()["weight"].dtype in (torch.int8, torch.uint8)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = published.thinker.model.layers[0].mlp.down_proj(x.float())
    error = (layer(x).float() - exact).norm() / exact.norm()
    assert error < (0.02 if dtype == "int8" else 0.15)
    head, exact = model.checkpoint.lm_head, published.thinker.lm_head
    assert model.checkpoint._model.thinker.lm_head.weight.is_meta, "kept beside the few bits"
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert (head(x).float() - exact(x.float())).norm() / exact(x.float()).norm() < 0.02
    assert model.checkpoint.audio_tower.dtype == torch.bfloat16
