"""The decoder in C computes what PyTorch's does, in pieces and for several signals as for one."""

import dataclasses
from ctypes import CDLL
from math import prod

import pytest
import torch
from emulated import EmulatedLibrary
from libraries import DECODERS, library_for
from torch import Tensor

from models.transformer.native import load_library
from models.transformer.native.compiled import isa_of
from models.westlake.firefly import FireflyArchitecture, FireflyConfig, StreamState
from models.westlake.firefly.conv import FishTransConvNet
from models.westlake.firefly.hifigan import HiFiGANGenerator, ParallelBlock
from models.westlake.firefly.native_layers import sample_dtype
from models.westlake.firefly.quantizer import DownsampleFiniteScalarQuantize

LIBRARY = load_library()
pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(LIBRARY is None, reason="there is no library on this CPU"),
]
LATENT_DIM, FILLED_DIM, SMALL_DIM = 40, 48, 128
TILE = 1 << 17  # numbers of a signal, as in vocoder.h
RATES, KERNELS = (4, 3, 2), (8, 5, 2)
CONFIGS = {
    "whole vectors": {"decoder_dim": 128, "resblock_kernel_sizes": (3, 7, 11)},
    "parts of vectors": {"decoder_dim": 72, "resblock_kernel_sizes": (5,)},
    "three vectors": {"decoder_dim": 96, "resblock_dilations": (2,)},
    "two taps": {"decoder_dim": 128, "resblock_kernel_sizes": (2, 3)},
    "large": {"decoder_dim": 512, "resblock_kernel_sizes": (3, 5), "resblock_dilations": (1, 5)},
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


@pytest.fixture(scope="module", params=["native", *DECODERS, "avx2", "neon"])
def library(request: pytest.FixtureRequest) -> CDLL:
    """The processor's best one; and those that have vectors alone, of either dtype."""
    return library_for(request.param)


def packed(head: HiFiGANGenerator, library: CDLL | None = LIBRARY) -> HiFiGANGenerator:
    """The same vocoder in C."""
    if isinstance(library, EmulatedLibrary) and head.config.decoder_dim > SMALL_DIM:
        pytest.skip("the emulator would take long")
    other = in_bfloat16(head)
    other.pack(library)
    assert other.packed is not None
    return other


def in_bfloat16(head: HiFiGANGenerator) -> HiFiGANGenerator:
    other = HiFiGANGenerator(head.config, weight_norm=False).eval().requires_grad_(False)
    other.load_state_dict(head.state_dict())
    return other.bfloat16()


def test_it_errs_less_than_pytorch(head: HiFiGANGenerator, library: CDLL):
    x = noise(2, LATENT_DIM, 9)
    expected = head(x)
    found, in_pytorch = packed(head, library)(x), in_bfloat16(head)(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert 0.01 < expected.std() < 0.9
    error, other = ((y - expected).norm() / expected.norm() for y in (found, in_pytorch))
    assert error < other < 0.05
    assert error < (1e-4 if sample_dtype(library) == torch.float32 else 0.02)


def test_what_is_no_number_or_large_passes(head: HiFiGANGenerator, library: CDLL):
    changed, x = packed(head, library), noise(1, LATENT_DIM, 3)
    assert changed(torch.nan * x).isnan().all()
    large, expected = changed(1000 * x), head(1000 * x)
    assert (large.sign() == expected.sign()).float().mean() > 0.9
    if sample_dtype(library) == torch.float32:
        torch.testing.assert_close(large, expected, rtol=0, atol=0.1)


def test_tiles_err_no_more_than_vectors(head: HiFiGANGenerator):
    if isa_of(library_for("native")) != "amx":
        pytest.skip("no tiles on this processor")
    x = noise(2, LATENT_DIM, 9)
    expected, without = head(x), packed(head, library_for("bfloat16"))(x)
    found = packed(head)(x)
    assert not torch.equal(found, without)
    assert (found - expected).norm() < 1.2 * (without - expected).norm()


def test_pieces_and_signals_side_by_side_give_the_same_bits(head: HiFiGANGenerator, library: CDLL):
    head = packed(head, library)
    sizes = [1, 2, 4, 5] if isinstance(library, EmulatedLibrary) else [1, 2, 30, 5, 32]
    x = noise(3, LATENT_DIM, sum(sizes))
    whole = head(x)
    assert torch.equal(torch.cat([head(row[None]) for row in x]), whole)
    state = StreamState(3)
    pieces = [head(piece, state) for piece in x.split(sizes, dim=-1)]
    assert torch.equal(torch.cat(pieces, dim=-1), whole)


def test_signals_that_began_at_other_times_give_the_same_bits(
    head: HiFiGANGenerator, library: CDLL
):
    head = packed(head, library)
    assert head.packed is not None
    begun = head.packed.states(head, 2, None)
    x = noise(2, LATENT_DIM, 9)
    head.packed(x[1:, :, :5], begun[1:].unbind())
    together = head.packed(torch.stack([x[0, :, :4], x[1, :, 5:]]), begun.unbind())
    alone = head.packed(x, head.packed.states(head, 2, None).unbind())
    num_samples = together.shape[-1]
    assert torch.equal(together[0], alone[0, :, :num_samples])
    assert torch.equal(together[1], alone[1, :, -num_samples:])


def test_nothing_is_no_wave(head: HiFiGANGenerator):
    assert packed(head)(noise(2, LATENT_DIM, 0)).shape == (2, 1, 0)


@pytest.mark.parametrize("head", ["parts of vectors"], indirect=True)
@pytest.mark.parametrize("shape", [(3, LATENT_DIM, 1000), (40, LATENT_DIM, 72)])
def test_more_than_a_tile_of_positions_gives_the_same_bits(
    head: HiFiGANGenerator, library: CDLL, shape: tuple[int, ...]
):
    if isinstance(library, EmulatedLibrary):
        pytest.skip("the emulator would take long")
    head = packed(head, library)
    x = noise(*shape)
    assert x[:, 0].numel() > TILE // FILLED_DIM
    whole = head(x)
    for row in (0, -1):
        alone = StreamState(1)
        pieces = [head(piece, alone) for piece in x[row, None].split(33, dim=-1)]
        assert torch.equal(torch.cat(pieces, dim=-1)[0], whole[row])


@pytest.mark.parametrize("head", ["parts of vectors"], indirect=True)
@pytest.mark.parametrize("num_states", [1, 3])
def test_each_signal_needs_a_state(head: HiFiGANGenerator, num_states: int):
    head = packed(head)
    with pytest.raises(ValueError, match=rf"2 signals.*{num_states} state"):
        head(noise(2, LATENT_DIM, 3), kept_by(head, num_states))


def kept_by(module: HiFiGANGenerator | DownsampleFiniteScalarQuantize, num: int) -> StreamState:
    state = StreamState(num)
    module.packed.states(module, num, state)
    return state


@pytest.mark.parametrize("head", ["parts of vectors"], indirect=True)
def test_more_stages_than_it_takes_are_for_pytorch(head: HiFiGANGenerator):
    def longer(head: HiFiGANGenerator) -> HiFiGANGenerator:
        channels = head.config.decoder_dim // 2 ** len(RATES)
        for _ in range(14):
            head.ups.append(FishTransConvNet(channels, channels, 1, stride=1))
            head.resblocks.append(ParallelBlock(channels, (3,), (1,)))
        return head.bfloat16()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = longer(in_bfloat16(head))
    plain = longer(in_bfloat16(head))
    plain.load_state_dict(found.state_dict())
    found.pack(LIBRARY)
    assert found.packed is None
    x = noise(1, LATENT_DIM, 3)
    torch.testing.assert_close(found(x), plain(x))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_change_no_bit(head: HiFiGANGenerator, library: CDLL, num_threads: int):
    head = packed(head, library)
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


def test_latents_err_as_their_dtype_does(quantizer: DownsampleFiniteScalarQuantize, library: CDLL):
    codes = torch.arange(2 * 8 * 50).view(2, 8, 50) * 37 % 1000
    expected, encoded = quantizer.decode(codes), quantizer.encode(noise(2, 64, 40))
    quantizer.pack(library)
    found = quantizer.decode(codes)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    rounded = 1e-5 if sample_dtype(library) == torch.float32 else 0.01
    assert 0 < (found - expected).norm() < rounded * expected.norm()
    assert torch.equal(quantizer.encode(noise(2, 64, 40)), encoded)


def test_latents_of_pieces_and_signals_side_by_side_have_the_same_bits(
    quantizer: DownsampleFiniteScalarQuantize, library: CDLL
):
    quantizer.tabulate()  # else PyTorch's products round otherwise beside others
    quantizer.pack(library)
    codes = torch.arange(3 * 8 * 50).view(3, 8, 50) * 37 % 1000
    whole = quantizer.decode(codes)
    assert torch.equal(torch.cat([quantizer.decode(row[None]) for row in codes]), whole)
    state = StreamState(3)
    pieces = [quantizer.decode(piece, state) for piece in codes.split([1, 2, 40, 7], dim=-1)]
    assert torch.equal(torch.cat(pieces, dim=-1), whole)


def test_latents_of_more_signals_than_a_tile_has_frames_have_the_same_bits(
    quantizer: DownsampleFiniteScalarQuantize, library: CDLL
):
    quantizer.tabulate()  # else PyTorch's products round otherwise beside others
    quantizer.pack(library)
    codes = torch.arange(40 * 8 * 3).view(40, 8, 3) * 37 % 1000
    whole = quantizer.decode(codes)
    assert torch.equal(torch.cat([quantizer.decode(row[None]) for row in codes]), whole)


@pytest.mark.parametrize("num_states", [1, 3])
def test_each_signals_latents_need_a_state(
    quantizer: DownsampleFiniteScalarQuantize, num_states: int
):
    quantizer.pack(LIBRARY)
    with pytest.raises(ValueError, match=rf"2 signals.*{num_states} state"):
        quantizer.decode(torch.zeros(2, 8, 3).long(), kept_by(quantizer, num_states))


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


def packed_codec(codec: FireflyArchitecture, library: CDLL | None) -> FireflyArchitecture:
    packed = FireflyArchitecture(codec.config).eval()
    packed.load_state_dict(codec.state_dict())
    packed.prepare_inference().head.bfloat16()
    packed.pack(library)
    return packed


def test_no_signals_are_no_waves(small_codec: FireflyArchitecture):
    nothing = torch.zeros(0, 8, 3).long(), torch.zeros(0).long()
    expected, lengths = small_codec.decode(*nothing)
    found, found_lengths = packed_codec(small_codec, LIBRARY).decode(*nothing)
    assert found.shape == expected.shape == (0, 1, 3 * small_codec.config.samples_per_frame)
    assert found.dtype == expected.dtype
    assert found_lengths.shape == lengths.shape


def test_the_codec_streams_through_it(small_codec: FireflyArchitecture, library: CDLL):
    if isinstance(library, EmulatedLibrary):
        pytest.skip("the emulator would take long")
    codec = packed_codec(small_codec, library)
    assert codec.quantizer.packed is not None and not codec.compiles_sizes
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
    plain = in_bfloat16(head).to(sample_dtype(LIBRARY))
    plain.load_state_dict(halved)
    assert torch.equal(changed(x), plain(x))
    changed.pack(LIBRARY)
    assert torch.equal(changed.float()(x), plain.float()(x))
