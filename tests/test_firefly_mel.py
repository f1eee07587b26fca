"""The mel spectrogram equals a float64 reference."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
from torch import Tensor

from models.westlake.firefly import (
    FireflyArchitecture,
    FireflyConfig,
    LogMelSpectrogram,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slaney_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """[n_mels, n_fft // 2 + 1] triangles of area 1, written from the definition of the scale."""
    log_step = np.log(6.4) / 27  # linear to 1 kHz (mel 15), from there 27 mels to 6.4 kHz

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) / log_step

    mels = np.linspace(0, to_mel(sample_rate // 2), n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(log_step * (mels - 15)))
    frequencies = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - left) / (center - left)
    falling = (right - frequencies) / (right - center)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def reference_mel(wave: np.ndarray, config: FireflyConfig) -> tuple[np.ndarray, np.ndarray]:
    """Mel and linear of one signal [T], frame by frame in float64."""
    margin = config.win_length - config.hop_length
    padded = np.pad(wave.astype(np.float64), (margin // 2, (margin + 1) // 2), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.win_length) / config.win_length)
    starts = range(0, len(padded) - config.win_length + 1, config.hop_length)
    spectrum = np.stack([np.fft.rfft(padded[s : s + config.win_length] * window) for s in starts])
    magnitude = np.sqrt(np.abs(spectrum.T) ** 2 + 1e-6)
    mel = slaney_filterbank(config.sample_rate, config.n_fft, config.n_mels) @ magnitude
    return np.log(np.maximum(mel, 1e-5)), np.log(np.maximum(magnitude, 1e-5))


@pytest.mark.parametrize("size", ["published", "small", "odd"])
def test_mel_equals_a_float64_reference(size: str, small_codec: FireflyArchitecture):
    config = {
        "published": FireflyConfig(),
        "small": small_codec.config,
        "odd": dataclasses.replace(small_codec.config, n_fft=1001, win_length=1001),
    }[size]
    num_samples = 9 * config.hop_length + 123
    wave = 0.3 * noise(2, 1, num_samples) * torch.linspace(0, 1, num_samples)
    mel, linear = LogMelSpectrogram(config)(wave, return_linear=True)
    assert mel.shape == (2, config.n_mels, 9)
    assert linear.shape == (2, config.n_fft // 2 + 1, 9)
    for row in range(2):
        expected_mel, expected_linear = reference_mel(wave[row, 0].numpy(), config)
        np.testing.assert_allclose(mel[row].numpy(), expected_mel, atol=1e-4, rtol=0)
        # a bin that cancels to almost nothing keeps few of float32's digits
        np.testing.assert_allclose(linear[row].numpy(), expected_linear, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
def test_mel_of_silence_stands_on_the_floor(small_codec: FireflyArchitecture):
    config = dataclasses.replace(small_codec.config, n_mels=400)  # some hold no bin at all
    mel = LogMelSpectrogram(config)(torch.zeros(1, 1, 2000))
    expected, _ = reference_mel(np.zeros(2000), config)
    np.testing.assert_allclose(mel[0].numpy(), expected, atol=1e-4, rtol=0)
    assert mel.min().item() == pytest.approx(math.log(1e-5))


def test_mel_resamples_another_rate(small_codec: FireflyArchitecture):
    wave, mel = noise(1, 1, 4000), small_codec.spec_transform
    expected = mel(AF.resample(wave, 16000, 22050))
    assert torch.equal(mel(wave, sample_rate=16000), expected)
    assert torch.equal(mel(wave, sample_rate=22050), mel(wave))


def test_mel_of_another_rate_cannot_stream(small_codec: FireflyArchitecture):
    with pytest.raises(ValueError, match="whole signals only"):
        small_codec.spec_transform(noise(1, 1, 4000), small_codec.new_state(), sample_rate=16000)


@pytest.mark.parametrize("num_samples", [0, 1, 384])
def test_too_short_a_wave_is_an_error(small_codec: FireflyArchitecture, num_samples: int):
    assert small_codec.spec_transform.min_samples == 385
    with pytest.raises(ValueError, match=f"{num_samples} samples is too short .* at least 385"):
        small_codec.encode(torch.zeros(1, 1, num_samples), torch.tensor([num_samples]))


def test_mel_has_no_state_dict_keys(small_codec: FireflyArchitecture):
    assert small_codec.spec_transform.state_dict() == {}
