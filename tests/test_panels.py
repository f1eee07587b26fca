"""Weights in panels, and the memory that they lie in."""

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for

from models.transformer.native import HugePages, NativeLinear
from models.transformer.native.memory import HUGE_PAGE, MAPPED_BYTES
from models.transformer.native.panels import from_panels, to_panels
from models.transformer.quantised import Int8Linear


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(1, 3), (16, 8), (37, 50), (64, 4)])
def test_rows_come_back_out_of_panels(isa, shape):
    rows = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(0))
    panels = to_panels(library_for(isa), rows.to(torch.int8), HugePages())
    assert panels.shape == (-(-shape[0] // 16), -(-shape[1] // 4), 16)
    wanted = torch.tensor([[0, shape[0] - 1], [shape[0] // 2, 0]])
    assert torch.equal(
        from_panels(panels, wanted, torch.int8, shape[1]), rows[wanted].to(torch.int8)
    )
    assert not panels.transpose(1, 2).flatten(0, 1)[shape[0] :].any()


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(16, 8), (64, 36), (37, 8), (32, 50)])
def test_rows_that_are_given_up_are_put_in_order_where_they_lie(isa, shape, set_threads):
    set_threads(3)
    library, memory = library_for(isa), HugePages()
    rows = memory.take(shape, torch.int8)
    behind = memory.take((64,), torch.int8).fill_(7)
    rows.copy_(torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(0)))
    expected = to_panels(library, rows)
    given = rows.clone()
    found = to_panels(library, rows, HugePages(), in_place=True)
    assert torch.equal(found, expected) and (behind == 7).all()
    is_whole = shape[0] % 16 == shape[1] % 4 == 0
    assert (found.data_ptr() == rows.data_ptr()) == is_whole
    assert is_whole or torch.equal(rows, given)


def test_a_part_of_a_layer_shares_its_memory_from_a_panel_on():
    generator = torch.Generator().manual_seed(0)
    layer = Int8Linear(64, 50, has_bias=True)
    layer.weight = torch.randint(-127, 128, (50, 64), generator=generator).to(torch.int8)
    layer.scale, layer.bias = (
        torch.rand(50, generator=generator),
        torch.rand(50, generator=generator),
    )
    layer.prepare(library_for("native"))
    x = torch.randn(3, 64, generator=generator)
    whole, start = layer(x), layer.packed.data_ptr()
    for outputs, is_shared in (
        (slice(0, 20), True),
        (slice(32, None), True),
        (slice(7, 40), False),
        (torch.tensor([49, 3, 3]), False),
    ):
        part = layer.part(outputs)
        assert torch.equal(part(x), whole[:, outputs])
        offset = part.packed.data_ptr() - start
        assert (0 <= offset < layer.packed.nbytes) == is_shared


def test_huge_pages_hold_tensors_one_after_another():
    memory = HugePages()
    taken = [memory.take((n, 3), torch.int8).fill_(n) for n in (5, 100, 1, 70)]
    first = taken[0].data_ptr()
    assert first % HUGE_PAGE == 0 or not hasattr(__import__("mmap"), "MADV_HUGEPAGE")
    assert [t.data_ptr() - first for t in taken] == [0, 64, 384, 448]
    large = memory.take((MAPPED_BYTES + 5,), torch.int8).fill_(9)
    assert all((t == n).all() for t, n in zip(taken, (5, 100, 1, 70)))
    assert large.data_ptr() % 64 == 0 and (large == 9).all()


def test_layers_in_huge_pages_compute_as_in_their_own():
    library = library_for("native")
    weight = torch.randint(0, 256, (40, 64)).to(torch.uint8)
    scale = torch.rand(40, 2, 2).bfloat16()
    x = torch.randn(9, 128)
    apart = NativeLinear(library, weight, scale, None)
    memory = HugePages()
    layers = [NativeLinear(library, weight, scale, None, memory) for _ in range(3)]
    assert all(torch.equal(layer(x), apart(x)) for layer in layers)
    every = torch.arange(40)
    assert torch.equal(layers[1].weight_rows(every), weight)
    assert torch.equal(layers[1].scale_rows(), scale)
