"""Causal convolutions that run on a whole signal or on its pieces, with the same result.

Signals are [B, C, T], but lie in memory as [B, T, C]: the products need their inputs in no other
order, which makes the whole vocoder about twice as fast in bfloat16.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PACKED_LENGTH = 64  # of signals that packed weights are laid for; others are convolved as well


class StreamState:
    """What the streaming layers remember of one signal between its chunks.

    The caller makes one per signal (``FireflyArchitecture.new_state``) and hands it to every call;
    the layers, which hold weights only, keep their tensors in ``buffers`` under themselves.
    ``last`` is True while the signal's final chunk passes through.
    """

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.last = False
        self.buffers: dict[nn.Module, Tensor] = {}

    @property
    def num_bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers.values())


class Packable(nn.Module):
    """Keeps in `packed` what it makes of final weights to be quick; weights that come or are
    converted later undo it."""

    packed: Any = None

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        self.packed = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self.packed = None
        super()._load_from_state_dict(*args, **kwargs)


class FishConvNet(Packable):
    """Causal Conv1d (published part of that name).

    Left of the signal stand ``kernel_span - stride`` zeros, with
    kernel_span = (kernel_size - 1) * dilation + 1; right of it only the zeros that make its length
    a whole number of strides.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups
        )
        self.stride = stride
        self.kernel_span = (kernel_size - 1) * dilation + 1
        self.left_padding = self.kernel_span - stride
        self.packed: Tensor | None = None

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Convolve [B, C, T] to [B, C', ceil(T / stride)].

        With a state, x is the signal's next piece, and the result holds only the outputs whose
        inputs are complete; it may have length 0.
        """
        if state is None:
            return self._convolve(_pad(x, self.left_padding, -x.shape[-1] % self.stride))
        past = state.buffers.get(self)
        if past is None:
            past = x.new_zeros(*x.shape[:-1], self.left_padding)
        x = torch.cat([past.mT, x.mT], dim=1).mT
        if state.last:
            x = _pad(x, 0, -(x.shape[-1] - self.left_padding) % self.stride)
        num_outputs = (x.shape[-1] - self.left_padding) // self.stride
        state.buffers[self] = x[..., num_outputs * self.stride :].clone()
        if num_outputs == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        # Only as pictures of one row may signals lie in memory as they do here.
        conv = self.conv
        if self.packed is not None:
            how = [0, 0], [1, self.stride], [1, conv.dilation[0]], conv.groups
            y = torch.ops.mkldnn._convolution_pointwise(
                x.unsqueeze(2), self.packed, conv.bias, *how, "none", [], ""
            )
            return y.squeeze(2)
        return F.conv2d(
            x.unsqueeze(2),
            conv.weight.unsqueeze(2),
            conv.bias,
            stride=(1, self.stride),
            dilation=(1, conv.dilation[0]),
            groups=conv.groups,
        ).squeeze(2)

    def pack(self) -> None:
        """See `HiFiGANGenerator.pack`."""
        conv, length = self.conv, self.kernel_span + PACKED_LENGTH
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach().unsqueeze(2),
            *([0, 0], [1, self.stride], [1, conv.dilation[0]], conv.groups),
            [1, conv.in_channels, 1, length],
        )

    def weight_norm(self) -> "FishConvNet":
        weight_norm(self.conv)
        return self


class FishTransConvNet(nn.Module):
    """Causal ConvTranspose1d, trimmed by kernel_size - stride on the right (published part)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)
        self.stride = stride
        self.steps = -(-kernel_size // stride)  # of the input, that an output depends on

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Upsample [B, C, T] to [B, C', T * stride]; with a state, x is the next piece."""
        num_steps = x.shape[-1]
        if num_steps == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        kernel = self.conv.weight
        if missing := -kernel.shape[-1] % self.stride:
            kernel = F.pad(kernel, (0, missing))
        kernel = rearrange(kernel, "c d (m s) -> c (m s d)", m=self.steps)
        parts = (x.mT @ kernel).unflatten(-1, (self.steps, -1)).unbind(2)  # each [B, T, s * C']
        y = F.pad(parts[0], (0, 0, 0, self.steps - 1))
        for step, part in enumerate(parts[1:], start=1):
            y[:, step : step + num_steps] += part
        if state is not None:
            tail = state.buffers.get(self)
            if tail is not None:
                y[:, : self.steps - 1] += tail
            state.buffers[self] = y[:, num_steps:].clone()
        y = y[:, :num_steps].unflatten(-1, (self.stride, -1)).flatten(1, 2)  # [B, T * s, C']
        return (y + self.conv.bias).mT

    def weight_norm(self) -> "FishTransConvNet":
        weight_norm(self.conv)
        return self


def _pad(x: Tensor, left: int, right: int) -> Tensor:
    """Zeros around [B, C, T], which is laid out as [B, T, C]."""
    return F.pad(x.mT, (0, 0, left, right)).mT
