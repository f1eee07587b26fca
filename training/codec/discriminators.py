"""Discriminators that tell recorded speech from the vocoder's, and what it learns from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

RESOLUTIONS = (512, 1024, 2048)  # samples of a window, a quarter of which it moves on
COMPRESSION = 0.3  # exponent of magnitudes, so that quiet parts count too
QUIET = 1e-4  # power below which they count no more
PERIODS = (2, 3, 5, 7, 11)  # samples


class PictureDiscriminator(nn.Module):
    """Makes a picture [B, C, H, W] of a wave, convolves it, and scores each place of the result.

    Args:
        channels: of the picture and of each layer.
        kernels, strides: of each layer, and of the scores' kernel last.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernels: Sequence[tuple[int, int]],
        strides: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _convolution(inputs, outputs, kernel, stride)
            for inputs, outputs, kernel, stride in zip(channels, channels[1:], kernels, strides)
        )
        self.score = _convolution(channels[-1], 1, kernels[-1])

    def picture(self, wave: Tensor) -> Tensor:
        """Of waves [B, 1, n] float32."""
        raise NotImplementedError

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Wave [B, 1, n] float32 -> scores [B, 1, H, W], 1 for recorded, and layers' outputs."""
        x = self.picture(wave)
        layers = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            if not layers:  # as GPUs multiply them; the layers after it keep that order
                x = x.contiguous(memory_format=torch.channels_last)
            layers.append(x)
        return self.score(x), layers


class SpectrogramDiscriminator(PictureDiscriminator):
    """Judges patches of a spectrogram: its compressed magnitudes (UnivNet: Jang et al., 2021,
    arXiv:2106.07889) and, for the harmonics' phases, real and imaginary parts (EnCodec: Defossez
    et al., 2022, arXiv:2210.13438).

    Args:
        window_size: samples.
        width: channels.
    """

    window: Tensor

    def __init__(self, window_size: int, width: int) -> None:
        # Frequencies are halved four times, so that patches are wide in them and short in time.
        kernels = [(7, 3)] * 4 + [(3, 3), (3, 3)]
        super().__init__([3] + [width] * 5, kernels, [(2, 1)] * 4 + [(1, 1)])
        self.window_size = window_size
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)

    def picture(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(
            wave.squeeze(1).float(),
            self.window_size,
            self.window_size // 4,
            window=self.window,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square() + QUIET
        scale = power.pow((COMPRESSION - 1) / 2)
        parts = [spectrum.real * scale, spectrum.imag * scale, power.sqrt() * scale]
        return torch.stack(parts, dim=1)


class PeriodDiscriminator(PictureDiscriminator):
    """Judges every `period`-th sample of a wave, as a picture of that many columns (HiFi-GAN: Kong
    et al., 2020, arXiv:2010.05646).

    Args:
        width: channels of the first layer; the last ones have 16 times as many.
    """

    def __init__(self, period: int, width: int) -> None:
        channels = [1] + [factor * width for factor in (1, 4, 8, 16, 16)]
        super().__init__(channels, [(5, 1)] * 5 + [(3, 1)], [(3, 1)] * 4 + [(1, 1)])
        self.period = period

    def picture(self, wave: Tensor) -> Tensor:
        padded = F.pad(wave, (0, -wave.shape[-1] % self.period), mode="reflect")
        return padded.unflatten(-1, (-1, self.period))


class Discriminators(nn.ModuleList):
    """One for each resolution and each period.

    Args:
        width: channels of their first layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            [SpectrogramDiscriminator(size, width) for size in RESOLUTIONS]
            + [PeriodDiscriminator(period, width) for period in PERIODS]
        )

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
        both = self(torch.cat([recorded, spoken.detach()]))
        told, deception, likeness = [], [], []
        for (score, predicted), (scores, layers) in zip(judged, both, strict=True):
            real, fake = scores.float().chunk(2)
            told.append(fake.square().mean() + (1 - real).square().mean())
            deception.append((1 - score.float()).square().mean())
            for p, layer in zip(predicted, layers, strict=True):
                target = layer[: len(p)].detach().float()
                likeness.append(F.l1_loss(p.float(), target) / target.abs().mean())
        return _mean(told), _mean(deception), _mean(likeness)


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)
) -> nn.Conv2d:
    """The picture keeps its size, but for the stride."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=padding))


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
