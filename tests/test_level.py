"""Silence is told from speech, and quiet speech raised: at once, and while it comes."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.audio import AudioClip, load_audio
from models.errors import UserError
from models.level import (
    GAIN_SLOPE,
    MAX_GAIN,
    TARGET_LEVEL,
    StreamLeveller,
    level_speech,
    speech_level,
)

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.wav"))
RATES = [8000, 22050, 48000]


def noise(seconds: float, rate: int, level: float, seed: int = 0) -> Tensor:
    """White noise of a level in dBFS."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(round(seconds * rate), generator=generator) * 10 ** (level / 20)


def speech(seconds: float, rate: int, level: float) -> Tensor:
    """Syllables of 200 ms and pauses of 100, over noise 40 dB below them."""
    samples = noise(seconds, rate, level - 40)
    times = torch.arange(len(samples)) / rate
    spoken = times % 0.3 < 0.2
    return samples + spoken * torch.sin(2 * math.pi * 200 * times) * 10 ** (level / 20) * 2**0.5


def quieter(clip: AudioClip, decibels: float) -> AudioClip:
    return AudioClip(clip.samples * 10 ** (-decibels / 20), clip.sample_rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "make",
    [
        lambda rate: torch.zeros(3 * rate),
        lambda rate: torch.full((3 * rate,), 0.01),  # a microphone's offset
        lambda rate: noise(3, rate, -90),
        lambda rate: noise(3, rate, -60),
        lambda rate: noise(3, rate, -40),
        lambda rate: torch.sin(torch.arange(3 * rate) / rate * 2 * math.pi * 50) * 0.005,
        lambda rate: torch.zeros(10),
        lambda rate: torch.zeros(0),
    ],
)
def test_silence_and_steady_noise_are_no_speech(rate, make):
    samples = make(rate)
    assert speech_level(samples, rate) is None
    with pytest.raises(UserError) as caught:
        level_speech(AudioClip(samples, rate))
    assert caught.value.code == "error_silent"


@pytest.mark.parametrize("rate", RATES)
def test_a_click_is_no_speech(rate):
    samples = torch.zeros(3 * rate)
    samples[rate : rate + rate // 200] = 0.8
    assert speech_level(samples, rate) is None


@pytest.mark.parametrize("level", [-10, -25, -40, -55])
@pytest.mark.parametrize("rate", RATES)
def test_the_level_is_that_of_the_speech_without_its_pauses(rate, level):
    assert speech_level(speech(3, rate, level), rate) == pytest.approx(level, abs=1)
    after_silence = torch.cat([torch.zeros(20 * rate), speech(1, rate, level)])
    assert speech_level(after_silence, rate) == pytest.approx(level, abs=1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_left_as_they_are(path):
    clip = load_audio(path)
    assert level_speech(clip) is clip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_at_forty_decibels_less_is_speech_and_raised(path):
    quiet = quieter(load_audio(path), 40)
    raised = level_speech(quiet)
    level = speech_level(quiet.samples, quiet.sample_rate)
    assert level < TARGET_LEVEL - 15
    assert speech_level(raised.samples, raised.sample_rate) == pytest.approx(TARGET_LEVEL, abs=0.1)
    torch.testing.assert_close(
        raised.samples, quiet.samples * 10 ** ((TARGET_LEVEL - level) / 20), atol=1e-6, rtol=0
    )


def test_the_gain_is_bounded_and_nothing_passes_full_scale():
    rate = 22050
    quiet = AudioClip(speech(3, rate, TARGET_LEVEL - MAX_GAIN - 2), rate)
    quiet.samples[100] = 0.9  # a click
    raised = level_speech(quiet)
    assert raised.samples.abs().max() == 1
    gain = raised.samples[1000:].norm() / quiet.samples[1000:].norm()
    assert 20 * math.log10(gain) == pytest.approx(MAX_GAIN, abs=0.01)


def streamed(samples: Tensor, rate: int, sizes: int | list[int]) -> tuple[Tensor, StreamLeveller]:
    leveller = StreamLeveller(rate)
    pieces = [leveller.push(piece) for piece in samples.split(sizes)]
    return torch.cat([*pieces, leveller.finish()]), leveller


@pytest.mark.parametrize("rate", RATES)
def test_a_stream_does_not_depend_on_its_pieces(rate):
    samples = speech(2, rate, -60)
    whole, leveller = streamed(samples, rate, len(samples))
    leveller.check()
    assert whole.shape == samples.shape
    for size in (rate // 2, rate // 7, 101):
        torch.testing.assert_close(streamed(samples, rate, size)[0], whole, atol=1e-7, rtol=1e-5)
    one_by_one = streamed(samples[: rate // 10], rate, 1)[0]
    torch.testing.assert_close(one_by_one[: rate // 20], whole[: rate // 20])


@pytest.mark.parametrize("rate", RATES)
def test_a_streams_gain_never_jumps_and_reaches_the_clips(rate):
    samples = torch.cat([speech(2, rate, -60), speech(2, rate, -20), speech(3, rate, -60)])
    result, _ = streamed(samples, rate, rate // 2)
    gains = 20 * torch.log10((result / samples).abs().double())
    gains = gains[samples.abs() > 1e-5]
    # Between samples that are left out lies some time: a pause of the speech is 100 ms.
    assert gains.diff().abs().max() <= GAIN_SLOPE * 0.1
    assert (gains >= -1e-3).all()
    first = 2 * rate - rate // 100
    assert 20 * math.log10((result / samples)[rate:first].abs().median()) == pytest.approx(
        TARGET_LEVEL + 60, abs=1
    )
    assert 20 * math.log10((result / samples)[-100:].abs().median()) == pytest.approx(0, abs=0.1)


def test_between_samples_the_gain_moves_by_its_slope_at_most():
    rate = 22050
    steady = torch.full((rate,), 1e-3) * (1 - 2 * (torch.arange(rate) % 2))  # -60 dBFS, no zeros
    steady[: rate // 2] /= 100  # then it begins, as speech does
    gains = 20 * torch.log10(streamed(steady, rate, 500)[0].double() / steady)
    assert gains.max() > 10
    assert gains.diff().abs().max() <= GAIN_SLOPE / rate * 1.01


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_streamed_as_they_are(path):
    clip = load_audio(path)
    result, leveller = streamed(clip.samples, clip.sample_rate, clip.sample_rate // 2)
    leveller.check()
    # The beginning of a sentence may be softer than the whole, and is raised a little.
    assert 20 * math.log10(result.norm() / clip.samples.norm()) == pytest.approx(0, abs=0.5)


def test_a_stream_of_silence_has_no_speech_and_no_gain():
    samples = noise(3, 22050, -60)
    result, leveller = streamed(samples, 22050, 11025)
    with pytest.raises(UserError, match="no speech"):
        leveller.check()
    assert torch.equal(result, samples)


def test_a_stream_that_ends_within_a_frame():
    leveller = StreamLeveller(22050)
    with pytest.raises(UserError, match="no speech"):
        leveller.check()
    assert len(leveller.finish()) == 0
    assert len(leveller.push(torch.zeros(5))) == 0
    assert len(leveller.finish()) == 5


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("before", [0, 0.2])
@pytest.mark.parametrize(
    ("seconds", "after", "is_answered"),
    [(0.1, 0, False), (0.1, 0.5, False), (0.4, 0, False), (0.5, 0, True), (0.3, 0.4, True)],
)
def test_less_than_a_word_is_refused(rate, before, seconds, after, is_answered):
    silence = [torch.zeros(round(length * rate)) for length in (before * (after > 0), after)]
    spoken = noise(seconds, rate, -20)
    samples = torch.cat([silence[0], spoken, silence[1]])
    leveller = StreamLeveller(rate)
    leveller.push(samples)
    for check in (lambda: level_speech(AudioClip(samples, rate)), leveller.check):
        if is_answered:
            check()
            continue
        with pytest.raises(UserError) as caught:
            check()
        assert caught.value.code == "error_nothing_heard"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_word_of_half_a_second_is_answered(path):
    clip = load_audio(path)
    size = clip.sample_rate // 2
    powers = clip.samples.unfold(0, size, size // 10).square().mean(dim=1)
    first = int(powers.argmax()) * (size // 10)
    level_speech(AudioClip(clip.samples[first : first + size], clip.sample_rate))
