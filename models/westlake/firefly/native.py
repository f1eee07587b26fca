"""The vocoder in C: bfloat16 products, all layers in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import CDLL, POINTER, Structure, addressof, c_int64, c_void_p
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...transformer.native import scratch_of
from .conv import FishConvNet, FishTransConvNet

if TYPE_CHECKING:
    from .hifigan import HiFiGANGenerator, ParallelBlock, ResidualStack

WIDTH = 16  # numbers in a vector; channels are filled up to a multiple of it
BLOCKS = (4, 2, 1)  # vectors of outputs that the C file computes at once
MAX_STAGES = 16  # as in the C file, like the two above


class ConvolutionStruct(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        *((name, c_int64) for name in ("inputs", "outputs", "taps", "dilation", "state")),
    ]


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


class NativeVocoder:
    """A vocoder's weights as the C file sees them.

    Args:
        library: from `load_library`, with a vocoder.
        head: with final weights, of plain layers.
    """

    def __init__(self, library: CDLL, head: HiFiGANGenerator) -> None:
        self.compiled = library
        self.tensors: list[Tensor] = []  # what the pointers point to
        self.state_size = 0  # numbers that are kept of a signal
        self.rate = 1
        first = self._layer(*_plain(head.conv_pre))
        stages = []
        assert len(head.ups) <= MAX_STAGES, len(head.ups)
        parts = zip(head.ups, head.resblocks, strict=True)
        for up, block in cast("Iterable[tuple[FishTransConvNet, ParallelBlock]]", parts):
            self.rate *= up.stride
            stages.append(self._stage(up, block))
        last = self._layer(*_plain(head.conv_post))
        array = (StageStruct * len(stages))(*stages)
        self.struct = VocoderStruct(first, last, array, len(stages))

    def _stage(self, up: FishTransConvNet, block: ParallelBlock) -> StageStruct:
        raised, shared = self._layer(*_raising(up)), self.state_size
        stacks = [_convs_of(stack) for stack in cast("Iterable[ResidualStack]", block.blocks)]
        # All begin with the same inputs, which are kept once.
        needed = max(convs[0].left_padding for convs in stacks)
        self.state_size += needed * _filled(stacks[0][0].conv.in_channels)
        layers = [
            self._layer(*_plain(conv), conv.conv.dilation[0], None if number else shared)
            for convs in stacks
            for number, conv in enumerate(convs)
        ]
        array = (ConvolutionStruct * len(layers))(*layers)
        return StageStruct(raised, array, len(stacks), len(stacks[0]) // 2)

    def _layer(
        self, weight: Tensor, bias: Tensor, dilation: int = 1, state: int | None = None
    ) -> ConvolutionStruct:
        """Weight [out, in, taps] and bias [out], both of filled up channels, as the C file's."""
        num_outputs, num_inputs, taps = weight.shape
        if state is None:
            state = self.state_size
            self.state_size += (taps - 1) * dilation * num_inputs
        blocks = [rearrange(x, "o (i two) k -> (k i o two)", two=2) for x in _blocks_of(weight)]
        packed, floats = torch.cat(blocks).bfloat16(), bias.float().contiguous()
        self.tensors += [packed, floats]
        return ConvolutionStruct(
            packed.data_ptr(), floats.data_ptr(), num_inputs, num_outputs, taps, dilation, state
        )

    def new_state(self, batch_size: int) -> Tensor:
        """What is kept between a signal's pieces: [B, N] bfloat16."""
        return torch.zeros(batch_size, self.state_size, dtype=torch.bfloat16)

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The next pieces of some signals, each as alone, to the bit.

        Args:
            x: hidden [B, C, T].
            states: B rows as of `new_state`, which are brought up to date.

        Returns:
            [B, 1, T * rate] float32, before the final tanh.
        """
        num_rows, channels, num_steps = x.shape
        hidden = F.pad(x.mT.float(), (0, _filled(channels) - channels)).contiguous()  # [B, T, C]
        wave = hidden.new_empty(num_rows, 1, num_steps * self.rate)
        vocoder = addressof(self.struct)
        num_bytes = self.compiled.native_vocoder_scratch(vocoder, num_rows, num_steps)
        pointers = (c_void_p * num_rows)(*(state.data_ptr() for state in states))
        self.compiled.native_vocoder(
            vocoder, hidden.data_ptr(), pointers, wave.data_ptr(), num_rows, num_steps,
            scratch_of((0,), num_bytes)[1].data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return wave


def _filled(channels: int) -> int:
    return -(-channels // WIDTH) * WIDTH


def _fill(x: Tensor, *dims: int) -> Tensor:
    """Zeros at the ends of some dimensions, up to whole vectors."""
    for dim in dims:
        missing = _filled(x.shape[dim]) - x.shape[dim]
        x = torch.cat([x, x.new_zeros(*x.shape[:dim], missing, *x.shape[dim + 1 :])], dim)
    return x


def _convs_of(stack: ResidualStack) -> list[FishConvNet]:
    """In their order."""
    pairs = zip(stack.convs1, stack.convs2, strict=True)
    return [conv for pair in cast("Iterable[tuple[FishConvNet, ...]]", pairs) for conv in pair]


def _plain(layer: FishConvNet) -> tuple[Tensor, Tensor]:
    return _fill(layer.conv.weight.detach(), 0, 1), _fill(_bias_of(layer), 0)


def _raising(layer: FishTransConvNet) -> tuple[Tensor, Tensor]:
    """A transposed convolution as a plain one, with all outputs up to the next input."""
    kernel = _fill(layer.conv.weight.detach(), 0, 1)
    kernel = F.pad(kernel, (0, -kernel.shape[-1] % layer.stride))
    weight = rearrange(kernel, "c d (m s) -> (s d) c m", s=layer.stride)
    return weight.flip(-1), _fill(_bias_of(layer), 0).repeat(layer.stride)  # oldest input first


def _bias_of(layer: FishConvNet | FishTransConvNet) -> Tensor:
    assert layer.conv.bias is not None
    return layer.conv.bias.detach()


def _blocks_of(weight: Tensor) -> list[Tensor]:
    """Outputs that the C file computes at once, together."""
    blocks, rest = [], weight
    for size in BLOCKS:
        while len(rest) >= size * WIDTH:
            blocks.append(rest[: size * WIDTH])
            rest = rest[size * WIDTH :]
    return blocks
