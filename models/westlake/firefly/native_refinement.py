"""The codec's layers between codes and latents in C, all in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import CDLL, Structure, addressof, c_float, c_int64, c_void_p
from typing import TYPE_CHECKING, cast

from torch import Tensor

from ...transformer.native import scratch_of, share_of_threads
from .conv import FishTransConvNet
from .convnext import ConvNeXtBlock
from .native_layers import ConvolutionStruct, NativeLayers, bias_of

if TYPE_CHECKING:
    from .quantizer import DownsampleFiniteScalarQuantize


class RefinementStruct(Structure):
    _fields_ = [
        *((name, ConvolutionStruct) for name in ("up", "wide", "narrow")),
        *((name, c_void_p) for name in ("depthwise", "bias", "norm_weight", "norm_bias")),
        ("taps", c_int64),
        ("state", c_int64),
        ("eps", c_float),
    ]


class NativeRefinement(NativeLayers):
    """The weights between codes and latents as the C file sees them.

    Args:
        library: from `load_library`.
        quantizer: with final weights, of channels that are whole vectors.
    """

    def __init__(self, library: CDLL, quantizer: DownsampleFiniteScalarQuantize) -> None:
        super().__init__(library)
        parts = cast("Iterable[tuple[FishTransConvNet, ConvNeXtBlock]]", quantizer.upsample)
        blocks = [self._block(up, block) for up, block in parts]
        self.blocks = (RefinementStruct * len(blocks))(*blocks)

    def _block(self, up: FishTransConvNet, block: ConvNeXtBlock) -> RefinementStruct:
        self.rate *= up.stride
        conv, first, second = block.dwconv, block.pwconv1, block.pwconv2
        gamma = block.gamma.detach()
        state = self.keep(conv.left_padding * conv.conv.in_channels)
        return RefinementStruct(
            self.layer(*self.raising(up)),
            self.layer(first.weight.detach()[..., None], first.bias),
            self.layer((gamma[:, None] * second.weight)[..., None], gamma * second.bias),
            self.floats(conv.conv.weight[:, 0].mT),  # [taps, C]
            self.floats(bias_of(conv)),
            self.floats(block.norm.weight),
            self.floats(block.norm.bias),
            conv.left_padding + 1,
            state,
            block.norm.eps,
        )

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The next pieces of some signals, each as alone, to the bit.

        Args:
            x: [B, C, L], what the codes stand for.
            states: B rows as `states` gives them, which are brought up to date.

        Returns:
            hidden [B, C, L * rate] float32.

        Raises:
            ValueError: fewer or more states than signals.
        """
        num_rows, channels, num_frames = x.shape
        pointers = self.pointers(states, num_rows)
        frames = x.mT.float().contiguous()  # [B, L, C]
        hidden = frames.new_empty(num_rows, num_frames * self.rate, channels)
        if not num_rows:
            return hidden.mT
        blocks, sizes = addressof(self.blocks), (len(self.blocks), num_rows, num_frames)
        num_bytes = self.compiled.native_refinement_scratch(blocks, *sizes)
        with share_of_threads() as threads:
            self.compiled.native_refinement(
                blocks, frames.data_ptr(), pointers, hidden.data_ptr(), *sizes,
                scratch_of((0,), num_bytes)[1], threads,
            )  # fmt: skip
        return hidden.mT
