"""Discriminators that tell recorded speech from the vocoder's, and what it learns from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

RESOLUTIONS = (512, 1024, 2048)  # samples of a window, a quarter of which it moves on
CHANNELS = 16
COMPRESSION = 0.3  # exponent of magnitudes, so that quiet parts count too


class SpectrogramDiscriminator(nn.Module):
    """Judges patches of a spectrogram (UnivNet: Jang et al., 2021, arXiv:2106.07889).

    Args:
        window_size: samples.
    """

    def __init__(self, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)
        # Frequencies are halved four times, so that patches are wide in them and short in time.
        kernels = [(7, 3)] * 4 + [(3, 3)]
        strides = [(2, 1)] * 4 + [(1, 1)]
        self.convs = nn.ModuleList(
            weight_norm(
                nn.Conv2d(
                    CHANNELS if index else 1,
                    CHANNELS,
                    kernel,
                    stride,
                    padding=(kernel[0] // 2, kernel[1] // 2),
                )
            )
            for index, (kernel, stride) in enumerate(zip(kernels, strides))
        )
        self.judge = weight_norm(nn.Conv2d(CHANNELS, 1, (3, 3), padding=1))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Wave [B, 1, n] float32 -> scores [B, 1, F, T], 1 for recorded, and layers' outputs."""
        spectrum = torch.stft(
            wave.squeeze(1).float(),
            self.window_size,
            self.window_size // 4,
            window=self.window,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        x = (power + 1e-6).pow(COMPRESSION / 2)[:, None]
        layers = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            layers.append(x)
        return self.judge(x), layers


class Discriminators(nn.ModuleList):
    """One at each resolution."""

    def __init__(self) -> None:
        super().__init__(SpectrogramDiscriminator(size) for size in RESOLUTIONS)

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [discriminator(wave) for discriminator in self]

    def losses(self, spoken: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How badly waves [B, 1, n] are told apart, which only the discriminators learn from; and
        what only the speaker does: how badly it is taken for a recording, and how unlike one it
        is in all layers.

        Least squares (Mao et al., 2017, arXiv:1611.04076); feature matching (Larsen et al., 2016,
        arXiv:1512.09300).
        """
        self.requires_grad_(False)
        judged = self(spoken)
        self.requires_grad_(True)
        real = self(recorded)
        fakes = [score for score, _ in self(spoken.detach())]
        told = [
            fake.float().square().mean() + (1 - score.float()).square().mean()
            for fake, (score, _) in zip(fakes, real)
        ]
        deception = [(1 - score.float()).square().mean() for score, _ in judged]
        likeness = [
            F.l1_loss(p.float(), t.detach().float()) / t.detach().float().abs().mean()
            for (_, predicted), (_, target) in zip(judged, real)
            for p, t in zip(predicted, target)
        ]
        return _mean(told), _mean(deception), _mean(likeness)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
