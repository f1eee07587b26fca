"""Which syllables follow which: the model, its file, and the search for what was said."""

import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from replying import reply_to, speech
from safetensors.torch import load_file, save_file
from small_checkpoint import HEARD_TOKENS, new_model, save_small

from models.westlake import dictation
from models.westlake.checkpoint import load_checkpoint
from models.westlake.dictation import BLANK, BestPath, PrefixSearch
from models.westlake.saved_checkpoint import save_checkpoint, save_quantised
from models.westlake.speech_model import WestlakeModel
from models.westlake.syllables import (
    SYLLABLES_FILE,
    Followers,
    SyllableModel,
    read_syllables,
    write_syllables,
)

NAMES = ("hao", "ni")


@pytest.fixture
def model() -> SyllableModel:
    """Of `_ _` it knows `hao` and `ni`, of `hao ni` `hao`; and behind `_ hao ni` only `ni`."""
    told = np.random.default_rng(0).dirichlet(np.ones(3), 3)
    after_two = Followers(
        numbers=np.array([2, 1, 0, 0, 0, 1, 0, 0, 0]),  # of `_ _`, `_ hao` and `hao ni`
        places=np.array([1, 2, 2, 1]),
        shares=np.float32([0.25, 0.5, 0.5, 0.625]),
    )
    after_three = Followers(  # of `_ hao ni`
        numbers=np.array([0, 0, 1, 0]), places=np.array([2]), shares=np.float32([0.75])
    )
    return SyllableModel(NAMES, np.log(told).astype(np.float32), [after_two, after_three])


def test_what_follows_is_told_by_the_longest_known_context(model):
    bigrams = np.exp(model.bigrams)
    told = [np.exp(model.followers(said)) for said in ((), (1,), (1, 2), (2, 1), (2, 1, 2))]
    np.testing.assert_allclose(told[0], 0.25 * bigrams[0] + [0, 0.25, 0.5], rtol=1e-5)
    np.testing.assert_allclose(told[1], 0.5 * bigrams[1] + [0, 0, 0.5], rtol=1e-5)
    behind_two = 0.375 * bigrams[2] + [0, 0.625, 0]
    np.testing.assert_allclose(told[2], 0.25 * behind_two + [0, 0, 0.75], rtol=1e-5)
    np.testing.assert_allclose(told[3], bigrams[1], rtol=1e-5)
    np.testing.assert_allclose(told[4], behind_two, rtol=1e-5)


def test_the_likeliest_transcript_is_found(model):
    generator = torch.Generator().manual_seed(0)
    differ = 0
    for _ in range(20):
        logits = 2 * torch.randn(6, 3, generator=generator)
        told = logits.log_softmax(-1).tolist()
        heard = defaultdict(list)
        for path in itertools.product(range(3), repeat=6):
            said = tuple(place for place, _ in itertools.groupby(path) if place != BLANK)
            heard[said].append(sum(row[place] for row, place in zip(told, path)))
        scores = {}
        for said, paths in heard.items():
            prior = sum(model.followers(said[:n])[place] for n, place in enumerate(said))
            scores[said] = float(np.logaddexp.reduce(paths))
            scores[said] += dictation.PRIOR_WEIGHT * prior + dictation.BONUS * len(said)
        for size in (1, 4, 6):
            search = PrefixSearch(model)
            for piece in logits.split(size):
                search.add(piece)
            assert tuple(search.written) == max(scores, key=scores.__getitem__)
        greedy = BestPath()
        greedy.add(logits)
        differ += greedy.written != search.written
    assert differ > 3


def test_few_transcripts_are_followed_however_long_speech_is(
    model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dictation, "FAR", math.inf)
    search = PrefixSearch(model)
    search.add(torch.randn(600, 3, generator=torch.Generator().manual_seed(1)))
    assert len(search._found) == dictation.WIDTH and len(search.written) > 100
    assert all(math.isfinite(each.total) for each in search._found.values())


def test_transcripts_far_below_the_likeliest_are_dropped(model, monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(dictation, "FAR", 1.5)
    search = PrefixSearch(model)
    for row in logits.split(1):
        search.add(row)
        totals = [each.total for each in search._found.values()]
        assert totals[0] == max(totals) < min(totals) + 1.5
    assert len(totals) < dictation.WIDTH


def test_logits_that_are_no_numbers_end_in_no_error_of_its_own(model):
    search = PrefixSearch(model)
    for value in (math.nan, math.inf):
        search.add(torch.tensor([[0.0, value, 0.0], [0.0, 1.0, 2.0]]))
        assert isinstance(search.written, list)


def test_before_anything_is_heard_nothing_is_written(model):
    assert PrefixSearch(model).written == BestPath().written == []


def test_a_file_keeps_it(model, tmp_path):
    path = tmp_path / SYLLABLES_FILE
    model.longer[0].shares[0] = 1e-9
    write_syllables(path, model)
    read = read_syllables(path)
    assert read.names == NAMES and len(read.longer) == 2
    for kept, told in zip(read.longer, model.longer):
        np.testing.assert_array_equal(kept.numbers, told.numbers)
        np.testing.assert_array_equal(kept.places, told.places)
        np.testing.assert_allclose(kept.shares, told.shares, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(read.followers((1, 2)), model.followers((1, 2)), atol=0.01)


def test_damaged_files_are_refused_by_name(model, tmp_path):
    path = tmp_path / SYLLABLES_FILE
    write_syllables(path, model)
    whole, names = load_file(path), {"names": json.dumps(NAMES)}
    for others in ({}, {"names": "5"}, {"names": "[1, 2]"}, {"names": '["ni"]'}, {"names": "a"}):
        save_file(whole, path, others)
        with pytest.raises(ValueError, match=SYLLABLES_FILE):
            read_syllables(path)
    for key in whole:
        save_file({name: whole[name] for name in whole if name != key}, path, names)
        with pytest.raises(ValueError, match=f"{SYLLABLES_FILE}: it lacks '{key}', .*or remove it"):
            read_syllables(path)
    former = {"trigrams": torch.zeros(1), "shares": torch.ones(1)}
    for given in ({}, former, {"3.numbers": whole["3.numbers"]}, {**whole, "more": torch.ones(1)}):
        save_file({"bigrams": whole["bigrams"], **given}, path, names)
        with pytest.raises(ValueError, match=f"{SYLLABLES_FILE}: it lacks '[2-4].numbers'"):
            read_syllables(path)
    for key, value in {
        "2.numbers": torch.tensor([2.9, 1, 0, 0, 0, 1, 0, 0, 0]).bfloat16(),
        "2.places": torch.tensor([65537, 2, 2, 1], dtype=torch.int32),
    }.items():
        save_file({**whole, key: value}, path, names)
        with pytest.raises(ValueError, match=f"{SYLLABLES_FILE}: what follows 2"):
            read_syllables(path)
    save_file({**whole, "bigrams": torch.zeros(3)}, path, names)
    with pytest.raises(ValueError, match=f"{SYLLABLES_FILE}: its bigrams"):
        read_syllables(path)
    for key, values in {
        "2.numbers": ([4], [2, 1, 0, 0, 0, 1, 0, 0, 1], [5, -1, 0, 0, 0, 0, 0, 0, 0]),
        "2.places": ([2, 1, 2, 1], [1, 2, 3, 1], [-1, 2, 2, 1], [1, 2, 2]),
        "2.shares": ([0.5], [0.25, 0.5, 0.5, 1.5], [0.25, 0.5, 0.5, 0]),
        "3.numbers": ([0, 0, 1], [0, 0, 2, 0]),
    }.items():
        for value in values:
            save_file({**whole, key: torch.tensor(value, dtype=whole[key].dtype)}, path, names)
            with pytest.raises(ValueError, match=f"{SYLLABLES_FILE}: what follows {key[0]}"):
                read_syllables(path)


@pytest.fixture
def folder(small_codec, model, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    save_small(folder, new_model(), small_codec, HEARD_TOKENS)
    write_syllables(folder / SYLLABLES_FILE, model)
    return folder


def test_a_checkpoint_has_it_where_the_file_is(folder, small_codec, tmp_path):
    checkpoint = load_checkpoint(folder, dtype="float32")
    save_quantised(folder, tmp_path / "int8", "int8")
    assert load_checkpoint(tmp_path / "int8").syllables.names == NAMES
    parts = checkpoint.model, small_codec, checkpoint.tokenizer
    save_checkpoint(tmp_path / "again", *parts, syllables=checkpoint.syllables)
    assert load_checkpoint(tmp_path / "again").syllables.names == NAMES
    save_checkpoint(folder, *parts)  # nor has it an older one's
    without = load_checkpoint(folder, dtype="float32")
    assert without.syllables is None and without.fingerprint != checkpoint.fingerprint


def test_one_of_other_syllables_is_refused(folder, model):
    model.names = ("hao", "wo")
    write_syllables(folder / SYLLABLES_FILE, model)
    with pytest.raises(ValueError, match=f"{SYLLABLES_FILE} has other syllables"):
        load_checkpoint(folder, dtype="float32")


@pytest.mark.parametrize("size", [None, 700])
def test_speech_is_followed_by_what_was_likely_said(folder, size):
    plain = WestlakeModel(load_checkpoint(folder, dtype="float32"))
    audio = speech(3.0)
    turn = plain.new_conversation().begin_turn(None, audio.sample_rate)
    for piece in audio.samples.split(size or len(audio.samples)):
        turn.push(piece)
    turn.finish()
    checkpoint = plain.checkpoint
    row = turn.turn.columns[0].tolist()
    first, number = row.index(checkpoint.semantic_id), row.count(checkpoint.semantic_id)
    columns = turn.turn.columns[None, :, : first + number]
    hidden = checkpoint.model.forward_hidden(columns)[0, first:]
    ids = [checkpoint.semantic_id, *(checkpoint.heard_ids[name] for name in NAMES)]
    search = PrefixSearch(checkpoint.syllables)
    search.add(checkpoint.model.text_logits(hidden)[:, ids])
    assert search.written
    assert row[first + number :][: len(search.written)] == [ids[k] for k in search.written]
    assert turn.heard == " ".join(NAMES[place - 1] for place in search.written)
    assert reply_to(plain, audio=audio)[0][-1].heard == turn.heard
