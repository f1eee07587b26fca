"""A quantised layer in C."""

from __future__ import annotations

import copy
from ctypes import CDLL, addressof

import torch
from torch import Tensor

from .compiled import LinearStruct, pointer_of, scratch_of
from .memory import HugePages
from .panels import PANEL, from_panels, to_panels
from .threads import share_of_threads

PIECE = 256  # rows of a product at once: weights are read once for so many


class NativeLinear:
    """A quantised layer as the C file sees it.

    Args:
        library: from `load_library`.
        weight: int8 [out, in], or uint8 [out, in / 2], two inputs a byte, the first in its upper
            half.
        scale: bfloat16 [out], or [out, in / 64, 2].
        bias: bfloat16 [out] or None.
        memory: that the panels lie in; by default their own.
        in_place: the weight is given up, and its panels may lie where it does; see `to_panels`.

    Attributes:
        weight, scale: in panels (see `to_panels`), a scale only where it is one of groups.
    """

    def __init__(
        self,
        library: CDLL,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        memory: HugePages | None = None,
        *,
        in_place: bool = False,
    ) -> None:
        self.compiled = library
        self.num_outputs = len(weight)
        self._row = weight.dtype, weight.shape[1]
        self._bits = 8 if weight.dtype == torch.int8 else 4
        self.weight = to_panels(library, weight, memory, in_place=in_place)
        self.scale = scale if self._bits == 8 else to_panels(library, scale, memory)
        self.bias = bias
        self.struct = self._struct()

    def _struct(self) -> LinearStruct:
        parts = self.weight, self.scale, self.bias  # which remain where the pointers point to
        pointers = [None if part is None else pointer_of(part) for part in parts]
        num_inputs = self._row[1] * 8 // self._bits
        return LinearStruct(*pointers, num_inputs, self.num_outputs, self._bits)

    def part(self, outputs: slice) -> NativeLinear | None:
        """A layer of 8 bits of some outputs, which shares this one's memory; None if it can't."""
        start, stop, step = outputs.indices(self.num_outputs)
        stop = max(start, stop)
        if start % PANEL or step != 1:
            return None
        other = copy.copy(self)
        other.num_outputs = stop - start
        other.weight = self.weight[start // PANEL : -(-stop // PANEL)]
        other.scale = self.scale[outputs]
        other.bias = None if self.bias is None else self.bias[outputs]
        other.struct = other._struct()
        return other

    def weight_rows(self, outputs: Tensor) -> Tensor:
        """Of some outputs [...] the weights as they were given."""
        return from_panels(self.weight, outputs, *self._row)

    def scale_rows(self) -> Tensor:
        """A scale of groups as it was given."""
        outputs, size = torch.arange(self.num_outputs), 2 * self.scale.shape[1]
        return from_panels(self.scale, outputs, torch.bfloat16, size).unflatten(1, (-1, 2))

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out], in x's dtype."""
        result = x.new_empty(len(x), self.num_outputs)
        for rows, to in zip(x.split(PIECE), result.split(PIECE), strict=True):
            if to.dtype == torch.float32:
                self._multiply(rows, to)
            else:
                to.copy_(self._multiply(rows, None))
        return result

    def _multiply(self, x: Tensor, to: Tensor | None) -> Tensor:
        """The same of few rows, in float32; without `to` in the memory of `scratch_of`."""
        inputs, linear = x.float().contiguous(), addressof(self.struct)
        shape = (0,) if to is not None else (len(x), self.num_outputs)
        num_bytes = self.compiled.native_product_scratch(linear, len(x))
        own, scratch = scratch_of(shape, num_bytes)
        y = own if to is None else to
        with share_of_threads() as threads:
            self.compiled.native_product(
                linear, inputs.data_ptr(), None, 0.0, y.data_ptr(), len(x), scratch, threads
            )
        return y
