"""Texts as units, and the head that learns to spell."""

import torch

from training.recogniser.distance import edit_distance
from training.recogniser.spelling import Speller, Spelling


def test_units_are_initials_and_finals():
    spelling = Spelling(["你好", "好，爱"])
    assert spelling.units == ["ai4", "ao3", "h", "i2", "n"]
    assert spelling.targets["你好"].tolist() == [5, 4, 3, 2]
    assert spelling.targets["好，爱"].tolist() == [3, 2, 1]


def test_texts_with_other_units_are_left_out():
    spelling = Spelling(["你好", "爱"], units=["n", "h", "ao3", "i2"])
    assert spelling.units == ["n", "h", "ao3", "i2"]
    assert set(spelling.targets) == {"你好"} and spelling.targets["你好"].tolist() == [1, 4, 2, 3]


def test_the_speller_learns_to_spell():
    torch.manual_seed(0)
    speller = Speller(8, Spelling(["你好好", "好"]))
    heard, texts = [torch.randn(12, 8), torch.randn(5, 8)], ["你好好", "好"]
    optimizer = torch.optim.Adam(speller.parameters(), 0.1)
    losses = []
    for _ in range(60):
        losses.append(speller.loss(heard, texts))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_edit_distance():
    assert edit_distance("abcd", "abcd") == 0
    assert edit_distance("abcd", "axd") == 2 and edit_distance("", "abc") == 3
