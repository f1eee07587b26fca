"""Pitch, loudness and liveliness of sounds whose values are known."""

import numpy as np
import pytest

from models.prosody import (
    FLOOR_DB,
    MAX_COLUMNS,
    NUM_COLOURS,
    ProsodyStream,
    liveliness,
    mel_picture,
    outline,
    prosody,
)


def voice(hertz: np.ndarray, rate: int) -> np.ndarray:
    """A sound of many harmonics with a pitch at each sample."""
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    return 0.2 * sum(np.sin(k * phase) / k for k in range(1, 8))


def speech(semitones: float, pace: float, rate: int = 16_000, seconds: float = 3.0) -> np.ndarray:
    """Syllables at a pace, whose pitch sways by so many semitones (one standard deviation)."""
    t = np.arange(int(seconds * rate)) / rate
    wave = voice(200 * 2 ** (np.sqrt(2) * semitones * np.sin(2 * np.pi * 0.7 * t) / 12), rate)
    return wave * (0.05 + 0.95 * np.sin(np.pi * pace * t) ** 2)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
@pytest.mark.parametrize("hertz", [75, 130, 220, 440])
def test_a_steady_pitch(hertz: int, rate: int):
    found = prosody(voice(np.full(rate, float(hertz)), rate), rate)
    inner = found.pitch[10:-10]
    assert np.isfinite(inner).all()
    np.testing.assert_allclose(inner, hertz, rtol=0.01)
    assert len(found.pitch) == len(found.loudness) == pytest.approx(1 / found.step, abs=1)


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_pieces_give_the_same_curves(size: int):
    wave = speech(4, 5, rate=8000, seconds=3.0).astype(np.float32)  # more than a block of frames
    whole, stream = prosody(wave, 8000), ProsodyStream(8000)
    for start in range(0, len(wave), size):
        stream.push(wave[start : start + size])
    told = stream.finish()
    np.testing.assert_array_equal(told.pitch, whole.pitch)
    np.testing.assert_array_equal(told.loudness, whole.loudness)
    np.testing.assert_allclose(told.colour, whole.colour, rtol=0, atol=1e-9)


def test_the_colour_is_how_loud_each_band_is():
    time = np.arange(22_050) / 22_050
    low, high = (0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 4000))
    colours = [prosody(wave, 22_050).colour[20:80] for wave in (low, high, low + high, 2 * low)]
    assert colours[0].shape == (60, NUM_COLOURS)
    bands = [np.unique(colour.argmax(axis=1)) for colour in colours[:2]]
    assert [len(band) for band in bands] == [1, 1] and bands[0] < bands[1]
    for colour, band in zip(colours, bands):
        np.testing.assert_allclose(colours[2][:, band], colour[:, band], atol=0.1)
    is_loud = colours[0] > FLOOR_DB + 10
    np.testing.assert_allclose((colours[3] - colours[0])[is_loud], 20 * np.log10(2), atol=0.01)


def test_a_glide_is_followed():
    rate, hertz = 16_000, np.linspace(120, 300, 32_000)
    found = prosody(voice(hertz, rate), rate)
    at = np.arange(20, 180)
    np.testing.assert_allclose(
        found.pitch[at], hertz[(at * found.step * rate).astype(int)], rtol=0.03
    )


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    assert np.isfinite(prosody(noise, 16_000).pitch).mean() < 0.1
    found = prosody(np.zeros(16_000), 16_000)
    assert not np.isfinite(found.pitch).any() and liveliness(found) is None
    assert prosody(np.ones(10), 16_000).loudness.shape == (1,)


def test_loudness_is_in_decibels_of_full_scale():
    wave = np.concatenate([voice(np.full(8000, 200.0), 16_000) * gain for gain in (1, 0.1)])
    loudness = prosody(wave, 16_000).loudness
    assert loudness[25] - loudness[75] == pytest.approx(20, abs=0.2)


def test_lively_even_and_subdued_speech():
    found = [liveliness(prosody(speech(*given), 16_000)) for given in ((5, 6), (3, 4), (1, 2.5))]
    assert [one.word for one in found] == ["lively", "even", "subdued"]
    # The middle 68 % of a sine reach to sin(0.34 pi) of its height, which is sqrt(2) deviations.
    expected = [1.239 * semitones for semitones in (5, 3, 1)]
    assert [one.spread for one in found] == pytest.approx(expected, rel=0.15)
    assert [one.pace for one in found] == pytest.approx([6, 4, 2.5], rel=0.2)
    assert found[2].median_hz == pytest.approx(200, rel=0.05)


def test_the_outline_has_the_extremes():
    samples = np.zeros(1000)
    samples[[333, 777]] = -0.5, 0.8
    found = outline(samples, 100)
    assert found.shape == (2, 100)
    assert (found.min(), found.max()) == (-0.5, 0.8)
    assert outline(samples[:7], 100).shape == (2, 7)


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_the_spectrogram_shows_where_a_tone_is(rate: int):
    t = np.arange(2 * rate) / rate
    low, high = (mel_picture(0.1 * np.sin(2 * np.pi * hertz * t), rate) for hertz in (300, 3000))
    assert low.dtype == np.uint8 and low.shape[0] == 64
    assert low[:, 50].argmax() < high[:, 50].argmax()
    assert mel_picture(np.zeros(60 * 8000), 8000).shape[1] <= MAX_COLUMNS


def test_silence_and_the_rounding_of_samples_are_dark():
    rate = 16_000
    t = np.arange(rate) / rate
    rounding = np.random.default_rng(0).uniform(-0.5, 0.5, rate) / 32768
    tone = 0.3 * np.sin(2 * np.pi * 440 * t)
    assert mel_picture(np.zeros(rate), rate).max() == 0
    assert mel_picture(rounding, rate).max() < 50
    loud, softer, quiet = (mel_picture(gain * tone + rounding, rate) for gain in (1, 0.5, 0.001))
    assert loud.max() == softer.max() == 255  # the loudest, whatever it is
    assert 100 < quiet.max() < 200
    assert np.median(quiet) < 20
