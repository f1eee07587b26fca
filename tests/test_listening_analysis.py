"""The statistics of listening tests equal what the definitions give, and what is published."""

import math

import numpy as np
import pytest

from listening.analysis import (
    binomial_p,
    holm,
    mean_interval,
    share_interval,
    signed_rank_p,
)
from listening.loudness import MAX_PEAK, anchor, loudness, match_loudness
from models.errors import UserError


def test_a_mean_has_students_interval():
    found = mean_interval([4, 5, 3, 4])
    # s = 0.8165, t(0.975; 3) = 3.1824: half of the interval is 3.1824 * 0.8165 / 2.
    assert (found.count, found.value) == (4, 4)
    assert found.high - found.value == pytest.approx(1.29923, abs=1e-4)
    assert found.value - found.low == pytest.approx(1.29923, abs=1e-4)
    assert mean_interval([3]).high == math.inf
    assert mean_interval([3, 3]).low == mean_interval([3, 3]).high == 3


def test_a_share_has_wilsons_interval():
    found = share_interval(8, 10)
    z = 1.959964
    middle, half = (8 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * math.sqrt(1.6 + z**2 / 4)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-5)


def test_chance_is_counted_exactly():
    assert binomial_p(9, 10, 0.5) == pytest.approx(2 * (10 + 1) / 1024)
    assert binomial_p(9, 10, 0.5, "greater") == pytest.approx(11 / 1024)
    assert binomial_p(2, 2, 0.25, "greater") == pytest.approx(1 / 16)
    assert binomial_p(0, 0, 0.5) == 1


def test_signed_ranks():
    # All six differences have the same sign: 2 of 64 orders are as extreme.
    assert signed_rank_p([2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 64)
    assert signed_rank_p([3, 3], [3, 3]) == 1


def test_holm_adjusts_upwards_in_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def tone(hertz: float, gain: float, rate: int = 48_000, seconds: float = 2.0) -> np.ndarray:
    return gain * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_loudness_is_that_of_bs_1770():
    # A full-scale sine of 997 Hz in one channel has -3.01 LUFS (ITU-R BS.1770, annex 1); meters
    # may be 0.1 LU off (EBU Tech 3341).
    assert loudness(tone(997, 1.0), 48_000) == pytest.approx(-3.01, abs=0.1)
    assert loudness(tone(997, 0.1), 48_000) == pytest.approx(-23.01, abs=0.1)
    assert loudness(tone(997, 0.1, seconds=0.1), 48_000) == pytest.approx(-23.0, abs=0.3)
    assert loudness(np.zeros(48_000), 48_000) == -math.inf


def test_sounds_become_equally_loud_and_none_clips():
    click = tone(997, 0.01)
    click[1000] = 0.9  # as loud as others it would be far beyond full scale
    sounds = [("a", tone(997, 0.5), 48_000), ("b", tone(300, 0.02, 16_000), 16_000)]
    for given in (sounds, [*sounds, ("c", click, 48_000)]):
        matched = match_loudness(given)
        levels = [loudness(wave, rate) for (wave, _), (_, _, rate) in zip(matched, given)]
        assert max(levels) - min(levels) < 0.05
        assert max(np.abs(wave).max() for wave, _ in matched) <= MAX_PEAK + 1e-6
    assert levels[0] < -30
    with pytest.raises(UserError, match="quiet.wav"):
        match_loudness([("quiet.wav", np.zeros(9600), 48_000)])


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_the_anchor_has_no_highs(rate: int):
    for hertz, gain in ((1000, 1.0), (3400, 1.0), (4500, 0.0)):
        if hertz > rate / 2:
            continue
        wave = tone(hertz, 0.5, rate)
        kept = anchor(wave, rate)
        assert kept.shape == wave.shape
        inner = slice(rate // 4, -rate // 4)
        ratio = np.std(kept[inner]) / np.std(wave[inner])
        assert ratio == pytest.approx(gain, abs=0.012)
    np.testing.assert_allclose(
        anchor(tone(1000, 0.5, rate), rate)[rate:-400], tone(1000, 0.5, rate)[rate:-400], atol=0.01
    )
