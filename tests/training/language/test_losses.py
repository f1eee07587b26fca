"""What the language model is trained by: its losses, what it reads, the heads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recipe import collate

from training.language import losses as loss_module
from training.language.batch import Labels
from training.language.conversations import Conversations
from training.language.heads import Heads
from training.language.losses import _change_voice, _corrupt, _jitter, _mask, losses, words_loss
from training.language.model import (
    code_numbers,
)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model reads what was drawn, without errors."""
    monkeypatch.setattr(loss_module, "_corrupt", lambda tokens, size, share: tokens)
    monkeypatch.setattr(loss_module, "_jitter", lambda tokens: tokens)
    for name in ("_change_voice", "_mask"):
        monkeypatch.setattr(loss_module, name, lambda tokens, users: tokens)


def test_corrupted_codes_are_a_share_of_them():
    torch.manual_seed(0)
    grid = torch.full((4, 9, 200), 7)
    found = _corrupt(grid, 1001, 0.25)
    assert (found[:, 0] == 7).all() and found.min() >= 1 and found.max() <= 1000
    assert (found[:, 1:] != 7).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(_corrupt(grid, 1001, 0.0), grid)
    share = torch.zeros(4, 1, 200)
    share[:, :, 100:] = 1.0
    by_column = _corrupt(grid, 1001, share)
    assert torch.equal(by_column[..., :100], grid[..., :100])


def test_jittered_codes_are_neighbours():
    torch.manual_seed(0)
    grid = torch.randint(0, 1001, (2, 9, 50))
    moved, numbers = _jitter(grid, 1.0), code_numbers()
    assert torch.equal(moved[:, 0], grid[:, 0])
    assert torch.equal(moved[:, 1:] == 0, grid[:, 1:] == 0)  # the pad is no code
    codes = grid[:, 1:] > 0
    steps = numbers[grid[:, 1:][codes] - 1] - numbers[moved[:, 1:][codes] - 1]
    assert set(steps.abs().sum(dim=1).tolist()) == {0, 1}
    assert (steps.abs().sum(dim=1) == 1).float().mean() > 0.7  # the outermost stay at times
    assert torch.equal(_jitter(grid, 0.0), grid)


def test_masked_codes_are_whole_codebooks_and_frames_of_the_users(monkeypatch):
    monkeypatch.setattr(loss_module, "MASKED_CODEBOOK_SHARE", 0.2)
    torch.manual_seed(0)
    grid = torch.randint(1, 1001, (16, 9, 60))
    users = torch.zeros(16, 60, dtype=torch.bool)
    users[:, :40] = True
    found = _mask(grid, users)
    assert torch.equal(found[:, 0], grid[:, 0]) and torch.equal(found[:, :, 40:], grid[:, :, 40:])
    masked = found[:, 1:, :40] == 0
    assert torch.equal(found[:, 1:, :40][~masked], grid[:, 1:, :40][~masked])
    codebooks, frames = masked.all(dim=2, keepdim=True), masked.all(dim=1, keepdim=True)
    assert torch.equal(masked, codebooks | frames)
    assert 0.05 < codebooks.float().mean() < 0.4 and 0.005 < frames.float().mean() < 0.1


def test_a_voice_is_changed_alike_in_all_its_frames(monkeypatch):
    monkeypatch.setattr(loss_module, "VOICE_SPREAD", 2.0)
    torch.manual_seed(0)
    code = 1 + 4 + 8 * (2 + 5 * (2 + 5 * 2))  # in the middle of all its levels
    grid = torch.full((4, 9, 50), code)
    grid[:, :, 40:] = 0
    users = torch.zeros(4, 50, dtype=torch.bool)
    users[:, :30] = True
    found = _change_voice(grid, users)
    assert torch.equal(found[:, 0], grid[:, 0])
    assert torch.equal(found[:, :, 30:], grid[:, :, 30:])  # replies, and the pad
    assert (found[:, 1:, :30] == found[:, 1:, :1]).all()
    assert 0.3 < (found[:, 1:, 0] != code).float().mean() < 1
    assert found[:, 1:, :30].min() >= 1 and found.max() <= 1000


@pytest.mark.usefixtures("untouched")
def test_losses_are_the_cross_entropy_of_what_is_learned(
    model, labels: Labels, conversations: Conversations
):
    examples = [conversations.draw(np.random.default_rng(n)) for n in range(2)]
    with torch.no_grad():
        text_loss, code_loss = losses(model, collate(labels, examples))
        texts, codes, spoken = [], [], 0
        for e in examples:
            hidden = model.forward_hidden(e.grid[None, :, :-1])[0]
            for column in range(1, e.grid.shape[1]):
                if e.learn_text[column]:
                    row = model.text_logits(hidden[column - 1]).log_softmax(-1)
                    texts.append(-row[e.grid[0, column]] * e.learn_text[column])
                    spoken += int(e.grid[0, column] == conversations.tokens.semantic)
                if e.learn_codes[column]:
                    heard = e.grid[1:, column]
                    rows = model.forward_fast(hidden[None, column - 1], heard[None, :-1])[0]
                    codes.append(torch.nn.functional.cross_entropy(rows, heard))
    # Speech between the words counts in the loss, not in its divisor.
    expected = torch.stack(texts).sum() / (len(texts) - spoken)
    torch.testing.assert_close(text_loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(code_loss, torch.stack(codes).mean(), rtol=1e-4, atol=1e-4)


def test_losses_of_bfloat16_are_float32(model, labels: Labels, conversations: Conversations):
    examples = [conversations.draw(np.random.default_rng(n), speak=False) for n in range(2)]
    spoken = [conversations.draw(np.random.default_rng(0))]
    heads = Heads(model, labels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = words_loss(model, heads, collate(labels, examples))
        both = losses(model, collate(labels, spoken))
    assert [loss.dtype for loss in (found, *both)] == [torch.float32] * 3


def test_the_words_and_the_heads_are_learned(
    model,
    labels: Labels,
    conversations: Conversations,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("training.language.conversations.SPACED_SHARE", 0.3)
    torch.manual_seed(0)
    heads = Heads(model, labels)
    rng = np.random.default_rng(0)
    batch = collate(labels, [conversations.draw(rng, speak=False) for _ in range(14)])
    optimizer = torch.optim.Adam([*model.parameters(), *heads.parameters()], 1e-2)
    first = None
    for _ in range(25):
        loss = words_loss(model, heads, batch)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first
    for head in (heads.question_head, heads.hearing_head, heads.speaking_head):
        assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0


def test_what_is_spelled_is_told_once_in_any_columns(model, tokenizer, labels: Labels):
    heads = Heads(model, labels)
    torch.manual_seed(0)
    last = torch.randn(2, 6, model.config.dim)
    vocab = tokenizer.get_vocab()
    ids = [model.semantic_id, *(id for token, id in vocab.items() if "<|heard:" in token)]
    ni, nothing = ids.index(vocab["<|heard:ni|>"]), 0
    batch = SimpleNamespace(
        spelled_places=torch.tensor([[1, 2, 3, 4], [8, 9, 10, 10]]).T,
        spelled_lengths=torch.tensor([4, 3]),
        spelling_lengths=torch.tensor([1, 0]),
        spelled=torch.tensor([labels.heard["ni"]]),
    )
    with torch.no_grad():
        found = heads._spelling_loss(batch, last.flatten(0, 1))
        probabilities = model.text_logits(last)[:, :, ids].softmax(-1)
    # 你 takes any run of the four columns; of the other speech nothing is told.
    runs = [range(start, end) for start in range(4) for end in range(start + 1, 5)]
    first = probabilities[0, 1:5]
    said = sum(
        torch.stack([first[t, ni if t in run else nothing] for t in range(4)]).prod()
        for run in runs
    )
    silent = probabilities[1, 2:5, nothing].prod()
    torch.testing.assert_close(found, -(said.log() + silent.log()))


@pytest.mark.parametrize("speak", [True, False])
def test_only_the_users_voice_is_changed(
    model, labels: Labels, conversations: Conversations, monkeypatch, speak: bool
):
    monkeypatch.setattr("training.language.conversations.SPACED_SHARE", 1.0)
    examples = [conversations.draw(np.random.default_rng(n), speak) for n in range(6)]
    changed = []
    for name in ("_change_voice", "_mask"):
        monkeypatch.setattr(loss_module, name, lambda grid, users: changed.append(users) or grid)
    batch = collate(labels, examples)
    with torch.no_grad():
        losses(model, batch) if speak else words_loss(model, Heads(model, labels), batch)
    users, masked = changed
    assert torch.equal(users, masked)
    for row, example in zip(users, examples):
        begins = [column + 1 for column, _ in example.asked]
        ends = [column + len(names) for column, names in example.said]
        for begin, end in zip(begins, ends):
            assert row[begin - 1] and not row[begin : end + 1].any()
        heard = [range(start, start + len(names)) for start, names in example.heard]
        assert all(row[column] for columns in heard for column in columns)
