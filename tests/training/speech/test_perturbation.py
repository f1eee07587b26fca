"""Log-mels as other people might have made them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.westlake.firefly.mel import LogMelSpectrogram
from training.codec.config import TINY_CODEC
from training.speech.perturbation import perturb, roughen, with_pace, with_tract

NUM_MELS = TINY_CODEC.n_mels


def mel_of(*hertz: float) -> Tensor:
    """A quarter of a second of each tone: [1, M, T]."""
    time = torch.arange(TINY_CODEC.sample_rate // 4) / TINY_CODEC.sample_rate
    wave = torch.cat([0.3 * torch.sin(2 * torch.pi * f * time) for f in hertz])
    return LogMelSpectrogram(TINY_CODEC)(wave[None, None])


@pytest.mark.parametrize("hertz", [400.0, 1500.0, 4000.0])
@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_longer_tract_has_lower_resonances(hertz: float, factor: float):
    changed = with_tract(mel_of(hertz), factor)[0].mean(-1)
    expected = mel_of(hertz / factor)[0].mean(-1)
    assert abs(int(changed.argmax()) - int(expected.argmax())) <= 1
    assert torch.equal(with_tract(mel_of(hertz), 1.0), mel_of(hertz))


def test_what_is_said_is_where_it_went():
    mel, rng = mel_of(300, 900, 2000, 5000), np.random.default_rng(0)
    bands = mel[0].argmax(0)
    for _ in range(20):
        slower, places = with_pace(mel, rng)
        assert len(places) == mel.shape[-1] and (np.diff(places) > 0).all()
        found = slower[0].argmax(0)[places.round().astype(int).clip(max=slower.shape[-1] - 1)]
        assert (found == bands).float().mean() > 0.9
    lengths = [with_pace(mel, rng)[0].shape[-1] / mel.shape[-1] for _ in range(200)]
    assert 0.5 < min(lengths) < 0.8 and 1.1 < max(lengths) < 1.7


def test_a_share_of_spectra_is_made_rough():
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(40, NUM_MELS, 24, generator=generator) - 3
    rough = roughen(mel, 0.5, generator)
    changed = (rough != mel).flatten(1).any(1)
    assert 10 <= changed.sum() <= 30 and rough.isfinite().all()
    assert (rough - mel)[changed].square().mean() < 3 * mel.var()
    assert torch.equal(roughen(mel, 0.0, generator), mel)


def test_the_same_seed_perturbs_the_same():
    mel = mel_of(300, 900)
    (first, at), (second, also_at), (other, _) = (
        perturb(mel, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and np.array_equal(at, also_at)
    assert first.shape != other.shape and first.isfinite().all()


def test_the_shortest_speech_stays_some():
    for seed in range(50):
        mel, places = perturb(torch.zeros(1, NUM_MELS, 4), np.random.default_rng(seed))
        assert mel.shape[-1] >= 1 and len(places) == 4
