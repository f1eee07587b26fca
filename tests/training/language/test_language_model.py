"""The language model's losses, heads and batches."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.codec.config import new_codec
from training.dialogues import Dialogues
from training.language import losses as loss_module
from training.language import model as model_module
from training.language.batches import Corpus
from training.language.conversations import Conversations
from training.language.corpus import _write
from training.language.example import collate
from training.language.losses import _change_voice, _corrupt, _jitter, losses, words_loss
from training.language.model import (
    code_numbers,
    new_heads,
    new_language_model,
    separate_levels,
    share_levels,
    train_understanding,
    understanding,
)


@pytest.fixture
def model(tokenizer, small_models):
    return new_language_model(tokenizer)


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


def test_losses_are_the_cross_entropy_of_what_is_learned(
    model, conversations: Conversations, monkeypatch
):
    monkeypatch.setattr(loss_module, "_corrupt", lambda tokens, size, share: tokens)
    monkeypatch.setattr(loss_module, "_jitter", lambda tokens: tokens)
    monkeypatch.setattr(loss_module, "_change_voice", lambda tokens, users: tokens)
    examples = [conversations.draw(np.random.default_rng(n)) for n in range(2)]
    with torch.no_grad():
        text_loss, code_loss = losses(model, examples, "cpu", np.random.default_rng(0))
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


def test_losses_of_bfloat16_are_float32(
    model, tokenizer, conversations: Conversations, dialogues: Dialogues
):
    examples = [conversations.draw(np.random.default_rng(n), speak=False) for n in range(2)]
    spoken = [conversations.draw(np.random.default_rng(0))]
    heads = new_heads(model, tokenizer, dialogues)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = words_loss(model, heads, examples, "cpu")
        both = losses(model, spoken, "cpu", np.random.default_rng(0))
    assert [loss.dtype for loss in (found, *both)] == [torch.float32] * 3


def test_the_words_and_the_heads_are_learned(
    model,
    tokenizer,
    conversations: Conversations,
    dialogues: Dialogues,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("training.language.conversations.SPACED_SHARE", 0.3)
    torch.manual_seed(0)
    heads = new_heads(model, tokenizer, dialogues)
    rng = np.random.default_rng(0)
    examples = [conversations.draw(rng, speak=False) for _ in range(14)]
    grid, *_ = collate(examples)
    optimizer = torch.optim.Adam([*model.parameters(), *heads.parameters()], 1e-2)
    first = None
    for _ in range(25):
        loss = words_loss(model, heads, examples, "cpu")
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first
    for head in (heads.question_head, heads.hearing_head, heads.speaking_head):
        assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0


def write_corpus(work: Path, users, replies) -> None:
    for name, spoken in (("users", users), ("replies", replies), ("heldout_users", users[:6])):
        (work / name).mkdir(parents=True, exist_ok=True)
        _write(work / name / f"{len(list((work / name).iterdir()))}.pt", spoken)


def test_batches_are_drawn_by_their_number(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, small_models, no_converter
):
    write_corpus(tmp_path, spoken_users, spoken_replies)
    one, other = (Corpus(dialogues, tokenizer, tmp_path) for _ in range(2))
    whole = [one.batch(step, 3, 7, False) for step in range(5)]
    for step in (4, 1):
        for first, second in zip(whole[step], other.batch(step, 3, 7, False)):
            assert torch.equal(first.grid, second.grid)
    # What came since is taken up at once, as a resumed training does.
    write_corpus(tmp_path, spoken_users[:4], spoken_replies[:4])
    one.refresh()
    resumed = Corpus(dialogues, tokenizer, tmp_path)
    for first, second in zip(one.batch(4, 3, 7, False), resumed.batch(4, 3, 7, False)):
        assert torch.equal(first.grid, second.grid)


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


def test_held_out_follow_ups_do_not_stop_the_training(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, small_models, no_converter
):
    follow = [u for u in spoken_users if u.intent.startswith("follow.")]
    assert follow
    write_corpus(tmp_path, [*follow[:3], *spoken_users], spoken_replies)
    train_understanding(dialogues, tokenizer, tmp_path, 1e-6, "cpu")
    saved = torch.load(tmp_path / "understanding.pt", weights_only=True)
    assert saved["step"] == 1 and set(saved["modules"]) == {"model", "heads"}


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


def test_what_is_spelled_is_told_once_in_any_columns(model, tokenizer, dialogues):
    heads = new_heads(model, tokenizer, dialogues)
    torch.manual_seed(0)
    last = torch.randn(2, 6, model.config.dim)
    examples = [SimpleNamespace(spelled=[(1, 4, ["ni"])]), SimpleNamespace(spelled=[(2, 3, [])])]
    vocab = tokenizer.get_vocab()
    ids = [model.semantic_id, *(id for token, id in vocab.items() if "<|heard:" in token)]
    with torch.no_grad():
        found = heads._spelling_loss(examples, last)
        probabilities = model.text_logits(last)[:, :, ids].softmax(-1)
    ni, nothing = ids.index(vocab["<|heard:ni|>"]), 0
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
    model, tokenizer, conversations: Conversations, dialogues, monkeypatch, speak: bool
):
    monkeypatch.setattr("training.language.conversations.SPACED_SHARE", 1.0)
    examples = [conversations.draw(np.random.default_rng(n), speak) for n in range(6)]
    changed = []
    monkeypatch.setattr(
        loss_module, "_change_voice", lambda grid, users: changed.append(users) or grid
    )
    with torch.no_grad():
        if speak:
            losses(model, examples, "cpu", np.random.default_rng(0))
        else:
            words_loss(model, new_heads(model, tokenizer, dialogues), examples, "cpu")
    (users,) = changed
    for row, example in zip(users, examples):
        begins = [column + 1 for column, _ in example.asked]
        ends = [column + len(names) for column, names in example.said]
        for begin, end in zip(begins, ends):
            assert row[begin - 1] and not row[begin : end + 1].any()
        heard = [range(start, start + len(names)) for start, names in example.heard]
        assert all(row[column] for columns in heard for column in columns)
