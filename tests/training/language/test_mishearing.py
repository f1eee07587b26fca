"""Mishearing: transcripts with the errors that they will have."""

import numpy as np
import pytest

from training.language import mishearing as module
from training.language.mishearing import Mishearing

SYLLABLES = ["ni", "nan", "li", "shui", "shu", "gui", "zhao", "a", "wo"]


@pytest.fixture
def mishearing() -> Mishearing:
    return Mishearing(SYLLABLES)


def test_without_errors_all_is_heard(mishearing: Mishearing, monkeypatch):
    monkeypatch.setattr(module, "MISHEARD_SHARE", 0.0)
    assert mishearing.hear(["ni", "shui"], np.random.default_rng(0)) == ["ni", "shui"]


def test_errors_are_mostly_like_syllables(mishearing: Mishearing, monkeypatch):
    monkeypatch.setattr(module, "LOST_SHARE", 0.0)
    monkeypatch.setattr(module, "ADDED_SHARE", 0.0)
    rng, wrong = np.random.default_rng(0), []
    for _ in range(400):
        (heard,) = mishearing.hear(["shui"], rng)
        if heard != "shui":
            wrong.append(heard)
    assert len(wrong) / 400 == pytest.approx(module.MISHEARD_SHARE / 2, abs=0.07)
    assert np.mean([name in ("shu", "gui") for name in wrong]) > module.ALIKE_SHARE
    assert set(wrong) > {"shu", "gui"} and set(wrong) <= set(SYLLABLES)


def test_syllables_are_lost_and_added(mishearing: Mishearing):
    rng = np.random.default_rng(0)
    lengths = {len(mishearing.hear(["ni", "a"], rng)) for _ in range(2000)}
    assert {0, 1, 2, 3} <= lengths <= {0, 1, 2, 3, 4}


def test_a_syllable_that_nobody_else_says_is_no_fault(mishearing: Mishearing):
    rng = np.random.default_rng(0)
    assert {name for _ in range(200) for name in mishearing.hear(["zzz"], rng)} <= {
        "zzz",
        *SYLLABLES,
    }


def test_of_noise_little_is_heard(mishearing: Mishearing):
    rng = np.random.default_rng(0)
    lengths = [len(mishearing.hear_noise(rng)) for _ in range(300)]
    assert np.mean(np.equal(lengths, 0)) > 0.5 and max(lengths) == module.MOST_OF_NOISE
