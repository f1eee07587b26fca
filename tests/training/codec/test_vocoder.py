"""The vocoder's stages and its losses."""

from pathlib import Path

import pytest
import torch
from recipe import recogniser_of

from training.codec import encoder, vocoder
from training.codec.config import MEL_FLOOR, new_codec


@pytest.fixture
def trained(clip: Path, tmp_path: Path, small_models) -> Path:
    folder = tmp_path / "stages"
    encoder.train_codes({clip: 1.0}, clip, folder, 1e-6, "cpu")
    return folder


def test_the_vocoder_is_trained_in_two_stages(trained: Path, clip: Path):
    ear, speech, codes = recogniser_of(["a1"]), {clip: 1.0}, trained / "codes.pt"
    vocoder.train_slow_stages(codes, ear, speech, speech, trained, 1e-6, "cpu")
    slow = trained / "slow_stages.pt"
    codec, head = vocoder.load_slow_stages(codes, slow)
    learned = torch.load(slow, weights_only=True)["modules"]
    assert torch.equal(head.mel.weight, learned["mel"]["weight"])
    first = encoder.load_codes(codes)
    upsample = codec.quantizer.upsample.state_dict()
    assert any(
        not torch.equal(x, upsample[k]) for k, x in first.quantizer.upsample.state_dict().items()
    )
    slow_parts = ("conv_pre", "ups.0.", "resblocks.0.")
    for name, weight in first.head.state_dict().items():
        learns = name.startswith(slow_parts)
        assert torch.equal(weight, codec.head.state_dict()[name]) != learns

    vocoder.train_vocoder(codes, slow, ear, speech, speech, trained, 1e-6, "cpu")
    loaded = vocoder.load_codec(codes, trained / "vocoder.pt")
    assert not loaded.training
    head = loaded.head.state_dict()
    assert any(not torch.equal(x, head[k]) for k, x in codec.head.state_dict().items())
    # What makes the codes stays as the first stage left it.
    assert all(
        torch.equal(x, loaded.backbone.state_dict()[k])
        for k, x in first.backbone.state_dict().items()
    )
    assert not any(p.requires_grad for p in ear.parameters())
    for name in ("original", "decoded"):
        assert (trained / f"vocoder_{name}.wav").stat().st_size > 10_000


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 1, 8192, generator=generator) * 0.1
    return first, first + 0.05 * torch.randn(2, 1, 8192, generator=generator)


def test_losses_are_0_for_the_same_and_grow_with_the_difference(small_models):
    codec, ear = new_codec().eval(), recogniser_of(["a1"])
    target, near = waves()
    far = torch.randn_like(target) * 0.5
    with torch.no_grad():
        for loss in (
            vocoder.spectral_loss,
            lambda p, t: vocoder.hearing_loss(codec, ear, p, t),
            lambda p, t: vocoder.spectrum_loss(ear, *map(codec.spec_transform, (p, t))),
        ):
            assert loss(target, target) == 0 < loss(near, target) < loss(far, target)


def test_the_spectral_convergence_of_silence_is_1():
    target, _ = waves()
    silence = torch.zeros_like(target)
    floor = torch.full((1,), 1e-4).log()
    sizes = [
        torch.stft(target[:, 0], n, n // 4, window=torch.hann_window(n), return_complex=True).abs()
        for n in vocoder.STFT_SIZES
    ]
    logs = sum((s.clamp(min=1e-4).log() - floor).mean() for s in sizes) / len(sizes)
    assert vocoder.spectral_loss(silence, target) == pytest.approx(1 + logs.item(), rel=1e-3)


def test_what_is_below_the_noise_is_not_learned(small_models):
    mel = vocoder.mel_target(new_codec(), torch.zeros(1, 1, 4096))
    assert mel.shape == (1, 100, 16) and (mel == MEL_FLOOR).all()
