"""Language models of 8 and 4 bits: what they compute."""

from ctypes import CDLL
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from libraries import INSTRUCTION_SETS, library_for
from small_quantised import (
    CONFIG,
    LARGEST_ERRORS,
    SEMANTIC_ID,
    plain_model,
    quantised,
    speech_grid,
)

from models.transformer.native.linear import PIECE
from models.transformer.native.panels import PANEL
from models.transformer.quantisation import (
    fits_4_bits,
    prepare_quantised,
    quantise_layers,
    quantise_weights,
    with_quantised_layers,
)
from models.transformer.quantised import Int4Linear, Int8Linear
from models.westlake.dual_ar import DualARTransformer
from models.westlake.dual_ar.engines.native import NativeEngine


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return plain_model()


@pytest.fixture(params=[*INSTRUCTION_SETS, "torch"])
def library(request) -> CDLL | None:
    """Both ways to compute with few bits: in C, where it can be compiled, and in PyTorch."""
    return None if request.param == "torch" else library_for(request.param)


@pytest.fixture(params=INSTRUCTION_SETS)
def native(request) -> CDLL:
    return library_for(request.param)


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_weights_that_stay_in_place_are_the_same_to_the_bit(model, grid, dtype, library):
    weights = quantise_weights(model.state_dict(), dtype, library)
    others = {key: tensor.clone() for key, tensor in weights.items()}
    found, expected = DualARTransformer(CONFIG, SEMANTIC_ID), quantised(model, dtype, library).model
    with_quantised_layers(found, dtype).load_state_dict(weights, strict=True, assign=True)
    prepare_quantised(found.eval().requires_grad_(False), library, in_place=True)
    stored = found.state_dict()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(stored[key], tensor)
        same = others[key].bfloat16() if others[key].is_floating_point() else others[key]
        assert torch.equal(tensor, same)
    assert torch.equal(found.forward_hidden(grid), expected.forward_hidden(grid))
    if library is not None:
        layers = {name: x for name, x in found.named_modules() if isinstance(x, Int8Linear)}
        moved = [
            name
            for name, layer in layers.items()
            if layer.packed.data_ptr() != weights[f"{name}.weight"].data_ptr()
        ]
        assert all(layers[name].num_outputs % PANEL for name in moved) and len(moved) < len(layers)


def layer_of(kind, weight, scale, bias, library):
    """A layer with these weights, ready to compute."""
    layer = kind(weight.shape[1] * (2 if kind is Int4Linear else 1), len(weight), bias is not None)
    layer.weight, layer.scale, layer.bias = weight, scale, bias
    layer.prepare(library)
    return layer


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    return speech_grid()


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_it_computes_nearly_the_same(model, grid, dtype, library):
    other = quantised(model, dtype, library).model
    hidden = model.forward_hidden(grid)
    expected = [model.text_logits(hidden), model.forward_fast(hidden[:, -1], grid[:, 1:8, -1])]
    hidden = other.forward_hidden(grid)
    found = [other.text_logits(hidden), other.forward_fast(hidden[:, -1], grid[:, 1:8, -1])]
    for a, b in zip(found, expected):
        assert 0 < (a.float() - b).norm() / b.norm() < LARGEST_ERRORS[dtype]


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_some_tokens_alone_have_the_logits_that_they_have_among_all(model, grid, dtype, library):
    tokens = torch.tensor([7, 0, 200, SEMANTIC_ID, 41])
    for each in (model, quantised(model, dtype, library).model):
        hidden = each.forward_hidden(grid)
        found, expected = each.text_head(tokens)(hidden), each.text_logits(hidden)[..., tokens]
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
        assert found.dtype == (
            torch.bfloat16 if each is not model and library is None else torch.float32
        )


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_a_position_does_not_depend_on_those_beside_it(model, grid, dtype, library):
    engine = quantised(model, dtype, library)
    whole = engine.model.forward_hidden(grid)[:1]
    cache = engine.model.new_cache(30)
    pieces = [engine.read(piece, [cache]) for piece in grid[:1].split((11, 1, 18), 2)]
    difference = (torch.cat(pieces, 1) - whole).float().norm(dim=-1)
    assert (difference / whole.float().norm(dim=-1)).max() < 0.05


@pytest.mark.parametrize("number", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_no_input_that_is_not_finite_is_lost(kind, number, library):
    """Wherever it stands, its row is not finite; the others are as they were."""
    weight = torch.randn(16, 192, generator=torch.Generator().manual_seed(0))
    weights = quantise_weights({"wo.weight": weight, "lm_head.weight": weight}, "int4", None)
    name = "wo" if kind is Int4Linear else "lm_head"
    layer = layer_of(kind, weights[f"{name}.weight"], weights[f"{name}.scale"], None, library)
    x = torch.randn(6, 192, generator=torch.Generator().manual_seed(1)).bfloat16()
    before = layer(x)
    for row, place in enumerate((0, 37, 100, 127, 128, 191)):
        damaged = x.clone()
        damaged[row, place] = number
        after = layer(damaged)
        assert not after[row].isfinite().any(), place
        others = [other for other in range(6) if other != row]
        assert torch.equal(after[others], before[others])


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 17])
def test_single_positions_of_many_rows_are_those_of_the_whole(
    model, grid, dtype, num_rows, library
):
    engine = quantised(model, dtype, library)
    assert isinstance(engine, NativeEngine) == (library is not None)
    other = engine.model
    lengths = [3 + row % 5 for row in range(num_rows)]  # each row has a position of its own
    rows = [grid[row % 2] for row in range(num_rows)]
    caches = [other.new_cache(20) for _ in rows]
    for row, cache, length in zip(rows, caches, lengths):
        engine.read(row[None, :, :length], [cache])
    for step in range(2):
        columns = torch.stack([r[:, n + step : n + step + 1] for r, n in zip(rows, lengths)])
        stepped = engine.read(columns, caches)
    assert [cache.length for cache in caches] == [length + 2 for length in lengths]
    for row, length, hidden in zip(rows, lengths, stepped):
        whole = other.forward_hidden(row[None, :, : length + 2])[0, -1:]
        assert (hidden - whole).norm() / whole.norm() < 0.05

    fast_cache = other.new_fast_cache(num_rows)
    codes = torch.stack([row[1:3, -1] for row in rows])
    inputs = [stepped[:, 0], *other.embed_codes(codes).unbind(1)]
    logits = torch.stack([other.step_fast(x, fast_cache) for x in inputs], dim=1)
    expected = other.forward_fast(stepped[:, 0], codes)
    assert (logits - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(
    ("num_inputs", "num_outputs"), [(64, 9), (192, 7), (448, 66), (64, 71), (1088, 9), (2112, 7)]
)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 66, 69, 71, PIECE + 11])
def test_native_products_are_those_of_the_weights(num_inputs, num_outputs, num_rows, native):
    torch.manual_seed(0)
    weight = torch.randn(num_outputs, num_inputs)
    x = torch.randn(num_rows, num_inputs) * torch.logspace(-3, 3, num_rows)[:, None]
    names = {"wo.weight": weight, "lm_head.weight": weight}
    int4, bias = (
        quantise_weights(names, "int4", native),
        torch.randn(num_outputs).bfloat16(),
    )
    eight = layer_of(Int8Linear, int4["lm_head.weight"], int4["lm_head.scale"], None, native)
    four = layer_of(Int4Linear, int4["wo.weight"], int4["wo.scale"], None, native)
    kept = four.state_dict()
    step, middle = kept["scale"].double().split(1, dim=2)
    steps = torch.stack([kept["weight"] >> 4, kept["weight"] & 15], dim=-1).flatten(1).double()
    unpacked = (steps.unflatten(1, (-1, 64)) - 8) * step + middle
    for layer, used in (
        (eight, int4["lm_head.weight"].double() * eight.scale.double()[:, None]),
        (four, unpacked.flatten(1)),
    ):
        expected = in_8_bits(x).double() @ used.T
        found = layer.native(x).double()
        error = (found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)
        assert error.max() < 1e-5
    for layer in (
        layer_of(Int8Linear, int4["lm_head.weight"], int4["lm_head.scale"], bias, native),
        layer_of(Int4Linear, int4["wo.weight"], int4["wo.scale"], bias, native),
    ):
        assert torch.equal(layer.native(0 * x), bias.float().expand(num_rows, -1))


@pytest.mark.parametrize("num_inputs", [1, 50, 66, 130])
@pytest.mark.parametrize("num_rows", [1, 4, 6, 9])
def test_products_of_8_bits_are_of_any_width(num_inputs, num_rows, native):
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (9, num_inputs), dtype=torch.int8)
    scale = torch.rand(9).bfloat16()
    x = torch.randn(num_rows, num_inputs)
    expected = in_8_bits(x).double() @ (weight.double() * scale.double()[:, None]).T
    found = layer_of(Int8Linear, weight, scale, None, native).native(x).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def in_8_bits(x: torch.Tensor) -> torch.Tensor:
    """Inputs [N, in] as the C file rounds them, 128 with a scale."""
    parts = F.pad(x, (0, -x.shape[1] % 128)).unflatten(1, (-1, 128))
    scale = parts.abs().amax(dim=-1, keepdim=True) / 127
    return ((parts * (1 / scale)).round() * scale).flatten(1)[:, : x.shape[1]]


def test_layers_and_their_exact_values(library):
    weight = torch.arange(-8, 8).repeat(16, 4).float()  # [16, 64]: every step of 4 bits
    names = {"layers.0.wo.weight": weight, "embed_tokens.weight": weight, "norm.weight": weight[0]}
    int4, int8 = (quantise_weights(names, dtype, library) for dtype in ("int4", "int8"))
    assert int4["norm.weight"].dtype == torch.bfloat16
    x = torch.eye(64).bfloat16()
    for kind, weights, error in ((Int4Linear, int4, 1e-6), (Int8Linear, int8, 0.05)):
        stored = weights["layers.0.wo.weight"], weights["layers.0.wo.scale"]
        layer = layer_of(kind, *stored, torch.ones(16), library)
        for num_rows in (1, 8, 64):  # few and many take different ways
            y = torch.cat([layer(rows[None])[0] for rows in x.split(num_rows)])
            torch.testing.assert_close(y.T.float(), weight + 1, rtol=0, atol=error)
    assert torch.equal(int8["lm_head.weight"], int8["layers.0.wo.weight"])  # tied


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_both_ways_round_alike(model, dtype, native):
    weights = model.state_dict() | {"lm_head.weight": torch.randn(7, 192).half()}
    weights["layers.0.self_attn.wo.weight"][3] = 0
    found = quantise_weights(weights, dtype, native)
    expected = quantise_weights(weights, dtype, None)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("num_inputs", [7, 50])
def test_sizes_that_pytorch_s_product_does_not_fit(num_inputs):
    """It would read beyond the weights, which ends the process."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Linear(num_inputs, 20)
    x = torch.randn(3, num_inputs, generator=generator)
    expected = plain(x)
    found = quantise_layers(plain.bfloat16(), "int8", None)(x.bfloat16())
    assert (found.float() - expected).norm() / expected.norm() < 0.02


def test_sizes_that_4_bits_do_not_fit():
    weights = {"wo.weight": torch.ones(16, 48), "lm_head.weight": torch.ones(16, 48)}
    with pytest.raises(ValueError, match="int4 needs layer sizes that 64 divides, got 48"):
        quantise_weights(weights, "int4", None)
    assert fits_4_bits(CONFIG.slow, CONFIG.fast)
    other = replace(CONFIG, intermediate_size_fast=96)
    assert not fits_4_bits(other.slow, other.fast)


def test_four_bits_are_kept_once(library):
    """Weight and scale lie in another order, and not a second time."""
    names = {"wo.weight": torch.randn(32, 128)}
    weights = quantise_weights(names, "int4", None)
    layer = layer_of(Int4Linear, weights["wo.weight"], weights["wo.scale"], None, library)
    kept = sum(tensor.nbytes for tensor in layer.buffers())
    stored = weights["wo.weight"].nbytes + weights["wo.scale"].bfloat16().nbytes
    assert kept == stored
    assert torch.equal(layer.state_dict()["weight"], weights["wo.weight"])
    assert torch.equal(layer.state_dict()["scale"], weights["wo.scale"].bfloat16())
