"""Causal convolutions equal their definitions and never see the future."""

import math

import pytest
import torch
from torch import Tensor

from models.westlake.firefly.conv import FishConvNet, FishTransConvNet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CONVS = [  # kernel_size, stride, dilation, groups
    (7, 1, 1, 1),
    (7, 1, 1, 6),
    (3, 1, 5, 1),
    (11, 1, 3, 2),
    (1, 1, 1, 1),
    (2, 2, 1, 1),
    (4, 2, 1, 1),
    (5, 3, 2, 3),
]


@pytest.mark.parametrize("length", [1, 2, 9, 30])
@pytest.mark.parametrize(("kernel_size", "stride", "dilation", "groups"), CONVS)
def test_conv_equals_its_definition(
    kernel_size: int, stride: int, dilation: int, groups: int, length: int
):
    layer = FishConvNet(6, 12, kernel_size, stride=stride, dilation=dilation, groups=groups)
    x = noise(2, 6, length)
    num_outputs = math.ceil(length / stride)
    # output i sees, dilation apart, the inputs up to (i + 1) * stride - 1; outside stand zeros
    expected = layer.conv.bias[:, None].repeat(2, 1, num_outputs)
    for i in range(num_outputs):
        for k in range(kernel_size):
            at = (i + 1) * stride - 1 - (kernel_size - 1 - k) * dilation
            if 0 <= at < length:
                for group, (weight, seen) in enumerate(
                    zip(layer.conv.weight[..., k].chunk(groups), x[..., at].chunk(groups, dim=1))
                ):
                    size = 12 // groups
                    expected[:, group * size : (group + 1) * size, i] += seen @ weight.T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize(("kernel_size", "stride"), [(16, 8), (4, 2), (2, 2), (5, 2), (7, 1)])
def test_transposed_conv_equals_its_definition(kernel_size: int, stride: int, length: int):
    layer = FishTransConvNet(6, 4, kernel_size, stride=stride)
    x = noise(2, 6, length)
    full = layer.conv.bias[:, None].repeat(2, 1, (length - 1) * stride + kernel_size)
    for i in range(length):
        full[..., i * stride : i * stride + kernel_size] += torch.einsum(
            "bc,cdk->bdk", x[..., i], layer.conv.weight
        )
    expected = full[..., : full.shape[-1] - (kernel_size - stride)]
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kernel_size", "stride", "dilation", "groups"), CONVS)
def test_conv_never_sees_the_future(kernel_size: int, stride: int, dilation: int, groups: int):
    layer = FishConvNet(6, 12, kernel_size, stride=stride, dilation=dilation, groups=groups)
    x = noise(1, 6, 30)
    before = layer(x)
    for start in range(30):
        other = x.clone()
        other[..., start:] = noise(1, 6, 30 - start, seed=1)
        after = layer(other)
        assert torch.equal(after[..., : start // stride], before[..., : start // stride])
        assert not torch.equal(after, before)


@pytest.mark.parametrize(("kernel_size", "stride"), [(16, 8), (4, 2), (2, 2), (5, 2)])
def test_transposed_conv_never_sees_the_future(kernel_size: int, stride: int):
    layer = FishTransConvNet(6, 4, kernel_size, stride=stride)
    x = noise(1, 6, 10)
    before = layer(x)
    for start in range(10):
        other = x.clone()
        other[..., start:] = noise(1, 6, 10 - start, seed=1)
        after = layer(other)
        assert torch.equal(after[..., : start * stride], before[..., : start * stride])
        assert not torch.equal(after, before)
