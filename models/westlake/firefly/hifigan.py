"""Latents -> wave: a causal HiFi-GAN generator (Kong et al., 2020, arXiv:2010.05646)."""

from ctypes import CDLL

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...devices import multiplies_bfloat16
from .config import FireflyConfig
from .conv import FishConvNet, FishTransConvNet, Packable, StreamState
from .native_layers import sample_dtype
from .native_vocoder import NativeVocoder


class ResidualStack(nn.Module):
    """Pairs of dilated causal convolutions, each pair with a residual; [B, C, T] -> same."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def convs() -> nn.ModuleList:
            return nn.ModuleList(
                FishConvNet(channels, channels, kernel_size, dilation=dilation)
                for dilation in dilations
            )

        self.convs1 = convs()
        self.convs2 = convs()

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        for conv1, conv2 in zip(self.convs1, self.convs2):
            x = x + conv2(F.silu(conv1(F.silu(x), state)), state)
        return x


class ParallelBlock(nn.Module):
    """The mean of one residual stack per kernel size."""

    def __init__(
        self, channels: int, kernel_sizes: tuple[int, ...], dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualStack(channels, k, dilations) for k in kernel_sizes)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return sum(block(x, state) for block in self.blocks) / len(self.blocks)


class HiFiGANGenerator(Packable):
    """Hidden [B, C, T] -> wave [B, 1, T * hop_length] in -1..1 (published part ``head``).

    Both are float32, whatever the dtype of its weights, in which it computes.

    Args:
        weight_norm: of all convolutions, as published; without it their weights are plain.
    """

    def __init__(self, config: FireflyConfig, weight_norm: bool = True) -> None:
        super().__init__()
        channels = config.decoder_dim
        self.config = config
        kernel_size = config.decoder_kernel_size
        self.conv_pre = FishConvNet(config.latent_dim, channels, kernel_size)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = FishTransConvNet(channels, channels // 2, kernel, stride=rate)
            channels //= 2
            self.ups.append(up)
            self.resblocks.append(
                ParallelBlock(channels, config.resblock_kernel_sizes, config.resblock_dilations)
            )
        self.conv_post = FishConvNet(channels, 1, kernel_size)
        self.packed: NativeVocoder | None = None
        if weight_norm:
            for module in list(self.modules()):
                if isinstance(module, (FishConvNet, FishTransConvNet)):
                    module.weight_norm()

    def pack(self, library: CDLL | None = None) -> None:
        """Convert final weights to the dtype in which this CPU multiplies them fastest, and lay
        them so.

        In PyTorch bfloat16 ones; else each call lays them anew, which takes a short chunk longer
        than its products. In C what is computed is rounded less. Weights that are loaded or
        converted later have to be packed again.

        Args:
            library: from `load_library`; it is used where it has room for all stages.
        """
        if library is not None and NativeVocoder.takes(library, self):
            self.to(sample_dtype(library))
            self.packed = NativeVocoder(library, self)
        elif multiplies_bfloat16(torch.device("cpu")):
            self.to(torch.bfloat16)
            for module in self.modules():
                if isinstance(module, FishConvNet):
                    module.pack()

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if self.packed is not None:
            states = self.packed.states(self, len(x), state)
            return self.packed(x, states.unbind()).tanh_()
        x = self.conv_pre(x.to(self.conv_pre.conv.weight.dtype), state)
        for up, block in zip(self.ups, self.resblocks):
            x = up(F.silu(x), state)
            if self.training and self.config.gradient_checkpointing and state is None:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, state)
        return torch.tanh(self.conv_post(F.silu(x), state).float())
