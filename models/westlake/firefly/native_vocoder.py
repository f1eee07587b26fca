"""The codec's vocoder in C, all layers in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import CDLL, POINTER, Structure, addressof, c_int64
from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor

from ...transformer.native import scratch_of, share_of_threads
from .conv import FishConvNet, FishTransConvNet
from .native_layers import ConvolutionStruct, NativeLayers

if TYPE_CHECKING:
    from .hifigan import HiFiGANGenerator, ParallelBlock, ResidualStack


COUNT_BYTES = 4  # a signal's count of positions, a uint32


class StageStruct(Structure):
    _fields_ = [
        ("up", ConvolutionStruct),
        ("convs", POINTER(ConvolutionStruct)),
        ("num_stacks", c_int64),
        ("num_pairs", c_int64),
    ]


class VocoderStruct(Structure):
    _fields_ = [
        ("first", ConvolutionStruct),
        ("last", ConvolutionStruct),
        ("stages", POINTER(StageStruct)),
        ("num_stages", c_int64),
    ]


class NativeVocoder(NativeLayers):
    """A vocoder's weights as the C file sees them.

    Args:
        library: from `load_library`.
        head: with final weights, of plain layers, that it `takes`.
    """

    def __init__(self, library: CDLL, head: HiFiGANGenerator) -> None:
        super().__init__(library)
        self.keep(COUNT_BYTES // self.dtype.itemsize)
        first = self.layer(*self.plain(head.conv_pre))
        stages = []
        parts = zip(head.ups, head.resblocks, strict=True)
        for up, block in cast("Iterable[tuple[FishTransConvNet, ParallelBlock]]", parts):
            self.rate *= up.stride
            stages.append(self._stage(up, block))
        last = self.layer(*self.plain(head.conv_post))
        array = (StageStruct * len(stages))(*stages)
        self.struct = VocoderStruct(first, last, array, len(stages))

    @staticmethod
    def takes(library: CDLL, head: HiFiGANGenerator) -> bool:
        """Whether a vocoder has no more stages than the library has room for."""
        return len(head.ups) <= library.native_max_stages()

    def _stage(self, up: FishTransConvNet, block: ParallelBlock) -> StageStruct:
        raised = self.layer(*self.raising(up))
        stacks = [_convs_of(stack) for stack in cast("Iterable[ResidualStack]", block.blocks)]
        # All begin with the same inputs, which are kept once.
        needed = max(convs[0].left_padding for convs in stacks)
        channels = self.filled(stacks[0][0].conv.in_channels)
        shared = self.keep(needed * channels)
        shortest = min(convs[0].conv.kernel_size[0] for convs in stacks)
        is_whole = channels % (self.side * self.width) == 0
        paired = bool(self.compiled.native_pairs()) and is_whole and shortest >= 3
        layers = [
            self.layer(*self.plain(conv), conv.conv.dilation[0], None if number else shared, paired)
            for convs in stacks
            for number, conv in enumerate(convs)
        ]
        array = (ConvolutionStruct * len(layers))(*layers)
        return StageStruct(raised, array, len(stacks), len(stacks[0]) // 2)

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The next pieces of some signals, each as alone, to the bit.

        Args:
            x: hidden [B, C, T].
            states: B rows as `states` gives them, which are brought up to date.

        Returns:
            [B, 1, T * rate] float32, before the final tanh.

        Raises:
            ValueError: fewer or more states than signals.
        """
        num_rows, channels, num_steps = x.shape
        pointers = self.pointers(states, num_rows)
        missing = self.filled(channels) - channels
        hidden = F.pad(x.mT.float(), (0, missing)).contiguous()  # [B, T, C]
        wave = hidden.new_empty(num_rows, 1, num_steps * self.rate)
        if not num_rows:
            return wave
        vocoder = addressof(self.struct)
        num_bytes = self.compiled.native_vocoder_scratch(vocoder, num_rows, num_steps)
        with share_of_threads() as threads:
            self.compiled.native_vocoder(
                vocoder, hidden.data_ptr(), pointers, wave.data_ptr(), num_rows, num_steps,
                scratch_of((0,), num_bytes)[1], threads,
            )  # fmt: skip
        return wave


def _convs_of(stack: ResidualStack) -> list[FishConvNet]:
    """In their order."""
    pairs = zip(stack.convs1, stack.convs2, strict=True)
    return [conv for pair in cast("Iterable[tuple[FishConvNet, ...]]", pairs) for conv in pair]
