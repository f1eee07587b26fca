"""The benchmarks of Mini-Omni, of the families side by side, and of what few bits change."""

import dataclasses
import math

import pytest
import torch
from small import marking, small_model

from benchmarks import compare
from benchmarks.mini_omni import measure
from benchmarks.quality import Predictions, answer, compared, read_replies


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(compare, "SECONDS", 0.5)
    monkeypatch.setattr(compare, "NUM_FRAMES", 6)


def test_every_part_of_mini_omni_is_measured(mini_omni):
    figures = measure(mini_omni, 0.5, position=20, num_columns=3, chunk_frames=2)
    numbers = {key: value for key, value in figures.items() if not isinstance(value, str)}
    assert all(value > 0 for value in numbers.values())
    assert figures["weight_bytes"] >= 4 * figures["parameters"]
    assert figures["first_text_seconds"] <= figures["first_sound_seconds"]


def test_a_turn_is_timed(mini_omni):
    text, sound, work = compare.turn_seconds(mini_omni, 0)
    assert 0 < text <= sound and work > 0


def test_the_table_has_a_line_for_each_system():
    row = compare.Row(
        system="A",
        dtype="int8",
        accepts="audio, text",
        languages="English",
        parameters=600_000_000,
        weight_bytes=1_250_000_000,
        first_text_seconds=0.5,
        first_sound_seconds=1.25,
        real_time_factor=0.4,
    )
    lines = compare.table([row, dataclasses.replace(row, system="B")]).splitlines()
    assert lines[2] == (
        "| A | int8 | audio, text | English | 600 M | 1.25 GB | 0.50 s | 1.25 s | 0.40 s |"
    )
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4


def test_what_few_bits_change_is_counted():
    true = torch.tensor([[0, 1], [2, 2]])
    logits = torch.full((2, 2, 4), -30.0)
    logits[..., 3] = 0.0
    logits.scatter_(-1, true[..., None], 0.0)  # the true one of two that are as likely
    exact = Predictions.of(logits, true)
    logits[0, 0, 1] = 1.0
    small = Predictions.joined(
        [Predictions.of(row[None], ids[None]) for row, ids in zip(logits, true)]
    )
    figures = compared("code", exact, small)
    assert figures["code_perplexity_float32"] == pytest.approx(2)
    assert figures["code_perplexity"] == pytest.approx((2**3 * (2 + math.e)) ** 0.25)
    assert figures["same_code"] == 0.75


@pytest.mark.parametrize("has_marks", [False, True])
@torch.inference_mode()
def test_replies_are_read_side_by_side_as_whole_ones(small_codec, has_marks):
    model = small_model(small_codec)
    checkpoint = (marking(model) if has_marks else model).checkpoint
    turns = answer(checkpoint, ["你好", "再见", "好"], 5)
    turns[1] = turns[1]._replace(reply=turns[1].reply[:2])
    words, codes = read_replies(checkpoint, turns)
    word_costs, code_costs, num_spoken = 0.0, 0.0, 0
    for turn in turns:
        spoken = torch.tensor([id not in checkpoint.mark_ids for id in turn.reply[:, 0].tolist()])
        assert spoken.all() or has_marks
        grid = torch.cat([turn.prompt, turn.reply.T], dim=1)[None, :, :-1]
        hidden = checkpoint.model.forward_hidden(grid)[0, -len(turn.reply) :]
        logits = checkpoint.model.text_logits(hidden)
        fast = checkpoint.model.forward_fast(hidden[spoken], turn.reply[spoken, 1:-1])
        word_costs += Predictions.of(logits, turn.reply[:, 0]).costs.sum()
        code_costs += Predictions.of(fast, turn.reply[spoken, 1:]).costs.sum()
        num_spoken += int(spoken.sum())
    num_columns = sum(len(turn.reply) for turn in turns)
    assert words.chosen.shape == (num_columns,) and codes.chosen.shape == (num_spoken, 8)
    assert (num_spoken < num_columns) == has_marks
    torch.testing.assert_close(words.costs.sum(), word_costs)
    torch.testing.assert_close(codes.costs.sum(), code_costs)
