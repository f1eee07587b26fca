"""Log-mel -> latents: a causal ConvNeXt (Liu et al., 2022, arXiv:2201.03545)."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from .config import FireflyConfig
from .conv import FishConvNet, StreamState

NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class DropPath(nn.Module):
    """In training, drops a residual branch for a whole example (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, then an MLP of ratio 4 for each position; [B, C, T] -> same."""

    def __init__(
        self, dim: int, kernel_size: int, layer_scale_init: float, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.dwconv = FishConvNet(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        h = self.dwconv(x, state).mT  # [B, T, C]
        h = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(h))))
        return x + self.drop_path(h.mT)


class ConvNeXtEncoder(nn.Module):
    """Mel [B, n_mels, T] -> hidden [B, latent_dim, T] (published part ``backbone``)."""

    def __init__(self, config: FireflyConfig) -> None:
        super().__init__()
        dims, depths = config.encoder_dims, config.encoder_depths
        kernel_size = config.encoder_kernel_size
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(FishConvNet(config.n_mels, dims[0], kernel_size), ChannelNorm(dims[0]))]
        )
        for dim_in, dim_out in zip(dims, dims[1:]):
            self.downsample_layers.append(
                nn.Sequential(ChannelNorm(dim_in), nn.Conv1d(dim_in, dim_out, kernel_size=1))
            )
        rates = iter(torch.linspace(0, config.drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ConvNeXtBlock(dim, kernel_size, config.layer_scale_init, next(rates))
                for _ in range(depth)
            )
            for dim, depth in zip(dims, depths)
        )
        self.norm = ChannelNorm(dims[-1])

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if x.shape[-1] == 0:  # a stream's piece that completes no mel frame
            return x.new_zeros(x.shape[0], self.norm.normalized_shape[0], 0)
        layers = cast(Iterable[nn.ModuleList], self.downsample_layers)
        for projection, blocks in zip(layers, cast(Iterable[nn.ModuleList], self.stages)):
            for layer in projection:
                x = layer(x, state) if isinstance(layer, FishConvNet) else layer(x)
            for block in blocks:
                x = block(x, state)
        return self.norm(x)
