"""What lies in a work folder as batches of tensors."""

import dataclasses
import gc
import multiprocessing
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recipe import collate

from training.dialogues import Dialogues
from training.language import model as model_module
from training.language.batch import Labels
from training.language.batches import Batches, BatchSizes, Corpus
from training.language.conversations import Conversations
from training.language.corpus import _write
from training.language.model import (
    BATCH_SIZES,
    DRAWING_WORKERS,
    draw_batches,
    train_understanding,
)

ORDER = ("words", "questions", "words", "questions", "spoken")


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
    sizes = BatchSizes(questions=4, words=3, spoken=2, code_frames=50)

    def batches(workers: int = 0) -> Batches:
        return Batches(corpus, sizes, 7, lambda number: ORDER[number % 5], workers)

    one = batches()
    whole = [one(number) for number in range(24)]
    for number, batch in enumerate(whole):
        kind = ORDER[number % 5]
        assert len(batch.grid) == getattr(sizes, kind)
        assert (len(batch.code_places) > 0) == (kind == "spoken")
        assert (len(batch.words) <= 3 * len(batch.questions)) == (kind == "questions")
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
    sizes = BatchSizes(questions=4, words=3, spoken=2, code_frames=50)
    with closing(Batches(small_corpus, sizes, 7, lambda number: "words", workers)) as batches:
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
        model_module, "Batches", lambda *args: SimpleNamespace(close=lambda: found.append(args))
    )
    for device in ("cuda:0", "cpu"):
        with draw_batches(small_corpus, device, 7, ("words", "spoken")):
            pass
    assert [workers for *_, workers in found] == [expected, 0]
    for *_, kind_of, _ in found:
        assert [kind_of(number) for number in range(4)] == ["words", "spoken"] * 2


def test_a_tokenizer_of_fewer_lines_is_refused(dialogues: Dialogues, tokenizer):
    hello = next(intent for intent in dialogues.intents if intent.name == "talk.hello")
    more = dataclasses.replace(hello, users=(*hello.users, "吞。"))
    grown = dataclasses.replace(dialogues, intents=(*dialogues.intents, more))
    with pytest.raises(ValueError, match=r"no <\|heard:tun\|>: .* empty work folder"):
        Labels(grown, tokenizer)


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


def test_held_out_follow_ups_do_not_stop_the_training(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, small_models, no_converter
):
    follow = [u for u in spoken_users if u.intent.startswith("follow.")]
    assert follow
    write_corpus(tmp_path, [*follow[:3], *spoken_users], spoken_replies)
    train_understanding(dialogues, tokenizer, tmp_path, 1e-6, "cpu")
    saved = torch.load(tmp_path / "understanding.pt", weights_only=True)
    assert saved["step"] == 1 and set(saved["modules"]) == {"model", "heads"}
