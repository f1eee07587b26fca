"""native.c under every instruction set, and with threads of its own."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for

from models.transformer.native import NativeLinear, load_library
from models.transformer.native.compiled import isa_of


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


@pytest.mark.parametrize("num_inputs", [64, 192, 448])
@pytest.mark.parametrize("num_outputs", [7, 32, 71])
@pytest.mark.parametrize("bits", [8, 4])
def test_tiles_give_what_vectors_give_and_a_row_gives_the_same_among_many(
    bits, num_outputs, num_inputs
):
    layers = layers_with_and_without_tiles(bits, num_outputs, num_inputs)
    x = torch.randn(70, num_inputs, generator=torch.Generator().manual_seed(1))
    with_tiles, without = layers
    alone = torch.cat([without(row) for row in x.split(1)])
    for num_rows in range(1, 71):
        assert torch.equal(with_tiles(x[:num_rows]), alone[:num_rows])
        assert torch.equal(without(x[:num_rows]), alone[:num_rows])


@pytest.mark.parametrize("num_inputs", [1, 50, 130])
def test_tiles_of_inputs_that_do_not_fill_them(num_inputs):
    with_tiles, without = layers_with_and_without_tiles(8, 33, num_inputs)
    x = torch.randn(300, num_inputs, generator=torch.Generator().manual_seed(1))
    assert torch.equal(with_tiles(x), without(x))


def layers_with_and_without_tiles(bits: int, num_outputs: int, num_inputs: int):
    """The same layer in both ways; the test is skipped where there are no tiles."""
    if isa_of(library_for("native")) != "amx":
        pytest.skip("this process may not use AMX")
    generator = torch.Generator().manual_seed(0)
    least, most, size = (-128, 128, num_inputs) if bits == 8 else (0, 256, num_inputs // 2)
    weight = torch.randint(least, most, (num_outputs, size), generator=generator)
    weight = weight.to(torch.int8 if bits == 8 else torch.uint8)
    shape = (num_outputs,) if bits == 8 else (num_outputs, num_inputs // 64, 2)
    scale = torch.randn(shape, generator=generator).bfloat16()
    bias = torch.randn(num_outputs, generator=generator).bfloat16()
    libraries = library_for("native"), library_for("avx512")
    return [NativeLinear(library, weight, scale, bias) for library in libraries]


THREADS = 4  # more than there are cores, so that they wait for each other


def products(library, num_callers: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (203, 320), generator=generator).to(torch.int8)
    layer = NativeLinear(library, weight, torch.ones(203).bfloat16(), None)
    inputs = [torch.randn(rows % 9 + 1, 320, generator=generator) for rows in range(400)]
    torch_threads = torch.get_num_threads()

    def call(x: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(torch_threads)
        return layer(x)

    with ThreadPoolExecutor(num_callers) as pool:
        return list(pool.map(call, inputs))


@pytest.mark.parametrize("num_callers", [1, 3])
def test_many_threads_and_callers_do_as_one(set_threads, num_callers):
    set_threads(THREADS)
    library = load_library()
    if library is None:
        pytest.skip("native.c can't be compiled here")
    found = products(library, num_callers)
    set_threads(1)
    for product, expected in zip(found, products(library, 1)):
        assert torch.equal(product, expected)


def test_a_forked_process_has_threads_of_its_own(set_threads):
    set_threads(THREADS)
    library = load_library()
    if library is None or not hasattr(os, "fork"):
        pytest.skip("native.c can't be compiled here, or there is no fork")
    weight = torch.ones(203, 320, dtype=torch.int8)
    layer = NativeLinear(library, weight, torch.ones(203).bfloat16(), None)
    x = torch.ones(5, 320)
    expected = layer(x)
    child = os.fork()
    if not child:
        signal.alarm(30)  # which ends a process that waits for ever
        os._exit(not torch.equal(layer(x), expected))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
