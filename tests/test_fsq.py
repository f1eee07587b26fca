"""Finite scalar quantisation: a group's channels <-> its code, number by number."""

import math

import pytest
import torch
from vector_quantize_pytorch import GroupedResidualFSQ

from models.westlake.firefly.fsq import GroupedScalarQuantizer, ScalarQuantizer

LEVELS = [(8, 5, 5, 5), (7, 3, 4), (2, 6)]


def bounded(x: float, levels: int) -> float:
    """The paper's bound, in plain arithmetic."""
    reach, offset = (levels - 1) * 1.001 / 2, 0.5 if levels % 2 == 0 else 0.0
    return math.tanh(x + math.atanh(offset / reach)) * reach - offset


@pytest.mark.parametrize("levels", LEVELS)
def test_a_code_is_made_of_numbers_that_are_bounded_twice_and_rounded(levels):
    quantizer = ScalarQuantizer(len(levels), levels)
    x = 3 * torch.randn(1, 200, len(levels), generator=torch.Generator().manual_seed(0))
    quantised, codes = quantizer(x)
    for place, numbers in enumerate(x[0].tolist()):
        code, step = 0, 1
        for axis, (number, count) in enumerate(zip(numbers, levels)):
            level = round(bounded(bounded(number, count), count))
            assert quantised[0, place, axis] == pytest.approx(level / (count // 2))
            code, step = code + step * (level + count // 2), step * count
        assert codes[0, place] == code
    assert len(codes.unique()) > math.prod(levels) / 20


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_stands_for_its_own_numbers(levels):
    quantizer = ScalarQuantizer(len(levels), levels)
    codes = torch.arange(math.prod(levels))
    numbers = quantizer.numbers(codes)
    halves = torch.tensor(levels) // 2
    digits = (numbers * halves + halves).round().long()
    assert torch.equal((digits * quantizer.steps).sum(-1), codes)
    assert all(len(axis.unique()) == count for axis, count in zip(numbers.T, levels))


def test_groups_are_quantised_each_by_itself_and_decoded_alike():
    torch.manual_seed(0)
    quantizer = GroupedScalarQuantizer(64, 8, LEVELS[0])
    x = 5 * torch.randn(2, 30, 64)
    with torch.no_grad():
        quantised, codes = quantizer(x)
        assert codes.shape == (2, 8, 30) and 0 <= codes.min() <= codes.max() < 1000
        torch.testing.assert_close(quantizer.decode(codes), quantised)
        x[..., 8:16] = 0
        changed = (quantizer(x)[1] != codes).any(dim=-1).any(dim=0)
    assert changed.tolist() == [False, True, *[False] * 6]


@pytest.mark.parametrize(
    "dim", [32, 64]
)  # a group's channels are its numbers, or projected to them
def test_it_is_the_quantiser_that_the_published_weights_were_trained_with(dim: int):
    torch.manual_seed(0)
    theirs = GroupedResidualFSQ(dim=dim, levels=[8, 5, 5, 5], num_quantizers=1, groups=8)
    ours = GroupedScalarQuantizer(dim, 8, (8, 5, 5, 5))
    ours.load_state_dict(theirs.state_dict())
    x = 3 * torch.randn(2, 500, dim)
    wanted = torch.randn_like(x)
    outputs, gradients = [], []
    for quantizer in (theirs, ours):
        given = x.clone().requires_grad_(True)
        outputs.append(quantizer(given))
        (outputs[-1][0] * wanted).sum().backward()
        gradients.append(given.grad)
    (values, codes), (own_values, own_codes) = outputs
    assert torch.equal(own_codes, codes[..., 0].transpose(0, 1).long())
    assert torch.equal(own_values, values) and torch.equal(*gradients)
    torch.testing.assert_close(ours.decode(own_codes), theirs.get_output_from_indices(codes))
