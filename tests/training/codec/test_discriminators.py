"""Discriminators: what they learn, and what the vocoder learns from them."""

import torch

from training.codec.discriminators import Discriminators

SAMPLES = 2048


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    """A tone, and noise that is as loud."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(SAMPLES) / 22050
    tone = 0.3 * torch.sin(2 * torch.pi * 220 * time).expand(2, 1, -1)
    noise = 0.2 * torch.randn(2, 1, SAMPLES, generator=generator)
    return tone.contiguous(), noise


def test_they_learn_to_tell_recorded_from_spoken():
    torch.manual_seed(0)
    discriminators, (tone, noise) = Discriminators(16), waves()
    optimizer = torch.optim.AdamW(discriminators.parameters(), 1e-3)
    before = discriminators.losses(noise, tone)[0].item()
    for _ in range(30):
        optimizer.zero_grad()
        discriminators.losses(noise, tone)[0].backward()
        optimizer.step()
    assert discriminators.losses(noise, tone)[0].item() < before / 4
    told = [(s.mean().item(), r.mean().item()) for (s, _), (r, _) in
            zip(discriminators(noise), discriminators(tone))]  # fmt: skip
    assert all(spoken < 0.4 and recorded > 0.6 for spoken, recorded in told), told


def test_each_side_learns_only_its_own_loss():
    torch.manual_seed(0)
    discriminators, (tone, noise) = Discriminators(16), waves()
    spoken = noise.clone().requires_grad_(True)
    _, deception, likeness = discriminators.losses(spoken, tone)
    (deception + likeness).backward()
    assert spoken.grad is not None and spoken.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminators.parameters())

    spoken.grad = None
    discriminators.losses(spoken, tone)[0].backward()
    assert spoken.grad is None
    assert all(p.grad is not None for p in discriminators.parameters())


def test_a_recording_is_like_itself():
    torch.manual_seed(0)
    discriminators, (tone, noise) = Discriminators(16), waves()
    assert discriminators.losses(tone, tone)[2].item() < 1e-6  # judged in batches of other sizes
    assert discriminators.losses(noise, tone)[2].item() > 0.1
