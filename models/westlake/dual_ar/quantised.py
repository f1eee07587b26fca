"""Linear layers whose weights take 8 or 4 bits: a CPU that speaks waits for memory, mostly.

The C file rounds the activations to 8 bits in groups, which errs no more than the weights do. In
PyTorch they stay bfloat16: its kernels that quantise them as well are little faster and err more,
and what they compute for a position depends on the positions beside it.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DualARConfig
from .engines.native import (
    MAX_HEAD,
    NativeCodes,
    NativeDraw,
    NativeLinear,
    NativeStack,
    load_library,
    native_quantise,
)
from .model import DualARTransformer

GROUP_SIZE = 64  # inputs that share a scale in 4 bits
ROW_BLOCK = 16  # outputs come in multiples of it in 4 bits
HUGE_PAGE = 1 << 21  # bytes
CHUNK_SIZE = 1 << 18  # weights quantised at once: few enough for a core's own cache
# Where PyTorch's bfloat16 product is faster than its others, conversion included.
MANY_ROWS = {"int8": 16, "int4": 64}
LAYERS = ("wqkv", "wo", "w_gate_up", "w_down")
HEADS = ("lm_head", "fast_output")  # 8 bits always: the tokens are chosen by them


class Int8Linear(nn.Module):
    """[..., in] -> [..., out], bfloat16; one scale per output.

    Args:
        weight: int8 [out, in].
        scale: float32 [out].
        bias: float32 [out] or None.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.scale = scale.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()
        self.native = _native(self.weight, self.scale, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self.native is not None:
            return self.native(rows).view(*x.shape[:-1], -1)
        if len(rows) < MANY_ROWS["int8"]:
            y = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            y = F.linear(rows, self.weight.bfloat16()) * self.scale
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """Ids [...] -> [..., dim], bfloat16: the rows of a head that is tied to the embedding."""

    def __init__(self, head: Int8Linear) -> None:
        super().__init__()
        self.weight, self.scale = head.weight, head.scale

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).bfloat16() * self.scale[ids][..., None]


class Int4Linear(nn.Module):
    """[..., in] -> [..., out], bfloat16; a scale and an offset per `GROUP_SIZE` inputs.

    Args:
        weight: uint8 [out, in / 2], two inputs a byte, the first in its upper half.
        scale: float32 [out, in / GROUP_SIZE, 2], a step and the middle of the 16 steps.
        bias: float32 [out] or None.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.num_outputs = len(weight)
        self.steps, self.scale = weight, scale.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()
        self.native = _native(self.steps, self.scale, self.bias)
        if self.native is None:
            missing = -self.num_outputs % ROW_BLOCK
            padded = F.pad(_unpack(weight).int(), (0, 0, 0, missing))
            self.weight = torch._convert_weight_to_int4pack_for_cpu(padded, 1)
            padded = F.pad(scale, (0, 0, 0, 0, 0, missing))
            self.weight_scale = padded.transpose(0, 1).contiguous().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self.native is not None:
            return self.native(rows).view(*x.shape[:-1], -1)
        if len(rows) < MANY_ROWS["int4"]:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self.weight, GROUP_SIZE, self.weight_scale
            )[:, : self.num_outputs]
        else:
            groups = _unpack(self.steps).bfloat16().sub_(8).unflatten(1, (-1, GROUP_SIZE))
            step, middle = self.scale.split(1, dim=2)
            y = F.linear(rows, groups.mul_(step).add_(middle).flatten(1))
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


def _native(weight: Tensor, scale: Tensor, bias: Tensor | None) -> NativeLinear | None:
    library = load_library()
    return None if library is None else NativeLinear(library, weight, scale, bias)


def quantise_weights(weights: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """A language model's weights in few bits; what is not in a linear layer becomes bfloat16.

    Args:
        weights: under our names, floats.
        dtype: "int8" or "int4".

    Returns:
        A new dict. Where a layer's weight was quantised, its scales stand beside it as `scale`; a
        head that is tied to the embedding takes the embedding's place.

    Raises:
        ValueError: sizes that 4 bits do not fit.
    """
    is_tied = "lm_head.weight" not in weights
    quantised = {}
    for key, tensor in weights.items():
        if is_tied and key == "embed_tokens.weight":
            key = "lm_head.weight"
        layer, _, kind = key.rpartition(".")
        name = layer.rpartition(".")[2]
        if kind == "weight" and name in LAYERS + HEADS:
            bits = 4 if dtype == "int4" and name in LAYERS else 8
            quantised[key], quantised[f"{layer}.scale"] = _quantise(tensor, bits)
        else:
            quantised[key] = tensor.to(torch.bfloat16, copy=True)  # lets go of the file
    return quantised


def install_quantised(model: DualARTransformer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put layers with the quantised ones of the weights into the model; returns the other weights.

    Raises:
        ValueError: a quantised layer that the model does not have, or has in another size.
    """
    rest = dict(weights)
    is_tied = model.config.tie_word_embeddings and "lm_head.scale" in rest
    if is_tied:
        model.lm_head = nn.Linear(
            model.config.dim, model.config.vocab_size, bias=False, device="meta"
        )
    for layer in [key.removesuffix(".scale") for key in weights if key.endswith(".scale")]:
        weight, scale = rest.pop(f"{layer}.weight", None), rest.pop(f"{layer}.scale")
        bias = rest.pop(f"{layer}.bias", None)
        parent, _, name = layer.rpartition(".")
        plain = model.get_submodule(layer) if layer in dict(model.named_modules()) else None
        halves = 2 if scale.dim() == 3 else 1
        if (
            not isinstance(plain, nn.Linear)
            or weight is None
            or [weight.shape[0], halves * weight.shape[1]] != list(plain.weight.shape)
        ):
            raise ValueError(f"{layer} is quantised, but does not fit the config")
        linear = Int4Linear if halves == 2 else Int8Linear
        setattr(model.get_submodule(parent), name, linear(weight, scale, bias))
    if is_tied:
        model.embed_tokens = Int8Embedding(model.lm_head)
    return rest


def use_native(model: DualARTransformer) -> None:
    """Let a quantised model, whose weights are in place, step in C where that can be."""
    library = load_library()
    if library is not None and model.config.head_dim <= MAX_HEAD:
        model.layers.step = NativeStack(library, model.layers)
        model.native_draw = NativeDraw(library)
        model.make_codes = NativeCodes(
            library,
            model.fast_layers,
            model.fast_norm.weight,
            model.fast_output.native,
            model.fast_embeddings.weight,
        )


def fits_4_bits(config: DualARConfig) -> bool:
    """Groups of `GROUP_SIZE` fill the inputs of every layer."""
    sizes = (config.dim, config.intermediate_size, config.intermediate_size_fast)
    return all(size % GROUP_SIZE == 0 for size in sizes)


def quantised_dtype(weights: Mapping[str, Tensor]) -> str | None:
    """ "int8" or "int4" if the weights are quantised."""
    scales = [scale.dim() for key, scale in weights.items() if key.endswith(".scale")]
    return ("int4" if max(scales) == 3 else "int8") if scales else None


def _unpack(weight: Tensor) -> Tensor:
    """Two steps a byte [out, in / 2] -> [out, in]."""
    return torch.stack([weight >> 4, weight & 15], dim=-1).flatten(1)


def _quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers and float32 scales, as `Int8Linear` and `Int4Linear` take them."""
    num_outputs, num_inputs = weight.shape
    if bits == 8:
        steps = _empty(num_outputs, num_inputs, torch.int8)
        scale = torch.empty(num_outputs)
    elif num_inputs % GROUP_SIZE:
        raise ValueError(f"int4 needs layer sizes that {GROUP_SIZE} divides, got {num_inputs}")
    else:
        steps = _empty(num_outputs, num_inputs // 2, torch.uint8)
        scale = torch.empty(num_outputs, num_inputs // GROUP_SIZE, 2)
    library = load_library()
    rows = max(1, CHUNK_SIZE // num_inputs)
    for chunk, *results in zip(weight.split(rows), steps.split(rows), scale.split(rows)):
        chunk = chunk.float().contiguous()
        if library is not None:
            native_quantise(library, chunk, *results)
        else:
            for result, value in zip(results, (_to_int8 if bits == 8 else _to_int4)(chunk)):
                result.copy_(value)
    return steps, scale


def _empty(num_outputs: int, row_size: int, dtype: torch.dtype) -> Tensor:
    """Memory for a weight [num_outputs, row_size] of one byte each, in huge pages where there are
    any: who reads it from end to end is a twentieth faster."""
    num_bytes = num_outputs * row_size
    if num_bytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_outputs, row_size, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(num_outputs, row_size)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    low, high = weight.aminmax(dim=1)
    scale = torch.maximum(-low, high).clamp_(min=1e-8) / 127
    return (weight / scale[:, None]).round_(), scale


def _to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    groups = weight.unflatten(1, (-1, GROUP_SIZE))
    low, high = groups.aminmax(dim=-1)
    step = (high - low).clamp(min=1e-8) / 15
    middle = low + 8 * step
    steps = ((groups - low[..., None]) / step[..., None]).round_().clamp_(0, 15)
    steps = steps.to(torch.uint8).flatten(1)
    return (steps[:, ::2] << 4) | steps[:, 1::2], torch.stack([step, middle], dim=-1)
