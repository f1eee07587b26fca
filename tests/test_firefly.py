"""The codec as a whole: batches, lengths, what it sees, its config."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.devices import multiplies_bfloat16
from models.westlake.firefly import (
    ConvNeXtEncoder,
    DownsampleFiniteScalarQuantize,
    FireflyArchitecture,
    FireflyConfig,
    HiFiGANGenerator,
    LogMelSpectrogram,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rebuilt(codec: FireflyArchitecture, **changes: object) -> FireflyArchitecture:
    """A codec with the same weights and some other settings."""
    other = FireflyArchitecture(dataclasses.replace(codec.config, **changes))
    other.load_state_dict(codec.state_dict())
    return other.eval()


def test_weights_for_inference_keep_the_audio(small_codec: FireflyArchitecture):
    folded = rebuilt(small_codec)
    assert folded.prepare_inference() is folded
    assert folded.head.conv_pre.conv.weight.mT.is_contiguous()
    assert not any(parametrize.is_parametrized(module) for module in folded.modules())
    x = noise(1, 64, 4)
    torch.testing.assert_close(folded.head(x), small_codec.head(x), atol=1e-5, rtol=0)
    codes = torch.arange(1000).repeat(8, 1).roll(7)[None]
    hidden = small_codec.quantizer.decode(codes)
    torch.testing.assert_close(folded.quantizer.decode(codes), hidden, atol=1e-5, rtol=0)
    assert (
        folded.state_dict().keys()
        == FireflyArchitecture(small_codec.config).fold_weight_norm().state_dict().keys()
    )
    folded.fold_weight_norm()  # once more does no harm


def in_bfloat16(codec: FireflyArchitecture) -> FireflyArchitecture:
    """A codec with the same weights, whose vocoder computes in bfloat16."""
    other = rebuilt(codec).prepare_inference()
    other.head.to(torch.bfloat16)
    return other


needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(torch.device("cpu")), reason="the vocoder is float32 on this CPU"
)


@needs_bfloat16
def test_packed_weights_change_no_bit(small_codec: FireflyArchitecture):
    plain, packed = in_bfloat16(small_codec), in_bfloat16(small_codec)
    packed.head.pack()
    assert packed.state_dict().keys() == plain.state_dict().keys()
    state, other = packed.new_state(), plain.new_state()
    for num_frames in (2, 4, 1, 8, 16, 3, 40):
        codes = torch.arange(8 * num_frames).view(1, 8, -1) * 37 % 1000
        assert torch.equal(packed.decode_chunk(codes, state), plain.decode_chunk(codes, other))
    whole = torch.arange(2 * 8 * 20).view(2, 8, 20) * 37 % 1000, torch.tensor([20, 13])
    assert torch.equal(packed.decode(*whole)[0], plain.decode(*whole)[0])


@needs_bfloat16
def test_other_weights_loaded_after_pack_are_used(small_codec: FireflyArchitecture):
    packed, plain = in_bfloat16(small_codec), in_bfloat16(small_codec)
    packed.head.pack()
    halved = {key: tensor / 2 for key, tensor in plain.head.state_dict().items()}
    plain.head.load_state_dict(halved)
    packed.head.load_state_dict(halved)
    x = noise(1, 64, 4)
    assert torch.equal(packed.head(x), plain.head(x))
    packed.head.pack()
    assert torch.equal(packed.head.float()(x), plain.head.float()(x))


def test_encode_a_batch_as_each_signal_alone(small_codec: FireflyArchitecture):
    wave = 0.3 * noise(2, 1, 9000)
    wave[1, :, 5400:] = 0
    codes, feature_lengths = small_codec.encode(wave, torch.tensor([9000, 5400]))
    assert codes.shape == (2, 8, 9)  # 35 mels, the last frame partly filled
    assert feature_lengths.tolist() == [8, 5]
    alone, _ = small_codec.encode(wave[:1], torch.tensor([9000]))
    assert torch.equal(codes[:1], alone)
    longer, _ = small_codec.encode(wave[1:], torch.tensor([5400]))
    assert torch.equal(codes[1:], longer)


def test_encode_ignores_what_lies_beyond_a_length(small_codec: FireflyArchitecture):
    wave = 0.3 * noise(1, 1, 9000)
    other = wave.clone()
    # the mel frames within the length still see a window's reach of what follows it
    other[..., 5120 + small_codec.config.win_length :] = 0
    lengths = torch.tensor([5120])
    assert torch.equal(small_codec.encode(other, lengths)[0], small_codec.encode(wave, lengths)[0])


def test_encode_sees_no_more_future_than_its_window(small_codec: FireflyArchitecture):
    config, mel = small_codec.config, small_codec.spec_transform
    wave = 0.3 * noise(1, 1, 12000)
    before = small_codec.encode(wave, torch.tensor([12000]))[0]
    for start in (3000, 6001, 11000):
        other = wave.clone()
        other[..., start:] = 0
        after = small_codec.encode(other, torch.tensor([12000]))[0]
        num_mels = (start + mel.left_padding - config.win_length) // config.hop_length + 1
        unchanged = num_mels // config.mels_per_frame
        assert unchanged > 0
        assert torch.equal(after[..., :unchanged], before[..., :unchanged])
        assert not torch.equal(after, before)


def test_decode_masks_what_lies_beyond_a_length(small_codec: FireflyArchitecture):
    codes = torch.randint(1000, (2, 8, 6), generator=torch.Generator().manual_seed(0))
    audio, audio_lengths = small_codec.decode(codes, torch.tensor([6, 4]))
    assert audio.shape == (2, 1, 6 * 1024)
    assert audio_lengths.tolist() == [6 * 1024, 4 * 1024]
    assert audio[1, :, 4 * 1024 :].count_nonzero() == 0
    assert audio[1, :, : 4 * 1024].count_nonzero() > 0
    alone, _ = small_codec.decode(codes[1:, :, :4], torch.tensor([4]))
    torch.testing.assert_close(audio[1:, :, : 4 * 1024], alone, atol=1e-5, rtol=0)
    audio, audio_lengths = small_codec.decode(codes[:, :, :0], torch.zeros(2, dtype=torch.long))
    assert audio.shape == (2, 1, 0) and audio_lengths.tolist() == [0, 0]


def test_decode_never_sees_the_future(small_codec: FireflyArchitecture):
    codes = torch.randint(1000, (1, 8, 6), generator=torch.Generator().manual_seed(0))
    before = small_codec.decode(codes, torch.tensor([6]))[0]
    for start in (0, 1, 3, 5):
        other = codes.clone()
        other[..., start:] = (other[..., start:] + 500) % 1000
        after = small_codec.decode(other, torch.tensor([6]))[0]
        unchanged = slice(0, start * 1024)
        torch.testing.assert_close(after[..., unchanged], before[..., unchanged], atol=1e-6, rtol=0)
        assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("bad", [-1, 1000])
def test_decode_refuses_a_code_out_of_range(small_codec: FireflyArchitecture, bad: int):
    codes = torch.zeros(1, 8, 2, dtype=torch.long)
    codes[0, 3, 1] = bad
    with pytest.raises(ValueError, match=rf"codes must be 0 to 999, got .*{bad}"):
        small_codec.decode(codes, torch.tensor([2]))


def test_config_of_the_published_model():
    config = FireflyConfig()
    assert config.latent_dim == 512
    assert config.codebook_size == 1000
    assert config.mels_per_frame == 4
    assert config.samples_per_frame == 2048
    assert config.frame_rate == pytest.approx(21.53, abs=0.005)


def test_derived_sizes_follow_the_config(small_codec: FireflyArchitecture):
    config = small_codec.config
    assert (config.latent_dim, config.samples_per_frame) == (64, 1024)
    assert config.frame_rate == pytest.approx(22050 / 1024)


def test_config_takes_the_lists_of_json():
    config = FireflyConfig(encoder_depths=[3, 3, 9, 3], upsample_rates=[8, 8, 2, 2, 2])
    assert config == FireflyConfig()
    hash(config)


def test_config_is_frozen_and_knows_its_keys():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FireflyConfig().hop_length = 256
    with pytest.raises(TypeError, match="hop_size"):
        FireflyConfig(hop_size=512)
    with pytest.raises(TypeError, match="positional"):
        FireflyConfig(44100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_length": 256}, "multiply to 512, but must multiply to hop_length 256"),
        ({"upsample_rates": (8, 8, 2, 2)}, "multiply to 256, but must multiply to hop_length 512"),
        ({"encoder_dims": (128, 256, 384, 500)}, "500, must be a multiple of num_codebooks 8"),
        ({"num_codebooks": 7}, "512, must be a multiple of num_codebooks 7"),
        ({"encoder_depths": (3, 3, 9)}, "encoder_depths .* encoder_dims .* same length"),
        (
            {"upsample_kernel_sizes": (16, 16, 4, 4)},
            "upsample_rates .* upsample_kernel_sizes .* same length",
        ),
    ],
)
def test_config_errors(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        FireflyConfig(**changes)


@pytest.mark.parametrize(
    "part", [ConvNeXtEncoder, DownsampleFiniteScalarQuantize, HiFiGANGenerator, LogMelSpectrogram]
)
def test_parts_build_from_the_config_alone(part: type[nn.Module], small_codec: FireflyArchitecture):
    built = part(small_codec.config)
    names = {
        ConvNeXtEncoder: "backbone",
        DownsampleFiniteScalarQuantize: "quantizer",
        HiFiGANGenerator: "head",
        LogMelSpectrogram: "spec_transform",
    }
    expected = small_codec.get_submodule(names[part]).state_dict()
    assert built.state_dict().keys() == expected.keys()
