"""The language model's losses, heads and batches."""

import gc
import multiprocessing
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.tokenizer import save_tokenizer
from models.westlake.dual_ar import DualARTransformer
from training.codec.config import new_codec
from training.dialogues import Dialogues
from training.language import losses as loss_module
from training.language import model as model_module
from training.language.batch import Labels
from training.language.batches import Batches, BatchSizes, Corpus
from training.language.conversations import Conversations
from training.language.corpus import _write
from training.language.heads import Heads
from training.language.losses import _change_voice, _corrupt, _jitter, _mask, losses, words_loss
from training.language.model import (
    BATCH_SIZES,
    DRAWING_WORKERS,
    code_numbers,
    draw_batches,
    new_language_model,
    separate_levels,
    share_levels,
    start_language_model,
    train_understanding,
    understanding,
)


@pytest.fixture
def model(tokenizer, small_models):
    return new_language_model(tokenizer)


@pytest.fixture
def labels(dialogues: Dialogues, tokenizer) -> Labels:
    return Labels(dialogues, tokenizer)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model reads what was drawn, without errors."""
    monkeypatch.setattr(loss_module, "_corrupt", lambda tokens, size, share: tokens)
    monkeypatch.setattr(loss_module, "_jitter", lambda tokens: tokens)
    for name in ("_change_voice", "_mask"):
        monkeypatch.setattr(loss_module, name, lambda tokens, users: tokens)


def collate(labels: Labels, examples, max_code_frames: int = 1000):
    return labels.collate(examples, max_code_frames, np.random.default_rng(0))


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


def write_corpus(work: Path, users, replies) -> None:
    for name, spoken in (("users", users), ("replies", replies), ("heldout_users", users[:6])):
        (work / name).mkdir(parents=True, exist_ok=True)
        _write(work / name / f"{len(list((work / name).iterdir()))}.pt", spoken)


def same(one, other) -> bool:
    return all(torch.equal(x, getattr(other, name)) for name, x in vars(one).items())


def test_batches_are_drawn_by_their_number(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, small_models, no_converter
):
    write_corpus(tmp_path, spoken_users, spoken_replies)
    corpus = Corpus(dialogues, tokenizer, tmp_path)
    sizes = BatchSizes(words=3, spoken=2, code_frames=50)

    def batches(workers: int = 0) -> Batches:
        return Batches(corpus, sizes, 7, lambda number: number % 5 == 4, workers)

    one = batches()
    whole = [one(number) for number in range(24)]
    for number, batch in enumerate(whole):
        assert len(batch.grid) == (2 if number % 5 == 4 else 3)
        assert (len(batch.code_places) > 0) == (number % 5 == 4)
        assert len(batch.code_places) <= 50
    assert not same(whole[0], whole[20])
    for workers in (0, 2):  # in processes of their own the same
        with closing(batches(workers)) as other:
            for number in (4, 22, 23, 1):
                assert same(other(number), whole[number])


@pytest.fixture
def small_corpus(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, small_models, no_converter
) -> Corpus:
    write_corpus(tmp_path, spoken_users, spoken_replies)
    return Corpus(dialogues, tokenizer, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_leave_the_steps_generator_as_it_is(small_corpus: Corpus, workers: int):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sizes = BatchSizes(words=3, spoken=2, code_frames=50)
    with closing(Batches(small_corpus, sizes, 7, lambda number: False, workers)) as batches:
        batches(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_end_with_the_stage_that_they_draw_for(
    tmp_path: Path, small_corpus: Corpus, dialogues, tokenizer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_module, "DRAWING_WORKERS", {"cpu": 2})
    monkeypatch.setattr(model_module, "num_usable_cores", lambda: 3)
    seen, learn = [], model_module.words_loss

    def words_loss(*args):
        seen.append(len(multiprocessing.active_children()))
        return learn(*args)

    monkeypatch.setattr(model_module, "words_loss", words_loss)
    gc.disable()
    try:
        train_understanding(dialogues, tokenizer, tmp_path, 1e-6, "cpu")
        assert seen == [2] and not multiprocessing.active_children()
    finally:
        gc.enable()


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (4, 3), (13, 12), (64, 12)])
def test_a_core_is_left_to_the_training(
    small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
):
    found = []
    monkeypatch.setattr(model_module, "DRAWING_WORKERS", DRAWING_WORKERS)
    monkeypatch.setattr(model_module, "BATCH_SIZES", BATCH_SIZES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(
        model_module, "Batches", lambda *args: SimpleNamespace(close=lambda: found.append(args[-1]))
    )
    for device in ("cuda:0", "cpu"):
        with draw_batches(small_corpus, device, 7, lambda number: False):
            pass
    assert found == [expected, 0]


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


def test_what_is_learned_stands_at_its_place(labels: Labels, conversations: Conversations):
    rng = np.random.default_rng(1)
    examples = [conversations.draw(rng, speak) for speak in (True, False) * 6]
    batch = collate(labels, examples)
    length = batch.grid.shape[2]
    columns = batch.grid.long().transpose(1, 2).flatten(0, 1)
    assert torch.equal(columns[batch.word_places + 1, 0], batch.words)
    assert torch.equal(columns[batch.code_places + 1, 1:], batch.codes)
    assert torch.equal(batch.replies.flatten()[batch.code_places + 1].sum(), batch.replies.sum())
    names = [list(numbers) for numbers in (labels.questions, labels.heard, labels.said)]
    asked, heard, said = [], [], []
    for row, e in enumerate(examples):
        asked += [(row * length + column, name) for column, name in e.asked]
        for found, spans in ((heard, e.heard), (said, e.said)):
            found += [(row * length + c + i, n) for c, ns in spans for i, n in enumerate(ns)]
    for expected, places, numbers, known in (
        (asked, batch.question_places, batch.questions, names[0]),
        (heard, batch.heard_places, batch.heard, names[1]),
        (said, batch.said_places, batch.said, names[2]),
    ):
        assert expected and expected == [
            (place, known[number]) for place, number in zip(places.tolist(), numbers.tolist())
        ]
    spelled = [(row, *span) for row, e in enumerate(examples) for span in e.spelled]
    assert len(spelled) == batch.spelled_places.shape[1] > 0
    ends = batch.spelling_lengths.cumsum(0).tolist()
    for index, (row, first, number, syllables) in enumerate(spelled):
        assert batch.spelled_lengths[index] == number
        assert batch.spelled_places[:number, index].tolist() == [
            row * length + first + i for i in range(number)
        ]
        part = batch.spelled[ends[index] - len(syllables) : ends[index]].tolist()
        assert [names[1][n] for n in part] == list(syllables)
    few = labels.collate(examples, 5, np.random.default_rng(0))
    assert few.codes.shape == (5, 8)
    assert set(few.code_places.tolist()) < set(batch.code_places.tolist())


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
