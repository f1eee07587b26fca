"""Products of many rows, by two panels of weights at once, and of few have the same bits."""

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for

from models.transformer.native.linear import NativeLinear
from models.transformer.native.panels import PANEL
from models.transformer.quantisation import quantise_weights

SHARING = 64  # rows, as in native.c
NUM_INPUTS, NUM_OUTPUTS = 448, 4 * PANEL + 7  # two pairs of panels, and a part of one


@pytest.fixture(params=INSTRUCTION_SETS)
def native(request):
    return library_for(request.param)


@pytest.mark.parametrize("name, dtype", [("lm_head", torch.int8), ("wo", torch.uint8)])
@pytest.mark.parametrize("num_beyond", [0, 1, 2, 3, 4, 7])
def test_rows_and_panels_beside_each_other_change_no_bit(
    name, dtype, num_beyond, native, set_threads
):
    set_threads(1)
    generator = torch.Generator().manual_seed(num_beyond)
    weight = torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=generator)
    made = quantise_weights({f"{name}.weight": weight}, "int4", native)
    weight, scale = made[f"{name}.weight"], made[f"{name}.scale"].bfloat16()
    bias = torch.randn(NUM_OUTPUTS, generator=generator).bfloat16()
    x = torch.randn(SHARING + num_beyond, NUM_INPUTS, generator=generator)
    assert weight.dtype == dtype
    layer = NativeLinear(native, weight, scale, bias)
    whole = layer(x)
    assert torch.equal(whole, torch.cat([layer(row) for row in x.split(1)]))
    parts = zip(*(tensor.split(PANEL) for tensor in (weight, scale, bias)))
    panels = [NativeLinear(native, *map(torch.clone, part)) for part in parts]
    assert torch.equal(whole, torch.cat([panel(x) for panel in panels], dim=1))
