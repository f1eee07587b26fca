"""The vocoder in C computes what PyTorch's does, in pieces and for several signals as for one."""

import dataclasses
from math import prod

import pytest
import torch
from torch import Tensor

from models.transformer.native import has_vocoder, load_library
from models.westlake.firefly import FireflyArchitecture, FireflyConfig, StreamState
from models.westlake.firefly.hifigan import HiFiGANGenerator
from models.westlake.firefly.quantizer import DownsampleFiniteScalarQuantize

LIBRARY = load_library()
pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(
        LIBRARY is None or not has_vocoder(LIBRARY), reason="the vocoder is PyTorch's on this CPU"
    ),
]
LATENT_DIM = 40
RATES, KERNELS = (4, 3, 2), (8, 5, 2)
CONFIGS = {
    "whole vectors": {"decoder_dim": 128, "resblock_kernel_sizes": (3, 7, 11)},
    "parts of vectors": {"decoder_dim": 72, "resblock_kernel_sizes": (5,)},
    "three vectors": {"decoder_dim": 96, "resblock_dilations": (2,)},
    "large": {"decoder_dim": 512, "resblock_kernel_sizes": (3, 5), "resblock_dilations": (1, 3)},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=CONFIGS)
def head(request: pytest.FixtureRequest) -> HiFiGANGenerator:
    """A float32 vocoder whose weights fit into bfloat16, and whose signals do not vanish."""
    config = FireflyConfig(
        hop_length=prod(RATES),
        encoder_dims=(8, 8, 8, LATENT_DIM),
        upsample_rates=RATES,
        upsample_kernel_sizes=KERNELS,
        **CONFIGS[request.param],
    )
    head = HiFiGANGenerator(config, weight_norm=False).eval().requires_grad_(False)
    for seed, weight in enumerate(head.parameters()):
        scale = 0.1 if weight.dim() == 1 else weight[0].numel() ** -0.5
        weight.copy_(scale * noise(*weight.shape, seed=seed).bfloat16())
    return head


def packed(head: HiFiGANGenerator) -> HiFiGANGenerator:
    """The same vocoder in C."""
    other = in_bfloat16(head)
    other.pack(LIBRARY)
    assert other.native is not None
    return other


def in_bfloat16(head: HiFiGANGenerator) -> HiFiGANGenerator:
    other = HiFiGANGenerator(head.config, weight_norm=False).eval().requires_grad_(False)
    other.load_state_dict(head.state_dict())
    return other.bfloat16()


def test_it_errs_less_than_pytorch(head: HiFiGANGenerator):
    x = noise(2, LATENT_DIM, 9)
    expected = head(x)
    found, in_pytorch = packed(head)(x), in_bfloat16(head)(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert 0.01 < expected.std() < 0.9
    error, other = ((y - expected).norm() / expected.norm() for y in (found, in_pytorch))
    assert error < other < 0.05


def test_pieces_and_signals_side_by_side_give_the_same_bits(head: HiFiGANGenerator):
    head = packed(head)
    x = noise(3, LATENT_DIM, 70)
    whole = head(x)
    assert torch.equal(torch.cat([head(row[None]) for row in x]), whole)
    state = StreamState(3)
    pieces = [head(piece, state) for piece in x.split([1, 2, 30, 5, 32], dim=-1)]
    assert torch.equal(torch.cat(pieces, dim=-1), whole)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_change_no_bit(head: HiFiGANGenerator, num_threads: int):
    head = packed(head)
    x = noise(2, LATENT_DIM, 7)
    expected, before = head(x), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert torch.equal(head(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def quantizer(small_codec: FireflyArchitecture) -> DownsampleFiniteScalarQuantize:
    """Small, with blocks that change what passes them."""
    config = dataclasses.replace(small_codec.config, layer_scale_init=0.5)
    quantizer = DownsampleFiniteScalarQuantize(config).eval().requires_grad_(False)
    for seed, (name, weight) in enumerate(quantizer.named_parameters()):
        if not name.endswith("gamma"):
            weight.copy_(noise(*weight.shape, seed=seed) / weight[0].numel() ** 0.5)
    return quantizer


def test_latents_err_as_bfloat16_does(quantizer: DownsampleFiniteScalarQuantize):
    codes = torch.arange(2 * 8 * 50).view(2, 8, 50) * 37 % 1000
    expected, encoded = quantizer.decode(codes), quantizer.encode(noise(2, 64, 40))
    quantizer.pack(LIBRARY)
    found = quantizer.decode(codes)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() < 0.01 * expected.norm()
    assert torch.equal(quantizer.encode(noise(2, 64, 40)), encoded)


def test_latents_of_pieces_and_signals_side_by_side_have_the_same_bits(
    quantizer: DownsampleFiniteScalarQuantize,
):
    quantizer.pack(LIBRARY)
    codes = torch.arange(3 * 8 * 50).view(3, 8, 50) * 37 % 1000
    whole = quantizer.decode(codes)
    assert torch.equal(torch.cat([quantizer.decode(row[None]) for row in codes]), whole)
    state = StreamState(3)
    pieces = [quantizer.decode(piece, state) for piece in codes.split([1, 2, 40, 7], dim=-1)]
    assert torch.equal(torch.cat(pieces, dim=-1), whole)


def test_other_latent_weights_are_used_after_they_are_loaded(
    quantizer: DownsampleFiniteScalarQuantize,
):
    codes = torch.arange(8 * 5).view(1, 8, 5)
    quantizer.pack(LIBRARY)
    before = quantizer.decode(codes)
    quantizer.load_state_dict({key: 2 * x for key, x in quantizer.state_dict().items()})
    plain = quantizer.decode(codes)
    assert not torch.allclose(plain, before, rtol=0.1)
    quantizer.pack(LIBRARY)
    assert (quantizer.decode(codes) - plain).norm() < 0.01 * plain.norm()


def test_the_codec_streams_through_it(small_codec: FireflyArchitecture):
    codec = FireflyArchitecture(small_codec.config).eval()
    codec.load_state_dict(small_codec.state_dict())
    codec.prepare_inference().head.bfloat16()
    codec.pack(LIBRARY)
    assert codec.quantizer.native is not None
    codes = torch.arange(2 * 8 * 20).view(2, 8, 20) * 37 % 1000
    whole = codec.decode(codes, torch.tensor([20, 20]))[0]
    expected = small_codec.decode(codes, torch.tensor([20, 20]))[0]
    torch.testing.assert_close(whole, expected, atol=0.02 * expected.abs().max().item(), rtol=0)
    states = [codec.new_state(), codec.new_state()]
    pieces: list[list[Tensor]] = [[], []]
    num_bytes = set()
    for start in range(0, 20, 5):
        for row, state, heard in zip(codes, states, pieces):
            heard.append(codec.decode_chunk(row[None, :, start : start + 5], state))
            num_bytes.add(state.num_bytes)
    joined = torch.cat([torch.cat(heard, dim=-1) for heard in pieces])
    torch.testing.assert_close(joined, whole, atol=1e-4, rtol=0)
    assert len(num_bytes) == 1


def test_other_weights_are_used_after_they_are_loaded_or_converted(head: HiFiGANGenerator):
    changed, x = packed(head), noise(1, LATENT_DIM, 3)
    halved = {key: tensor / 2 for key, tensor in head.state_dict().items()}
    changed.load_state_dict(halved)
    plain = in_bfloat16(head)
    plain.load_state_dict(halved)
    assert torch.equal(changed(x), plain(x))
    changed.pack(LIBRARY)
    assert torch.equal(changed.float()(x), plain.float()(x))
