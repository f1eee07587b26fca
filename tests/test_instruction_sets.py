"""native.c under every instruction set: the largest numbers, and NEON under emulation."""

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for

from models.westlake.dual_ar.engines.library import NativeLinear


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_are_not_cut_off(isa, bits, sign):
    """Rows of the smallest, the largest, and both weights in turn."""
    size = 192
    least, most = (-128, 127) if bits == 8 else (0, 15)
    steps = torch.tensor([[least, least], [most, most], [least, most]]).repeat(1, size // 2)
    if bits == 8:
        weight, scale = steps.to(torch.int8), torch.ones(3)
    else:
        weight = (steps[:, ::2] << 4 | steps[:, 1::2]).to(torch.uint8)
        scale = torch.tensor([1.0, 8.0]).expand(3, size // 64, 2).contiguous()
    layer = NativeLinear(library_for(isa), weight, scale.bfloat16(), None)
    x = torch.full((5, size), 127.0 * sign)
    assert torch.equal(layer(x), x @ steps.float().T)
