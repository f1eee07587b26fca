"""The language model equals the published one, with and without a cache."""

import resource
from pathlib import Path

import pytest
import torch
from parity import ASSETS, SEMANTIC_ID, golden_dual_ar, load_json, seeded_state_dict
from safetensors.torch import load_file

from models.westlake.dual_ar import DualARConfig, DualARTransformer, KVCache
from models.westlake.published import rename_dual_ar

STATM = Path("/proc/self/statm")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return seeded_state_dict(load_json("dual_ar_a_state_dict.json"))


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(ASSETS / "dual_ar_a.safetensors")


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return golden_dual_ar()


@pytest.fixture(scope="module")
def prompt(golden) -> torch.Tensor:
    return golden["prompt"].long()


def test_slow_stack_equals_published(model, prompt, golden):
    logits, hidden = model(prompt[None])
    torch.testing.assert_close(logits[0], golden["slow_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden[0], golden["slow_hidden"], atol=1e-4, rtol=0)


def test_fast_stack_equals_published(model, golden):
    hidden = golden["slow_hidden"][-1:]
    codes = golden["fast_codes"][None]
    logits = model.forward_fast(hidden, codes[:, :-1])[0]
    torch.testing.assert_close(logits, golden["fast_logits"], atol=1e-4, rtol=0)


def test_fast_steps_equal_teacher_forcing(model):
    hidden = torch.randn(3, model.config.dim)
    codes = torch.randint(1, model.config.codebook_size, (3, model.config.num_codebooks - 1))
    cache = model.new_fast_cache(3)
    inputs = [hidden, *model.fast_embeddings(codes).unbind(1)]
    steps = torch.stack([model.step_fast(x, cache) for x in inputs], dim=1)
    torch.testing.assert_close(steps, model.forward_fast(hidden, codes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [7, 1, 15], [22, 1]])
def test_prefill_in_chunks_equals_no_cache(model, prompt, sizes):
    cache = model.new_cache(23)
    chunks = [model(chunk[None], [cache])[0] for chunk in prompt.split(sizes, dim=1)]
    assert cache.length == 23 and cache.free == 0
    torch.testing.assert_close(torch.cat(chunks, 1), model(prompt[None])[0], atol=1e-4, rtol=0)


def test_the_future_never_changes_the_past(model, prompt):
    changed = prompt.clone()
    changed[:, 12:] = SEMANTIC_ID
    before, after = model(prompt[None])[0], model(changed[None])[0]
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_codes_are_read_only_beneath_semantic(model, prompt):
    beneath_text = prompt[0] != SEMANTIC_ID
    changed = prompt.clone()
    changed[1:, beneath_text] = 77
    assert torch.equal(model(prompt[None])[0], model(changed[None])[0])
    changed[1:, ~beneath_text] = 77
    assert not torch.equal(model(prompt[None])[0], model(changed[None])[0])


def test_rows_at_different_positions_equal_each_alone(model, prompt):
    lengths = [3, 20, 11]
    columns = prompt[:, -2:]
    caches = [model.new_cache(40) for _ in lengths]
    alone = []
    for cache, length in zip(caches, lengths, strict=True):
        model(prompt[None, :, :length], [cache])
        alone.append(model(columns[None], [cache])[0])
        cache.truncate(length)
    together = model(columns.expand(3, -1, -1), caches)[0]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    assert [cache.length for cache in caches] == [5, 22, 13]


def test_state_dict_keys_are_the_published_ones(model, published):
    renamed = rename_dual_ar(published)
    assert {k: v.shape for k, v in renamed.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert rename_dual_ar(renamed).keys() == renamed.keys()


def test_older_and_prefixed_keys(published):
    older = {}
    for key, tensor in reversed(published.items()):
        if "wqkv" in key:
            for name, part in zip(("wv", "wq", "wk"), (2, 0, 1), strict=True):
                older["model." + key.replace("wqkv", name)] = tensor.chunk(3)[part]
        else:
            older["model." + key] = tensor
    expected = rename_dual_ar(published)
    renamed = rename_dual_ar(older)
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match=r"norm\.weight"):
        rename_dual_ar({"norm.weight": torch.ones(1), "model.norm.weight": torch.ones(1)})


@torch.no_grad()
def test_untied_head_and_meta_device(model):
    values = {**load_json("dual_ar_a_config.json"), "tie_word_embeddings": False}
    with torch.device("meta"):
        untied = DualARTransformer(DualARConfig(**values), SEMANTIC_ID)
    weights = {**model.state_dict(), "lm_head.weight": -model.embed_tokens.weight}
    untied.load_state_dict(weights, strict=True, assign=True)
    hidden = torch.randn(1, 4, model.config.dim)
    assert torch.equal(untied.text_logits(hidden), -model.text_logits(hidden))
    assert torch.equal(untied.layers(hidden), model.layers(hidden))


def test_trains(model, prompt):
    config = DualARConfig(**{**load_json("dual_ar_a_config.json"), "dropout": 0.1})
    fresh = DualARTransformer(config, SEMANTIC_ID).train()
    assert 0.019 < fresh.embed_tokens.weight.std() < 0.021
    logits, hidden = fresh(prompt[None])
    fast = fresh.forward_fast(hidden[0, :-1], prompt.T[1:, 1:-1])
    (logits.logsumexp(-1).sum() + fast.logsumexp(-1).sum()).backward()
    assert all(parameter.grad is not None for parameter in fresh.parameters())


def test_bfloat16_stays_close(model, prompt):
    half = DualARTransformer(model.config, SEMANTIC_ID)
    half.load_state_dict(model.state_dict())
    half = half.bfloat16().eval()
    logits, _ = half(prompt[None], [half.new_cache(40)])
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - model(prompt[None])[0]).abs().mean() < 0.1


def test_config_derives_and_checks():
    values = load_json("dual_ar_a_config.json")
    config = DualARConfig(**values)
    assert config.head_dim == 16
    assert config.fast.n_local_heads == 4 and config.slow.n_local_heads == 2
    plain = DualARConfig(vocab_size=9, n_layer=1, n_head=2, dim=8, intermediate_size=24)
    assert plain.n_local_heads == plain.n_local_heads_fast == 2
    assert plain.intermediate_size_fast == 24
    with pytest.raises(TypeError, match="unexpected.*colour"):
        DualARConfig(**values, colour=1)
    with pytest.raises(TypeError, match="missing.*dim"):
        DualARConfig(vocab_size=9)
    for wrong in ({"n_head": 3}, {"n_local_heads": 3}, {"head_dim": 8}, {"max_seq_len": 0}):
        with pytest.raises(ValueError):
            DualARConfig(**{**values, **wrong})


def test_cache_checks(model):
    with pytest.raises(ValueError, match="1 to 256"):
        model.new_cache(257)
    cache = KVCache(model.config, 10)
    cache.advance(4)
    with pytest.raises(ValueError, match="4 positions to 5"):
        cache.truncate(5)
    cache.reset()
    assert cache.length == 0
    with pytest.raises(ValueError, match=r"11 new positions.*room for 10"):
        model(torch.zeros(1, 9, 11, dtype=torch.long), [cache])
    with pytest.raises(ValueError, match="room for 256"):
        model(torch.zeros(1, 9, 257, dtype=torch.long))


@pytest.mark.skipif(not STATM.is_file(), reason="the system doesn't tell a process's memory so")
def test_a_cache_takes_memory_only_as_it_is_filled():
    config = DualARConfig(
        vocab_size=9, n_layer=4, n_head=4, dim=256, intermediate_size=8, max_seq_len=8192
    ).slow
    before = resident_bytes()
    cache = KVCache(config, 8192)
    for layer in range(config.n_layer):
        cache.append(layer, torch.ones(1, 8, 100, 64))
    size = sum(layer.nbytes for layer in cache._layers)
    assert resident_bytes() - before < size / 10


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def test_semantic_id_must_be_in_the_vocabulary(model):
    with pytest.raises(ValueError, match="semantic_id 300"):
        DualARTransformer(model.config, 300)
