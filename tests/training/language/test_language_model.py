"""The language model: its codes, its start, what it understands."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.tokenizer import save_tokenizer
from models.westlake.dual_ar import DualARTransformer
from training.codec.config import new_codec
from training.language import model as model_module
from training.language.conversations import Conversations
from training.language.model import (
    code_numbers,
    new_language_model,
    separate_levels,
    share_levels,
    start_language_model,
    understanding,
)


def test_code_numbers_are_the_quantisers():
    numbers = new_codec().quantizer.residual_fsq.rvqs[0].numbers(torch.arange(1000))
    half = torch.tensor([4.0, 2.0, 2.0, 2.0])
    torch.testing.assert_close((code_numbers() - half) / half, numbers)


def test_codes_of_like_numbers_begin_alike(model):
    rows = model.fast_embeddings.weight.detach()[1:]
    near = torch.nn.functional.cosine_similarity(rows[:-1], rows[1:]).mean()
    far = torch.nn.functional.cosine_similarity(rows[:500], rows[500:]).mean()
    assert near > far + 0.2


def test_what_a_level_means_is_shared_by_all_codes_that_have_it(model):
    before = model.codebook_embeddings.weight.detach().clone()
    shared = share_levels(model).codebook_embeddings
    numbers = sum(p.numel() for p in shared.parameters())
    assert numbers == 8 * (8 + 5 + 5 + 5) * model.config.dim < before.numel()
    grid = torch.zeros(1, 9, 1, dtype=torch.long)
    grid[0, 0], grid[0, 1:] = model.semantic_id, 1 + 3
    model.forward_hidden(grid).sum().backward()
    own = shared.parametrizations.weight.original.grad
    # Code 3 has the levels 3, 0, 0, 0.
    assert own.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [3, 8, 13, 18]
    weight = shared.weight.detach().clone()
    assert torch.equal(separate_levels(model).codebook_embeddings.weight, weight)
    assert "codebook_embeddings.weight" in model.state_dict()
    # Sharing once more changes nothing.
    torch.testing.assert_close(share_levels(model).codebook_embeddings.weight, weight)


def save_start(folder: Path, model, tokenizer) -> Path:
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    save_tokenizer(folder, tokenizer.backend)
    return folder


def test_a_start_is_taken_over_but_for_codes(tmp_path: Path, model, tokenizer):
    start = save_start(tmp_path / "start", new_language_model(tokenizer, seed=1), tokenizer)
    other = new_language_model(tokenizer, seed=1).state_dict()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    start_language_model(model, tokenizer, start)
    for name, weight in model.state_dict().items():
        taken = "layers" in name or name == "embed_tokens.weight"
        assert torch.equal(weight, (other if taken else before)[name]), name


def test_nothing_is_taken_over_from_a_start_of_another_width(
    tmp_path: Path, model, tokenizer, monkeypatch: pytest.MonkeyPatch
):
    config = replace(model.config, dim=16, head_dim=8)
    start = save_start(tmp_path / "start", DualARTransformer(config, model.semantic_id), tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    told = []
    monkeypatch.setattr(model_module.logger, "warning", told.append)
    start_language_model(model, tokenizer, start)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert told == [f"{start}: its language model is 16 wide, not 32: nothing of it is taken over"]


def test_understanding_is_counted(model, conversations: Conversations, spoken_users, monkeypatch):
    users = [u for u in spoken_users if u.intent == "talk.hello" and u.manner == "happy"]
    tokenizer = conversations.tokenizer
    script = tokenizer.encode("<|user:happy|><|style:cheerful|><|topic:talk.hello|>你好呀！")
    said = []

    def text_logits(hidden):
        logits = torch.zeros(1, len(tokenizer))
        logits[0, script[len(said) % len(script)]] = 9.0
        said.append(1)
        return logits

    monkeypatch.setattr(model_module, "MAX_WORDS", 100)
    monkeypatch.setattr(model, "text_logits", text_logits)
    found = understanding(model, conversations, users[:2])
    assert found == {"emotion": 1.0, "intent": 1.0}
