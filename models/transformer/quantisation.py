"""From weights and layers of floats to those of 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from ctypes import CDLL
from typing import TypeVar

import torch
from torch import Tensor, nn

from .config import StackConfig
from .language_model import LanguageModel
from .native import HugePages, native_quantise, num_threads, without_torch_threads
from .quantised import GROUP_SIZE, Int4Linear, Int8Embedding, Int8Linear
from .rounding import Inputs, factors_of, round_corrected

CHUNK_SIZE = 1 << 18  # weights quantised at once: few enough for a core's own cache
SHARE = 32  # rows that a thread rounds to 4 bits at once, at most
LAYERS = ("wqkv", "wo", "w_gate_up", "w_down")
HEADS = ("lm_head", "fast_output")  # 8 bits always: the tokens are chosen by them

Model = TypeVar("Model", bound=LanguageModel)


def quantise_weights(
    weights: Mapping[str, Tensor], dtype: str, library: CDLL | None, inputs: Inputs | None = None
) -> dict[str, Tensor]:
    """A language model's weights in few bits; what is not in a linear layer becomes bfloat16.

    Args:
        weights: under our names, floats.
        dtype: "int8" or "int4".
        library: that does it faster; None for PyTorch, which rounds to the nearest alone.
        inputs: that layers read, which 4 bits are rounded for; see `rounding`. They are used up.
            The other layers, and those whose inputs are too large, are rounded to the nearest.

    Returns:
        A new dict. Where a layer's weight was quantised, its scales stand beside it as `scale`; a
        head that is tied to the embedding takes the embedding's place.

    Raises:
        ValueError: sizes that 4 bits do not fit.
    """
    is_tied = "lm_head.weight" not in weights
    quantised, memory = {}, HugePages()
    for key, tensor in weights.items():
        if is_tied and key == "embed_tokens.weight":
            key = "lm_head.weight"
        layer, _, kind = key.rpartition(".")
        name = layer.rpartition(".")[2]
        if kind == "weight" and name in LAYERS + HEADS:
            bits = 4 if dtype == "int4" and name in LAYERS else 8
            x = inputs.pop(layer, None) if inputs and bits == 4 else None
            found = _quantise(tensor, bits, library, x, memory)
            quantised[key], quantised[f"{layer}.scale"] = found
        else:
            quantised[key] = tensor.to(torch.bfloat16, copy=True)  # lets go of the file
    return quantised


def with_quantised_layers(model: Model, dtype: str) -> Model:
    """Put empty quantised layers in the place of the plain ones.

    Args:
        model: on the meta device.
        dtype: "int8" or "int4".

    Returns:
        The same model, for `quantise_weights`' or a file's weights; then `prepare_quantised`.
    """
    plain = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for path, layer in plain:
        parent, _, name = path.rpartition(".")
        kind = Int4Linear if dtype == "int4" and name in LAYERS else Int8Linear
        quantised = kind(layer.in_features, layer.out_features, layer.bias is not None)
        setattr(model.get_submodule(parent), name, quantised)
    if model.lm_head is None:
        vocab_size, dim = model.embed_tokens.weight.shape
        head = Int8Linear(dim, vocab_size, has_bias=False)
        model.lm_head, model.embed_tokens = head, Int8Embedding(head)
    model.quantisation = dtype
    return model


def prepare_quantised(
    model: LanguageModel, library: CDLL | None, *, in_place: bool = False
) -> None:
    """Make quantised layers, whose weights are assigned, ready to compute.

    Args:
        library: that computes; None for PyTorch.
        in_place: nobody else has the weights, as those that `quantise_weights` has just made: most
            of them stay where they lie, which saves the memory and the time of a copy.
    """
    memory = HugePages()
    with nullcontext() if library is None else without_torch_threads():
        for layer in model.modules():
            if isinstance(layer, Int8Linear):
                layer.prepare(library, memory, in_place=in_place)


def fits_4_bits(*configs: StackConfig) -> bool:
    """Groups of `GROUP_SIZE` fill the inputs of every layer of these stacks."""
    sizes = (size for config in configs for size in (config.dim, config.intermediate_size))
    return all(size % GROUP_SIZE == 0 for size in sizes)


def _quantise(
    weight: Tensor,
    bits: int,
    library: CDLL | None,
    x: Tensor | None = None,
    memory: HugePages | None = None,
) -> tuple[Tensor, Tensor]:
    """Integers, in the memory if it is given, and float32 scales, as `Int8Linear` and `Int4Linear`
    take them."""
    num_outputs, num_inputs = weight.shape
    if bits == 8:
        shape, dtype = (num_outputs, num_inputs), torch.int8
        scale = torch.empty(num_outputs)
    elif num_inputs % GROUP_SIZE:
        raise ValueError(f"int4 needs layer sizes that {GROUP_SIZE} divides, got {num_inputs}")
    else:
        shape, dtype = (num_outputs, num_inputs // 2), torch.uint8
        scale = torch.empty(num_outputs, num_inputs // GROUP_SIZE, 2)
    steps = torch.empty(shape, dtype=dtype) if memory is None else memory.take(shape, dtype)
    rows = max(1, CHUNK_SIZE // num_inputs)
    with nullcontext() if library is None else without_torch_threads():
        factors = None if x is None else factors_of(x)
        if factors is not None:  # that many for each thread
            rows = -(-rows // (SHARE * num_threads())) * SHARE * num_threads()
        pieces = zip(weight.split(rows), steps.split(rows), scale.split(rows))
        for chunk, to_steps, to_scale in pieces:
            chunk = chunk.float().contiguous()
            if factors is not None:
                assert library is not None, "PyTorch rounds to the nearest alone"
                round_corrected(chunk, factors, to_steps, to_scale, library)
            elif library is not None:
                native_quantise(library, chunk, to_steps, to_scale)
            else:
                found = (_to_int8 if bits == 8 else _to_int4)(chunk)
                to_steps.copy_(found[0])
                to_scale.copy_(found[1])
    return steps, scale


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


def quantise_layers(module: nn.Module, dtype: str, library: CDLL | None) -> nn.Module:
    """Put quantised layers in the place of a module's linear ones, which give their weights up.

    Args:
        module: of any library, in bfloat16; what is not in a linear layer stays as it is.
        dtype: "int8" or "int4"; a head, which has its name, has 8 bits in any case.
        library: that computes them; None for PyTorch.

    Returns:
        The module, or what stands in its place if it is a linear layer itself.

    Raises:
        ValueError: sizes that 4 bits do not fit.
    """
    if isinstance(module, nn.Linear):
        quantised = _quantised(module, 4 if dtype == "int4" else 8, library)
        module.to("meta")  # whoever else holds it
        return quantised
    memory = HugePages()
    for path in linear_layers(module):  # each is given up before the next
        bits = 4 if dtype == "int4" and not path.endswith("head") else 8
        quantised = _quantised(linear_layer(module, path), bits, library, memory)
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, quantised)
    return module


def layers_fit_4_bits(module: nn.Module) -> bool:
    """Groups of `GROUP_SIZE` fill the inputs of each layer that `quantise_layers` gives 4 bits."""
    layers = [path for path in linear_layers(module) if not path.endswith("head")]
    return all(linear_layer(module, path).in_features % GROUP_SIZE == 0 for path in layers)


def linear_layers(module: nn.Module) -> list[str]:
    """The names of a module's plain linear layers."""
    return [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]


def linear_layer(module: nn.Module, path: str) -> nn.Linear:
    """A module's linear layer of that name."""
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Linear), f"{path} is a {type(layer).__name__}"
    return layer


def _quantised(
    layer: nn.Linear, bits: int, library: CDLL | None, memory: HugePages | None = None
) -> Int8Linear:
    has_bias = layer.bias is not None
    quantised = (Int8Linear if bits == 8 else Int4Linear)(1, 1, has_bias)
    quantised.num_outputs = layer.out_features
    quantised.weight, quantised.scale = _quantise(
        layer.weight.detach(), bits, library, memory=memory if library else None
    )
    quantised.bias = layer.bias.detach() if has_bias else None
    quantised.prepare(library, memory, in_place=True)
    return quantised
