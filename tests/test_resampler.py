"""A stream resampled in pieces is the whole resampled."""

import random

import pytest
import torch

from models.audio import AudioClip, StreamResampler, resample

RATES = [8000, 11025, 11111, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000]
NEW_RATES = [22050, 44100]


def noise(num_samples):
    return torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) * 2 - 1


def streamed(samples, sizes, rate, new_rate):
    resampler = StreamResampler(rate, new_rate)
    pieces = [resampler.push(piece) for piece in samples.split(sizes)]
    return torch.cat([*pieces, resampler.finish()]), resampler


def random_sizes(total, largest, seed=0):
    rng, sizes = random.Random(seed), []
    while sum(sizes) < total:
        sizes.append(min(rng.randint(0, largest), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize("new_rate", NEW_RATES)
@pytest.mark.parametrize("rate", RATES)
def test_pieces_joined_are_the_whole(rate, new_rate):
    samples = noise(rate // 8 + 7)
    whole = resample(AudioClip(samples, rate), new_rate)[0, 0]
    for seed, largest in enumerate((rate // 200, rate // 50, rate // 5)):
        sizes = random_sizes(len(samples), largest, seed)
        pieces, resampler = streamed(samples, sizes, rate, new_rate)
        assert pieces.shape == whole.shape
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
        assert resampler.pending == 0


@pytest.mark.parametrize("rate", [8000, 16000, 48000, 192000])
@pytest.mark.parametrize("new_rate", NEW_RATES)
def test_one_sample_at_a_time(rate, new_rate):
    samples = noise(2500)
    whole = resample(AudioClip(samples, rate), new_rate)[0, 0]
    pieces, _ = streamed(samples, [1] * len(samples), rate, new_rate)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_samples", [1, 2, 79, 80, 81])
def test_a_very_short_signal(rate, num_samples):
    samples = noise(num_samples)
    whole = resample(AudioClip(samples, rate), 22050)[0, 0]
    for sizes in ([num_samples], [1] * num_samples, [0, num_samples, 0]):
        pieces, _ = streamed(samples, sizes, rate, 22050)
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_nothing_gives_nothing(rate):
    resampler = StreamResampler(rate, 22050)
    assert len(resampler.push(torch.zeros(0))) == len(resampler.finish()) == resampler.pending == 0


@pytest.mark.parametrize("rate", RATES)
def test_memory_and_delay_do_not_grow(rate):
    resampler = StreamResampler(rate, 44100)
    block = noise(rate // 50)
    held, delays, num_out = [], [], 0
    for _ in range(40):
        num_out += len(resampler.push(block))
        held.append(len(resampler._pending))
        delays.append(resampler.pending)
    assert max(held[20:]) <= max(held[:20])
    # In a dialogue a late answer is heard.
    assert max(delays) <= 0.1 * rate + len(block)
    num_answered = 40 * len(block) - resampler.pending
    assert num_out == pytest.approx(num_answered * 44100 / rate, rel=1e-4, abs=1)
