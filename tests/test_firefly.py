"""The codec's layers against plain references, their causality, and what the codec refuses."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.westlake.firefly import (
    ConvNeXtEncoder,
    DownsampleFiniteScalarQuantize,
    FireflyArchitecture,
    FireflyConfig,
    HiFiGANGenerator,
    LogMelSpectrogram,
)
from models.westlake.firefly.conv import FishConvNet, FishTransConvNet
from models.westlake.firefly.convnext import ChannelNorm, ConvNeXtBlock, DropPath

pytestmark = pytest.mark.usefixtures("no_grad")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rebuilt(codec: FireflyArchitecture, **changes: object) -> FireflyArchitecture:
    """A codec with the same weights and some other settings."""
    other = FireflyArchitecture(dataclasses.replace(codec.config, **changes))
    other.load_state_dict(codec.state_dict())
    return other.eval()


# Convolutions

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


# Mel


def slaney_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """[n_mels, n_fft // 2 + 1] triangles of area 1, written from the definition of the scale."""
    log_step = np.log(6.4) / 27  # linear to 1 kHz (mel 15), from there 27 mels to 6.4 kHz

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + np.log(hz / 1000) / log_step

    mels = np.linspace(0, to_mel(sample_rate // 2), n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(log_step * (mels - 15)))
    frequencies = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - left) / (center - left)
    falling = (right - frequencies) / (right - center)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def reference_mel(wave: np.ndarray, config: FireflyConfig) -> tuple[np.ndarray, np.ndarray]:
    """Mel and linear of one signal [T], frame by frame in float64."""
    margin = config.win_length - config.hop_length
    padded = np.pad(wave.astype(np.float64), (margin // 2, (margin + 1) // 2), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.win_length) / config.win_length)
    starts = range(0, len(padded) - config.win_length + 1, config.hop_length)
    spectrum = np.stack([np.fft.rfft(padded[s : s + config.win_length] * window) for s in starts])
    magnitude = np.sqrt(np.abs(spectrum.T) ** 2 + 1e-6)
    mel = slaney_filterbank(config.sample_rate, config.n_fft, config.n_mels) @ magnitude
    return np.log(np.maximum(mel, 1e-5)), np.log(np.maximum(magnitude, 1e-5))


@pytest.mark.parametrize("size", ["published", "small", "odd"])
def test_mel_equals_a_float64_reference(size: str, small_codec: FireflyArchitecture):
    config = {
        "published": FireflyConfig(),
        "small": small_codec.config,
        "odd": dataclasses.replace(small_codec.config, n_fft=1001, win_length=1001),
    }[size]
    num_samples = 9 * config.hop_length + 123
    wave = 0.3 * noise(2, 1, num_samples) * torch.linspace(0, 1, num_samples)
    mel, linear = LogMelSpectrogram(config)(wave, return_linear=True)
    assert mel.shape == (2, config.n_mels, 9)
    assert linear.shape == (2, config.n_fft // 2 + 1, 9)
    for row in range(2):
        expected_mel, expected_linear = reference_mel(wave[row, 0].numpy(), config)
        np.testing.assert_allclose(mel[row].numpy(), expected_mel, atol=1e-4, rtol=0)
        # a bin that cancels to almost nothing keeps few of float32's digits
        np.testing.assert_allclose(linear[row].numpy(), expected_linear, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
def test_mel_of_silence_stands_on_the_floor(small_codec: FireflyArchitecture):
    config = dataclasses.replace(small_codec.config, n_mels=400)  # some hold no bin at all
    mel = LogMelSpectrogram(config)(torch.zeros(1, 1, 2000))
    expected, _ = reference_mel(np.zeros(2000), config)
    np.testing.assert_allclose(mel[0].numpy(), expected, atol=1e-4, rtol=0)
    assert mel.min().item() == pytest.approx(math.log(1e-5))


def test_mel_resamples_another_rate(small_codec: FireflyArchitecture):
    wave, mel = noise(1, 1, 4000), small_codec.spec_transform
    expected = mel(AF.resample(wave, 16000, 22050))
    assert torch.equal(mel(wave, sample_rate=16000), expected)
    assert torch.equal(mel(wave, sample_rate=22050), mel(wave))


def test_mel_of_another_rate_cannot_stream(small_codec: FireflyArchitecture):
    with pytest.raises(ValueError, match="whole signals only"):
        small_codec.spec_transform(noise(1, 1, 4000), small_codec.new_state(), sample_rate=16000)


@pytest.mark.parametrize("num_samples", [0, 1, 384])
def test_too_short_a_wave_is_an_error(small_codec: FireflyArchitecture, num_samples: int):
    assert small_codec.spec_transform.min_samples == 385
    with pytest.raises(ValueError, match=f"{num_samples} samples is too short .* at least 385"):
        small_codec.encode(torch.zeros(1, 1, num_samples), torch.tensor([num_samples]))


def test_mel_has_no_state_dict_keys(small_codec: FireflyArchitecture):
    assert small_codec.spec_transform.state_dict() == {}


# Encoder


def test_channel_norm_equals_a_layer_norm_of_each_position():
    norm = ChannelNorm(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = noise(2, 5, 3)
    mean = x.mean(dim=1, keepdim=True)
    scaled = (x - mean) / (x.var(dim=1, keepdim=True, correction=0) + 1e-6).sqrt()
    expected = scaled * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=0)


def test_block_starts_as_almost_the_identity():
    block, x = ConvNeXtBlock(8, 7, layer_scale_init=1e-6), noise(2, 8, 5)
    torch.testing.assert_close(block(x), x, atol=1e-4, rtol=0)
    assert block.gamma.tolist() == pytest.approx([1e-6] * 8)


def test_encoder_keeps_the_length_and_never_sees_the_future(small_codec: FireflyArchitecture):
    x = noise(1, 100, 20)
    before = small_codec.backbone(x)
    assert before.shape == (1, 64, 20)
    for start in (0, 1, 10, 19):
        other = x.clone()
        other[..., start:] = noise(1, 100, 20 - start, seed=1)
        after = small_codec.backbone(other)
        torch.testing.assert_close(after[..., :start], before[..., :start], atol=1e-6, rtol=0)
        assert not torch.allclose(after[..., start], before[..., start], atol=1e-3)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    assert torch.equal(drop.eval()(x), x)
    torch.manual_seed(0)
    y = drop.train()(x)
    per_example = y[:, :1, :1]
    assert torch.equal(y, per_example.expand_as(y))
    assert per_example.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0).train()(x), x)


def test_drop_path_rates_rise_from_0_and_act_in_training_only(small_codec: FireflyArchitecture):
    backbone = rebuilt(small_codec).backbone
    rates = [block.drop_path.rate for stage in backbone.stages for block in stage]
    assert rates == pytest.approx([0, 0.2 / 3, 0.4 / 3, 0.2])
    plain = rebuilt(small_codec, drop_path_rate=0.0).backbone
    x = noise(8, 100, 6)
    assert torch.equal(backbone.eval()(x), plain.eval()(x))
    assert torch.equal(plain.train()(x), plain.eval()(x))
    torch.manual_seed(0)
    assert not torch.allclose(backbone.train()(x), plain(x))


def test_drop_path_keeps_the_gradients_of_examples_that_stay():
    x = noise(6, 2, 3)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        torch.manual_seed(0)
        y = DropPath(0.5).train()(leaf)
        y.sum().backward()
    assert torch.equal(leaf.grad * x, y)
    assert 0 < leaf.grad.count_nonzero() < leaf.grad.numel()


# Quantizer


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_codes_are_in_range(small_codec: FireflyArchitecture, scale: float):
    codes = small_codec.quantizer.encode(scale * noise(2, 64, 41))
    assert codes.dtype == torch.long
    assert codes.shape == (2, 8, 11)
    assert codes.min() >= 0
    assert codes.max() < small_codec.config.codebook_size == 1000


def test_codes_use_much_of_the_range(small_codec: FireflyArchitecture):
    codes = small_codec.quantizer.encode(5 * noise(4, 64, 400))
    for group in codes.transpose(0, 1):
        assert len(group.unique()) > 50


def test_every_code_decodes_to_its_own_value(small_codec: FireflyArchitecture):
    fsq = small_codec.quantizer.residual_fsq
    every = torch.arange(1000).view(1, 1, 1000, 1).expand(8, -1, -1, -1)
    values = fsq.get_output_from_indices(every)
    assert len(values[0].unique(dim=0)) == 1000


def test_quantizer_forward_is_encode_then_decode(small_codec: FireflyArchitecture):
    x = noise(2, 64, 21)
    reconstructed, codes = small_codec.quantizer(x)
    assert torch.equal(codes, small_codec.quantizer.encode(x))
    assert reconstructed.shape == (2, 64, 24)
    expected = small_codec.quantizer.decode(codes)
    torch.testing.assert_close(reconstructed, expected, atol=1e-5, rtol=0)


def test_upsampling_mirrors_downsampling(small_codec: FireflyArchitecture):
    config = dataclasses.replace(small_codec.config, downsample_factors=(2, 3))
    quantizer = DownsampleFiniteScalarQuantize(config)
    assert [conv.stride for conv, _ in quantizer.downsample] == [2, 3]
    assert [conv.stride for conv, _ in quantizer.upsample] == [3, 2]
    reconstructed, codes = quantizer(noise(1, 64, 13))
    assert (reconstructed.shape, codes.shape) == ((1, 64, 18), (1, 8, 3))


def test_gradients_pass_straight_through_the_quantizer(small_codec: FireflyArchitecture):
    codec = rebuilt(small_codec)
    with torch.enable_grad():
        x = noise(1, 64, 8).requires_grad_()
        codec.quantizer(x)[0].square().mean().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().amax(dim=1) > 0).all()
    for name, parameter in codec.quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# Decoder


def test_decoder_never_sees_the_future(small_codec: FireflyArchitecture):
    x = noise(1, 64, 12)
    before = small_codec.head(x)
    hop = small_codec.config.hop_length
    assert before.shape == (1, 1, 12 * hop)
    assert before.abs().max() <= 1
    for start in (0, 1, 6, 11):
        other = x.clone()
        other[..., start:] = noise(1, 64, 12 - start, seed=1)
        after = small_codec.head(other)
        unchanged = slice(0, start * hop)
        torch.testing.assert_close(after[..., unchanged], before[..., unchanged], atol=1e-6, rtol=0)
        assert not torch.allclose(after, before, atol=1e-3)


def test_gradient_checkpointing_changes_no_output_and_no_gradient(small_codec: FireflyArchitecture):
    results = []
    for gradient_checkpointing in (False, True):
        head = rebuilt(small_codec, gradient_checkpointing=gradient_checkpointing).head.train()
        with torch.enable_grad():
            x = noise(2, 64, 4).requires_grad_()
            wave = head(x)
            wave.square().mean().backward()
        results.append((wave, x.grad, {n: p.grad for n, p in head.named_parameters()}))
    (wave, x_grad, grads), (checkpointed_wave, checkpointed_x_grad, checkpointed_grads) = results
    assert torch.equal(checkpointed_wave, wave)
    torch.testing.assert_close(checkpointed_x_grad, x_grad)
    torch.testing.assert_close(checkpointed_grads, grads)


def test_gradient_checkpointing_recomputes_the_blocks(
    small_codec: FireflyArchitecture, monkeypatch: pytest.MonkeyPatch
):
    head = rebuilt(small_codec, gradient_checkpointing=True).head
    num_calls = 0
    forward = type(head.resblocks[0]).forward

    def counted(*args: object) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        return forward(*args)

    monkeypatch.setattr(type(head.resblocks[0]), "forward", counted)
    for training, expected in ((True, 2 * 4), (False, 4)):
        num_calls = 0
        with torch.enable_grad():
            head.train(training)(noise(1, 64, 2)).sum().backward()
        assert num_calls == expected


def test_gradient_checkpointing_keeps_a_streams_state(small_codec: FireflyArchitecture):
    codec = rebuilt(small_codec, gradient_checkpointing=True)
    x, state = noise(1, 64, 6), codec.new_state()
    codec.head.train()
    pieces = [codec.head(piece, state) for piece in x.split(2, dim=-1)]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), small_codec.head(x), atol=1e-4, rtol=0)


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


# The whole codec


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


# Config


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
