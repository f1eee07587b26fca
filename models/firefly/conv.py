"""Causal convolutions that run on a whole signal or on its pieces, with the same result."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


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


class FishConvNet(nn.Module):
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

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Convolve [B, C, T] to [B, C', ceil(T / stride)].

        With a state, x is the signal's next piece, and the result holds only the outputs whose
        inputs are complete; it may have length 0.
        """
        if state is None:
            return self.conv(F.pad(x, (self.left_padding, -x.shape[-1] % self.stride)))
        past = state.buffers.get(self)
        if past is None:
            past = x.new_zeros(*x.shape[:-1], self.left_padding)
        x = torch.cat([past, x], dim=-1)
        if state.last:
            x = F.pad(x, (0, -(x.shape[-1] - self.left_padding) % self.stride))
        num_outputs = (x.shape[-1] - self.left_padding) // self.stride
        state.buffers[self] = x[..., num_outputs * self.stride :].clone()
        if num_outputs == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        return self.conv(x)

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
        self.overlap = kernel_size - stride

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Upsample [B, C, T] to [B, C', T * stride]; with a state, x is the next piece."""
        length = x.shape[-1] * self.stride
        if state is None:
            return self.conv(x)[..., :length]
        if length == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        y = F.conv_transpose1d(x, self.conv.weight, stride=self.stride)
        tail = state.buffers.get(self)
        if tail is not None:
            y[..., : self.overlap] += tail
        state.buffers[self] = y[..., length:].clone()
        return y[..., :length] + self.conv.bias[:, None]

    def weight_norm(self) -> "FishTransConvNet":
        weight_norm(self.conv)
        return self
