"""The codec's decoder in C, all layers in two calls: products of float32 or of bfloat16, whichever
this CPU is faster at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import CDLL, POINTER, Array, Structure, addressof, c_float, c_int64, c_void_p
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...transformer.native import scratch_of, share_of_threads
from .conv import FishConvNet, FishTransConvNet, StreamState
from .convnext import ConvNeXtBlock

if TYPE_CHECKING:
    from .hifigan import HiFiGANGenerator, ParallelBlock, ResidualStack
    from .quantizer import DownsampleFiniteScalarQuantize


COUNT_BYTES = 4  # a signal's count of positions, a uint32


class ConvolutionStruct(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        *((name, c_int64) for name in ("inputs", "outputs", "taps", "dilation", "state", "paired")),
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


class RefinementStruct(Structure):
    _fields_ = [
        *((name, ConvolutionStruct) for name in ("up", "wide", "narrow")),
        *((name, c_void_p) for name in ("depthwise", "bias", "norm_weight", "norm_bias")),
        ("taps", c_int64),
        ("state", c_int64),
        ("eps", c_float),
    ]


class _NativeLayers:
    """Layers' weights as the C file sees them, and what it keeps of a signal's inputs."""

    def __init__(self, library: CDLL) -> None:
        self.compiled = library
        self.width = library.native_width()  # of a vector; channels are filled up to whole ones
        self.side = library.native_side()  # vectors of outputs that are computed at once
        self.added = library.native_added()  # inputs whose products are added up at once
        self.dtype = sample_dtype(library)
        self.tensors: list[Tensor] = []  # what the pointers point to
        self.state_size = 0  # numbers that are kept of a signal
        self.rate = 1

    def _keep(self, count: int) -> int:
        """Where in a signal's state that many more numbers are."""
        self.state_size += count
        return self.state_size - count

    def _floats(self, x: Tensor) -> int:
        self.tensors.append(x.detach().float().contiguous())
        return self.tensors[-1].data_ptr()

    def _layer(
        self,
        weight: Tensor,
        bias: Tensor,
        dilation: int = 1,
        state: int | None = None,
        paired: bool = False,
    ) -> ConvolutionStruct:
        """Weight [out, in, taps] and bias [out], of filled up channels, as the C file's.

        Args:
            dilation: inputs from one tap to the next.
            state: where its inputs are kept; None for a place of their own.
            paired: its outputs are computed in pairs; only where they are whole blocks.
        """
        num_outputs, num_inputs, taps = weight.shape
        if state is None:
            state = self._keep((taps - 1) * dilation * num_inputs)
        blocks = self._blocks_of(_terms_of(weight.float()) if paired else weight)
        parts = [rearrange(x, "o (i n) k -> (k i o n)", n=self.added) for x in blocks]
        self.tensors.append(torch.cat(parts).to(self.dtype))
        packed, floats = self.tensors[-1].data_ptr(), self._floats(bias)
        return ConvolutionStruct(
            packed, floats, num_inputs, num_outputs, taps, dilation, state, paired
        )

    def _filled(self, channels: int) -> int:
        return -(-channels // self.width) * self.width

    def _fill(self, x: Tensor, *dims: int) -> Tensor:
        """Zeros at the ends of some dimensions, up to whole vectors."""
        for dim in dims:
            missing = self._filled(x.shape[dim]) - x.shape[dim]
            x = torch.cat([x, x.new_zeros(*x.shape[:dim], missing, *x.shape[dim + 1 :])], dim)
        return x

    def _plain(self, layer: FishConvNet) -> tuple[Tensor, Tensor]:
        return self._fill(layer.conv.weight.detach(), 0, 1), self._fill(_bias_of(layer), 0)

    def _raising(self, layer: FishTransConvNet) -> tuple[Tensor, Tensor]:
        """A transposed convolution as a plain one, with all outputs up to the next input."""
        kernel = self._fill(layer.conv.weight.detach(), 0, 1)
        kernel = F.pad(kernel, (0, -kernel.shape[-1] % layer.stride))
        weight = rearrange(kernel, "c d (m s) -> (s d) c m", s=layer.stride)
        bias = self._fill(_bias_of(layer), 0).repeat(layer.stride)
        return weight.flip(-1), bias  # oldest input first

    def _blocks_of(self, weight: Tensor) -> list[Tensor]:
        """Outputs that the C file computes at once, together."""
        blocks, rest, size = [], weight, self.side * self.width
        while len(rest):
            while size > len(rest):
                size //= 2
            blocks.append(rest[:size])
            rest = rest[size:]
        return blocks

    def states(self, module: nn.Module, batch_size: int, state: StreamState | None) -> Tensor:
        """What is kept of signals between their pieces, [B, N] of `dtype`, also in the state."""
        kept = None if state is None else state.buffers.get(module)
        if kept is None:
            kept = torch.zeros(batch_size, self.state_size, dtype=self.dtype)
        assert kept.shape[1] == self.state_size and kept.dtype == self.dtype, "another layout's"
        if state is not None:
            state.buffers[module] = kept
        return kept

    def _pointers(self, states: Sequence[Tensor], num_rows: int) -> Array[c_void_p]:
        if len(states) != num_rows:
            raise ValueError(
                f"{num_rows} signals came with {len(states)} states: each needs one of its own"
            )
        return (c_void_p * num_rows)(*(state.data_ptr() for state in states))


class NativeVocoder(_NativeLayers):
    """A vocoder's weights as the C file sees them.

    Args:
        library: from `load_library`.
        head: with final weights, of plain layers, that it `takes`.
    """

    def __init__(self, library: CDLL, head: HiFiGANGenerator) -> None:
        super().__init__(library)
        self._keep(COUNT_BYTES // self.dtype.itemsize)
        first = self._layer(*self._plain(head.conv_pre))
        stages = []
        parts = zip(head.ups, head.resblocks, strict=True)
        for up, block in cast("Iterable[tuple[FishTransConvNet, ParallelBlock]]", parts):
            self.rate *= up.stride
            stages.append(self._stage(up, block))
        last = self._layer(*self._plain(head.conv_post))
        array = (StageStruct * len(stages))(*stages)
        self.struct = VocoderStruct(first, last, array, len(stages))

    @staticmethod
    def takes(library: CDLL, head: HiFiGANGenerator) -> bool:
        """Whether a vocoder has no more stages than the library has room for."""
        return len(head.ups) <= library.native_max_stages()

    def _stage(self, up: FishTransConvNet, block: ParallelBlock) -> StageStruct:
        raised = self._layer(*self._raising(up))
        stacks = [_convs_of(stack) for stack in cast("Iterable[ResidualStack]", block.blocks)]
        # All begin with the same inputs, which are kept once.
        needed = max(convs[0].left_padding for convs in stacks)
        channels = self._filled(stacks[0][0].conv.in_channels)
        shared = self._keep(needed * channels)
        shortest = min(convs[0].conv.kernel_size[0] for convs in stacks)
        is_whole = channels % (self.side * self.width) == 0
        paired = bool(self.compiled.native_pairs()) and is_whole and shortest >= 3
        layers = [
            self._layer(
                *self._plain(conv), conv.conv.dilation[0], None if number else shared, paired
            )
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
        pointers = self._pointers(states, num_rows)
        missing = self._filled(channels) - channels
        hidden = F.pad(x.mT.float(), (0, missing)).contiguous()  # [B, T, C]
        wave = hidden.new_empty(num_rows, 1, num_steps * self.rate)
        if not num_rows:
            return wave
        vocoder = addressof(self.struct)
        num_bytes = self.compiled.native_vocoder_scratch(vocoder, num_rows, num_steps)
        with share_of_threads() as threads:
            self.compiled.native_vocoder(
                vocoder, hidden.data_ptr(), pointers, wave.data_ptr(), num_rows, num_steps,
                scratch_of((0,), num_bytes)[1].data_ptr(), threads,
            )  # fmt: skip
        return wave


class NativeRefinement(_NativeLayers):
    """The weights between codes and latents as the C file sees them.

    Args:
        library: as above.
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
        state = self._keep(conv.left_padding * conv.conv.in_channels)
        return RefinementStruct(
            self._layer(*self._raising(up)),
            self._layer(first.weight.detach()[..., None], first.bias),
            self._layer((gamma[:, None] * second.weight)[..., None], gamma * second.bias),
            self._floats(conv.conv.weight[:, 0].mT),  # [taps, C]
            self._floats(_bias_of(conv)),
            self._floats(block.norm.weight),
            self._floats(block.norm.bias),
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
        pointers = self._pointers(states, num_rows)
        frames = x.mT.float().contiguous()  # [B, L, C]
        hidden = frames.new_empty(num_rows, num_frames * self.rate, channels)
        if not num_rows:
            return hidden.mT
        blocks, sizes = addressof(self.blocks), (len(self.blocks), num_rows, num_frames)
        num_bytes = self.compiled.native_refinement_scratch(blocks, *sizes)
        with share_of_threads() as threads:
            self.compiled.native_refinement(
                blocks, frames.data_ptr(), pointers, hidden.data_ptr(), *sizes,
                scratch_of((0,), num_bytes)[1].data_ptr(), threads,
            )  # fmt: skip
        return hidden.mT


def sample_dtype(library: CDLL) -> torch.dtype:
    """The dtype of weights, and of signals between layers."""
    return {2: torch.bfloat16, 4: torch.float32}[library.native_sample_bytes()]


def _terms_of(weight: Tensor) -> Tensor:
    """Weight [..., taps] -> [..., terms] of all passes of pairs.h, in their order."""
    passes: list[list[Tensor]] = [[], [], [], []]
    for taps in weight.split(3, dim=-1):
        match taps.unbind(-1):
            case first, second, third:
                even, odd = (first + third) / 2, second / 2
                terms = first, even + odd, even - odd, third
            case first, second:
                terms = -first, first + second, None, -second
            case (only,):
                terms = only, None, None, -only
        for number, term in enumerate(terms):
            if term is not None:
                passes[number].append(term)
    return torch.stack(sum(passes, []), dim=-1)


def _convs_of(stack: ResidualStack) -> list[FishConvNet]:
    """In their order."""
    pairs = zip(stack.convs1, stack.convs2, strict=True)
    return [conv for pair in cast("Iterable[tuple[FishConvNet, ...]]", pairs) for conv in pair]


def _bias_of(layer: FishConvNet | FishTransConvNet) -> Tensor:
    assert layer.conv.bias is not None
    return layer.conv.bias.detach()
