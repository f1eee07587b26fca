"""Linear layers whose weights take 8 or 4 bits: CPU decoding is memory-bound.

The C file rounds the activations to 8 bits in groups, which errs no more than the weights do. In
PyTorch they stay bfloat16: its kernels that quantise them as well are little faster and err more,
and what they compute for a position depends on the positions beside it.
"""

from __future__ import annotations

from ctypes import CDLL

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .native import HugePages, NativeLinear

GROUP_SIZE = 64  # inputs that share a scale in 4 bits
ROW_BLOCK = 16  # outputs come in multiples of it in 4 bits, in PyTorch
PIECE = 256  # rows of a product at once, where a weight is put back in order
KERNEL_INPUTS = 16  # inputs come in multiples of it in PyTorch's product, which else crashes
MANY_ROWS = 16  # where PyTorch's bfloat16 product is faster than that with int8, with conversion


class Int8Linear(nn.Module):
    """[..., in] -> [..., out], bfloat16; one scale per output.

    Buffers: `weight` int8 [out, in], `scale` float [out], and `bias` [out] if there is one. Once
    they are filled, `prepare` makes the layer ready, once; in C the weight then lies in `packed`
    alone, and is put back in order to be saved.

    Args:
        num_inputs, num_outputs: sizes.
        has_bias: a bias is added.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    packed: Tensor

    def __init__(self, num_inputs: int, num_outputs: int, has_bias: bool) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.native: NativeLinear | None = None
        self.register_buffer("weight", torch.empty(num_outputs, num_inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(num_outputs))
        self.register_buffer("bias", torch.empty(num_outputs) if has_bias else None)

    def prepare(
        self, library: CDLL | None, memory: HugePages | None = None, *, in_place: bool = False
    ) -> None:
        """Make the layer ready to compute: in C with the library, else in PyTorch.

        Args:
            library: from `load_library`.
            memory: that its weights shall lie in, in C; by default their own.
            in_place: nobody else has the weights: in C they may stay where they lie.
        """
        self.scale = self.scale.bfloat16()
        self.bias = None if self.bias is None else self.bias.bfloat16()
        if library is not None:
            given = library, self.weight, self.scale, self.bias, memory
            self._compute_by(NativeLinear(*given, in_place=in_place))

    def _compute_by(self, native: NativeLinear) -> None:
        self.native = native
        self.register_buffer("packed", native.weight, persistent=False)
        self.register_buffer("weight", None)  # it is in `packed`

    def part(self, outputs: slice | Tensor) -> Int8Linear:
        """A layer of some of the outputs, prepared as this one; a slice shares its weights, in C
        where it begins with a panel."""
        chosen = torch.arange(self.num_outputs)[outputs]
        other = Int8Linear(0, len(chosen), self.bias is not None)
        other.scale = self.scale[outputs]
        other.bias = None if self.bias is None else self.bias[outputs]
        if self.native is None:
            other.weight = self.weight[outputs]
        elif isinstance(outputs, slice) and (shared := self.native.part(outputs)):
            other._compute_by(shared)
        else:
            other.weight = self.native.weight_rows(chosen)
            other.prepare(self.native.compiled)
        return other

    def rows(self, outputs: Tensor) -> Tensor:
        """The weights that lead to some outputs [...] -> [..., in], bfloat16."""
        if self.native is None:
            steps = F.embedding(outputs, self.weight)
        else:
            steps = self.native.weight_rows(outputs)
        return steps.bfloat16() * self.scale[outputs][..., None]

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight is None:
            destination[f"{prefix}weight"] = self._stored_weight()
        if self.scale is None:
            destination[f"{prefix}scale"] = self._stored_scale()

    def _stored_weight(self) -> Tensor:
        assert self.native is not None
        return self.native.weight_rows(torch.arange(self.num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self.native is not None:
            return self.native(rows).view(*x.shape[:-1], -1)
        y = self._product(rows)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) < MANY_ROWS and rows.shape[1] % KERNEL_INPUTS == 0:
            return torch._weight_int8pack_mm(rows, self.weight, self.scale)
        return F.linear(rows, self.weight.bfloat16()) * self.scale


class Int8Embedding(nn.Module):
    """Ids [...] -> [..., dim], bfloat16: the rows of a head that is tied to the embedding."""

    def __init__(self, head: Int8Linear) -> None:
        super().__init__()
        self._head = (head,)  # whose weights they are, and remain

    def forward(self, ids: Tensor) -> Tensor:
        (head,) = self._head
        return head.rows(ids)


class Int4Linear(Int8Linear):
    """[..., in] -> [..., out], bfloat16; a scale and an offset per `GROUP_SIZE` inputs.

    Buffers: `weight` uint8 [out, in / 2], two inputs a byte, the first in its upper half; `scale`
    float [out, in / GROUP_SIZE, 2], a step and the middle of the 16 steps; `bias`. Both are kept
    in the order alone that the product takes, and put back in ours to be saved.

    Args: as of `Int8Linear`.
    """

    packed_scale: Tensor

    def __init__(self, num_inputs: int, num_outputs: int, has_bias: bool) -> None:
        super().__init__(num_inputs, num_outputs, has_bias)
        self.weight = torch.empty(num_outputs, num_inputs // 2, dtype=torch.uint8)
        self.scale = torch.empty(num_outputs, num_inputs // GROUP_SIZE, 2)

    def prepare(
        self, library: CDLL | None, memory: HugePages | None = None, *, in_place: bool = False
    ) -> None:
        super().prepare(library, memory, in_place=in_place)
        if self.native is not None:
            scale = self.native.scale
        else:
            missing = -self.num_outputs % ROW_BLOCK
            steps = F.pad(_unpack(self.weight).int(), (0, 0, 0, missing))
            scale = F.pad(self.scale, (0, 0, 0, 0, 0, missing)).transpose(0, 1).contiguous()
            packed = torch._convert_weight_to_int4pack_for_cpu(steps, 1)
            self.register_buffer("packed", packed, persistent=False)
            self.register_buffer("weight", None)
        self.register_buffer("packed_scale", scale, persistent=False)
        self.register_buffer("scale", None)

    def _product(self, rows: Tensor) -> Tensor:
        return self._packed_product(rows, self.packed_scale)

    def _packed_product(self, rows: Tensor, scale: Tensor) -> Tensor:
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP_SIZE, scale)
        return y[:, : self.num_outputs]

    def _stored_scale(self) -> Tensor:
        if self.native is not None:
            return self.native.scale_rows()
        return self.packed_scale.transpose(0, 1)[: self.num_outputs].contiguous()

    def _stored_weight(self) -> Tensor:
        """In PyTorch a product with unit scales gives steps, less 8."""
        if self.native is not None:
            return super()._stored_weight()
        unit = torch.zeros_like(self.packed_scale)
        unit[..., 0] = 1
        inputs = torch.eye(GROUP_SIZE * len(unit), dtype=torch.bfloat16)
        pieces = [self._packed_product(rows, unit) for rows in inputs.split(PIECE)]
        steps = (torch.cat(pieces).T + 8).to(torch.uint8)
        return (steps[:, ::2] << 4) | steps[:, 1::2]


def _unpack(weight: Tensor) -> Tensor:
    """Two steps a byte [out, in / 2] -> [out, in]."""
    return torch.stack([weight >> 4, weight & 15], dim=-1).flatten(1)
