"""Latents <-> codes at a lower rate."""

from collections.abc import Iterable
from ctypes import CDLL
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import FireflyConfig
from .conv import FishConvNet, FishTransConvNet, Packable, StreamState
from .convnext import ConvNeXtBlock
from .fsq import GroupedScalarQuantizer
from .native_refinement import NativeRefinement


class DownsampleFiniteScalarQuantize(Packable):
    """Lowers the rate, quantises each frame, and mirrors that (published part ``quantizer``)."""

    def __init__(self, config: FireflyConfig) -> None:
        super().__init__()
        dim = config.latent_dim

        def block() -> ConvNeXtBlock:
            return ConvNeXtBlock(dim, config.encoder_kernel_size, config.layer_scale_init)

        self.downsample = nn.ModuleList(
            nn.ModuleList([FishConvNet(dim, dim, factor, stride=factor), block()])
            for factor in config.downsample_factors
        )
        with torch.device("cpu"):  # its numbers are no weights, which a file would bring
            self.residual_fsq = GroupedScalarQuantizer(dim, config.num_codebooks, config.fsq_levels)
        self.upsample = nn.ModuleList(
            nn.ModuleList([FishTransConvNet(dim, dim, factor, stride=factor), block()])
            for factor in reversed(config.downsample_factors)
        )

        self.register_buffer("table", None, persistent=False)
        self.packed: NativeRefinement | None = None

    @torch.no_grad()
    def tabulate(self) -> None:
        """Work out once what each code stands for; `decode` then looks it up."""
        device = next(self.parameters()).device
        codes = torch.arange(self.residual_fsq.codebook_size, device=device)
        num_groups = len(self.residual_fsq.rvqs)
        values = self.residual_fsq.decode(codes.expand(1, num_groups, -1))  # [1, codes, C]
        self.table = rearrange(values, "1 n (g c) -> g n c", g=num_groups).contiguous()

    def pack(self, library: CDLL) -> None:
        """Let C decode final weights, in its dtype; encoding stays as it is.

        Weights that are loaded or converted later have to be packed again.
        """
        self.packed = NativeRefinement(library, self)

    def encode(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Hidden [B, C, T] -> codes [B, K, ceil(T / mels_per_frame)], long, 0..codebook_size-1."""
        x = self._down(x, state)
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], len(self.residual_fsq.rvqs), 0).long()
        return self.residual_fsq(x.mT)[1]

    def decode(self, codes: Tensor, state: StreamState | None = None) -> Tensor:
        """Codes [B, K, L] -> hidden [B, C, L * mels_per_frame]."""
        if self.table is None:
            x = self.residual_fsq.decode(codes)
        else:
            groups = torch.arange(len(self.table), device=codes.device)
            x = self.table[groups, codes.mT].flatten(2)
        return self._up(x.mT, state)

    def _down(self, x: Tensor, state: StreamState | None) -> Tensor:
        for conv, block in cast(Iterable[nn.ModuleList], self.downsample):
            x = block(conv(x, state), state)
        return x

    def _up(self, x: Tensor, state: StreamState | None) -> Tensor:
        if self.packed is not None:
            states = self.packed.states(self, len(x), state)
            return self.packed(x, states.unbind())
        for conv, block in cast(Iterable[nn.ModuleList], self.upsample):
            x = block(conv(x, state), state)
        return x
