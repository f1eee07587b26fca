"""What the codec's parts in C have in common: weights as they lie there, and signals' states.

Products are of float32 or of bfloat16, whichever this CPU is faster at.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, Array, Structure, c_int64, c_void_p

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .conv import FishConvNet, FishTransConvNet, StreamState


class ConvolutionStruct(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        *((name, c_int64) for name in ("inputs", "outputs", "taps", "dilation", "state", "paired")),
    ]


class NativeLayers:
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

    def keep(self, count: int) -> int:
        """Where in a signal's state that many more numbers are."""
        self.state_size += count
        return self.state_size - count

    def floats(self, x: Tensor) -> int:
        """Where numbers lie that remain float32."""
        self.tensors.append(x.detach().float().contiguous())
        return self.tensors[-1].data_ptr()

    def layer(
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
            state = self.keep((taps - 1) * dilation * num_inputs)
        blocks = self._blocks_of(_terms_of(weight.float()) if paired else weight)
        parts = [rearrange(x, "o (i n) k -> (k i o n)", n=self.added) for x in blocks]
        self.tensors.append(torch.cat(parts).to(self.dtype))
        packed, floats = self.tensors[-1].data_ptr(), self.floats(bias)
        return ConvolutionStruct(
            packed, floats, num_inputs, num_outputs, taps, dilation, state, paired
        )

    def filled(self, channels: int) -> int:
        """So many, up to whole vectors."""
        return -(-channels // self.width) * self.width

    def _fill(self, x: Tensor, *dims: int) -> Tensor:
        """Zeros at the ends of some dimensions, up to whole vectors."""
        for dim in dims:
            missing = self.filled(x.shape[dim]) - x.shape[dim]
            x = torch.cat([x, x.new_zeros(*x.shape[:dim], missing, *x.shape[dim + 1 :])], dim)
        return x

    def plain(self, layer: FishConvNet) -> tuple[Tensor, Tensor]:
        """A convolution's weight [out, in, taps] and bias [out], of filled up channels."""
        return self._fill(layer.conv.weight.detach(), 0, 1), self._fill(bias_of(layer), 0)

    def raising(self, layer: FishTransConvNet) -> tuple[Tensor, Tensor]:
        """A transposed convolution as a plain one, with all outputs up to the next input: weight
        [stride * out, in, taps] and bias [stride * out]."""
        kernel = self._fill(layer.conv.weight.detach(), 0, 1)
        kernel = F.pad(kernel, (0, -kernel.shape[-1] % layer.stride))
        weight = rearrange(kernel, "c d (m s) -> (s d) c m", s=layer.stride)
        bias = self._fill(bias_of(layer), 0).repeat(layer.stride)
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

    def pointers(self, states: Sequence[Tensor], num_rows: int) -> Array[c_void_p]:
        """Of rows as `states` gives them.

        Raises:
            ValueError: fewer or more states than signals.
        """
        if len(states) != num_rows:
            raise ValueError(
                f"{num_rows} signals came with {len(states)} states: each needs one of its own"
            )
        return (c_void_p * num_rows)(*(state.data_ptr() for state in states))


def sample_dtype(library: CDLL) -> torch.dtype:
    """The dtype of weights, and of signals between layers."""
    return {2: torch.bfloat16, 4: torch.float32}[library.native_sample_bytes()]


def bias_of(layer: FishConvNet | FishTransConvNet) -> Tensor:
    """[out], of a layer that has one."""
    assert layer.conv.bias is not None
    return layer.conv.bias.detach()


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
