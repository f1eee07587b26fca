"""The language model equals the published one, with and without a cache."""

import pytest
import torch
from parity import ASSETS, load_json, seeded_state_dict
from safetensors.torch import load_file

from models.checkpoint import rename_dual_ar
from models.dual_ar import (
    DualARConfig,
    DualARTransformer,
    KVCache,
    Reply,
    SamplingConfig,
    generate_tokens,
    next_frames,
)

SEMANTIC_ID = 5
GREEDY = {"top_p": 1e-6, "temperature": 0.7}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return seeded_state_dict(load_json("dual_ar_a_state_dict.json"))


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(ASSETS / "dual_ar_a.safetensors")


@pytest.fixture(scope="module")
def model(published) -> DualARTransformer:
    model = DualARTransformer(DualARConfig(**load_json("dual_ar_a_config.json")), SEMANTIC_ID)
    model.load_state_dict(rename_dual_ar(published), strict=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def prompt(golden) -> torch.Tensor:
    return golden["prompt"].long()


def reply_to(model, prompt, num_frames=6, end_id=None, *, cache=None, forced=(), **sampling):
    settings = SamplingConfig(**{"seed": 1, **sampling})
    frames = generate_tokens(
        model, prompt, num_frames, settings, end_id, cache=cache, forced=forced
    )
    return torch.stack([prompt.new_zeros(len(prompt)), *frames], dim=1)[:, 1:]


def without_pads(frames):
    """Each code 0 replaced by the codebook's code before."""
    frames = frames.clone()
    for t in range(1, frames.shape[1]):
        frames[:, t] = torch.where(frames[:, t] == 0, frames[:, t - 1], frames[:, t])
    return frames


def test_slow_stack_equals_published(model, prompt, golden):
    logits, hidden = model(prompt[None])
    torch.testing.assert_close(logits[0], golden["slow_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden[0], golden["slow_hidden"], atol=1e-4, rtol=0)


def test_fast_stack_equals_published(model, golden):
    hidden = golden["slow_hidden"][-1:]
    codes = golden["fast_codes"][None]
    logits = model.forward_fast(hidden, codes[:, :-1])[0]
    torch.testing.assert_close(logits, golden["fast_logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_greedy_frames_equal_published(model, prompt, golden, penalty):
    frames = reply_to(model, prompt, 40, repetition_penalty=penalty, **GREEDY)
    expected = golden[f"greedy_penalty_{penalty}".replace(".", "_")].long()
    assert torch.equal(frames, without_pads(expected))


def test_greedy_frames_need_no_cache(model, prompt):
    frames = reply_to(model, prompt, 5, repetition_penalty=1.0, **GREEDY)
    grid = torch.cat([prompt, frames], dim=1)
    logits, hidden = model(grid[None])
    starts = range(prompt.shape[1] - 1, grid.shape[1] - 1)
    for column, start in zip(frames.T, starts, strict=True):
        assert column[0] == logits[0, start].argmax()
        fast = model.forward_fast(hidden[:, start], column[None, 1:-1])
        assert torch.equal(column[1:], fast[0].argmax(-1))


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


def test_replies_that_join_and_leave_equal_each_alone(model, prompt):
    asked = [
        (prompt, 8, SamplingConfig(seed=1)),
        (prompt[:, 5:], 3, SamplingConfig(seed=2, temperature=1.5, top_p=0.9)),
        (prompt[:, :1], 6, SamplingConfig(seed=3, repetition_penalty=1.9)),
    ]
    replies = [Reply(model, *ask) for ask in asked]
    made = [[], [], []]
    for step in range(8):
        joined = [row for row in range(3) if row <= step and not replies[row].ended]
        for row, frame in zip(
            joined, next_frames(model, [replies[row] for row in joined]), strict=True
        ):
            made[row].append(frame)
    for frames, ask in zip(made, asked, strict=True):
        alone = list(generate_tokens(model, *ask))
        assert torch.equal(torch.stack(frames), torch.stack(alone))


def test_one_reply_ends_while_another_goes_on(model, prompt):
    other = prompt[:, 5:]
    free = reply_to(model, other, 6, seed=2)
    end_id = next(int(id) for id in free[0, 1:] if id != free[0, 0])
    end = free[0].tolist().index(end_id)
    ending = Reply(model, other, 6, SamplingConfig(seed=2), end_id)
    going = Reply(model, prompt, 6, SamplingConfig(seed=1))
    frames = [next_frames(model, [ending, going]) for _ in range(end + 1)]
    assert frames[-1][0] is None and ending.ended and not going.ended
    frames += [next_frames(model, [going]) for _ in range(5 - end)]
    assert torch.equal(torch.stack([step[-1] for step in frames], 1), reply_to(model, prompt, 6))


def test_the_seed_decides_and_replies_do_not_disturb_each_other(model, prompt):
    first = reply_to(model, prompt, temperature=1.5, top_p=0.95)
    settings = SamplingConfig(temperature=1.5, top_p=0.95, seed=1)
    pairs = zip(*(generate_tokens(model, prompt, 6, settings) for _ in range(2)), strict=True)
    for t, (left, right) in enumerate(pairs):
        torch.manual_seed(t)
        assert torch.equal(left, first[:, t]) and torch.equal(right, first[:, t])
    assert not torch.equal(first, reply_to(model, prompt, temperature=1.5, top_p=0.95, seed=2))
    fresh = [reply_to(model, prompt, temperature=1.5, top_p=0.95, seed=None) for _ in range(2)]
    assert not torch.equal(*fresh)


def test_end_token_ends_the_reply(model, prompt):
    settings = {"repetition_penalty": 1.2, **GREEDY}
    free = reply_to(model, prompt, 20, **settings)
    first, later = int(free[0, 0]), int(free[0, 18])
    assert first != later, "the golden reply says something else at frame 18"
    assert reply_to(model, prompt, 20, first, **settings).shape[1] == 0
    assert torch.equal(reply_to(model, prompt, 20, later, **settings), free[:, :18])


@pytest.mark.parametrize("stop", ["end token", "max_new_tokens"])
def test_a_conversation_goes_on_in_its_cache(model, prompt, stop):
    settings = {"repetition_penalty": 1.2, **GREEDY}
    end_id = int(reply_to(model, prompt, 20, **settings)[0, 18])
    num_frames = 20 if stop == "end token" else 4
    cache = model.new_cache()
    reply = reply_to(model, prompt, num_frames, end_id, cache=cache, **settings)
    assert cache.length == prompt.shape[1] + reply.shape[1]
    turn = prompt[:, :7]
    continued = reply_to(model, turn, 3, cache=cache, **settings)
    whole = reply_to(model, torch.cat([prompt, reply, turn], dim=1), 3, **settings)
    assert torch.equal(continued, whole)


def test_forced_text_takes_the_place_of_the_sampled(model, prompt):
    free = reply_to(model, prompt, 3)
    forced = reply_to(model, prompt, 3, int(free[0, 1]), forced=(None, 42))
    assert torch.equal(forced[:, 0], free[:, 0])
    assert forced[0, 1] == 42
    assert reply_to(model, prompt, 3, 42, forced=(None, 42)).shape[1] == 1


def test_code_0_never_escapes(model, prompt):
    class OnlyPads(DualARTransformer):
        def step_fast(self, x, cache):
            logits = torch.zeros_like(super().step_fast(x, cache))
            logits[:, 0] = 100
            return logits

    rigged = OnlyPads(model.config, SEMANTIC_ID)
    rigged.load_state_dict(model.state_dict())
    assert torch.equal(reply_to(rigged, prompt, 4)[1:], torch.ones(8, 4, dtype=torch.long))


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
    cache = half.new_cache(40)
    logits, _ = half(prompt[None], [cache])
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - model(prompt[None])[0]).abs().mean() < 0.1
    assert reply_to(half, prompt, 2).shape == (9, 2)


def test_config_derives_and_checks():
    values = load_json("dual_ar_a_config.json")
    config = DualARConfig.from_dict(values)
    assert config == DualARConfig(**values) and config.head_dim == 16
    assert config.fast.n_local_heads == 4 and config.slow.n_local_heads == 2
    plain = DualARConfig(vocab_size=9, n_layer=1, n_head=2, dim=8, intermediate_size=24)
    assert plain.n_local_heads == plain.n_local_heads_fast == 2
    assert plain.intermediate_size_fast == 24
    with pytest.raises(ValueError, match="unknown keys.*colour"):
        DualARConfig.from_dict({**values, "colour": 1})
    with pytest.raises(ValueError, match="missing.*dim"):
        DualARConfig.from_dict({"vocab_size": 9})
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
    with pytest.raises(ValueError, match="11 new positions.*room for 10"):
        model(torch.zeros(1, 9, 11, dtype=torch.long), [cache])
    with pytest.raises(ValueError, match="room for 256"):
        model(torch.zeros(1, 9, 257, dtype=torch.long))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": torch.zeros(8, 3, dtype=torch.long)}, r"\[8, 3\].*\[9, T\]"),
        ({"prompt": torch.zeros(9, 0, dtype=torch.long)}, "T >= 1"),
        ({"prompt": torch.zeros(9, 3)}, "float32.*integers"),
        ({"prompt": torch.full((9, 3), 300)}, "text tokens.*300.*0 to 299"),
        ({"prompt": torch.full((9, 3), -1)}, "text tokens.*-1"),
        ({"prompt": torch.cat([torch.zeros(1, 3), torch.full((8, 3), 1024)]).long()}, "codes"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 254}, "prompt of 3.*256"),
        ({"forced": (None, 300)}, "forced"),
    ],
)
def test_wrong_requests_are_refused_at_once(model, change, message):
    request = {"prompt": torch.zeros(9, 3, dtype=torch.long), "max_new_tokens": 2, **change}
    with pytest.raises(ValueError, match=message):
        generate_tokens(model, sampling=SamplingConfig(), **request)


def test_semantic_id_must_be_in_the_vocabulary(model):
    with pytest.raises(ValueError, match="semantic_id 300"):
        DualARTransformer(model.config, 300)
