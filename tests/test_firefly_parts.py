"""The codec's encoder, quantizer and decoder, each on its own."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from models.westlake.firefly import (
    DownsampleFiniteScalarQuantize,
    FireflyArchitecture,
)
from models.westlake.firefly.convnext import ChannelNorm, ConvNeXtBlock, DropPath


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rebuilt(codec: FireflyArchitecture, **changes: object) -> FireflyArchitecture:
    """A codec with the same weights and some other settings."""
    other = FireflyArchitecture(dataclasses.replace(codec.config, **changes))
    other.load_state_dict(codec.state_dict())
    return other.eval()


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
    values = fsq.decode(torch.arange(1000).expand(1, 8, -1))
    assert len(values[0].unique(dim=0)) == 1000


def test_upsampling_mirrors_downsampling(small_codec: FireflyArchitecture):
    config = dataclasses.replace(small_codec.config, downsample_factors=(2, 3))
    quantizer = DownsampleFiniteScalarQuantize(config)
    assert [conv.stride for conv, _ in quantizer.downsample] == [2, 3]
    assert [conv.stride for conv, _ in quantizer.upsample] == [3, 2]
    codes = quantizer.encode(noise(1, 64, 13))
    assert (quantizer.decode(codes).shape, codes.shape) == ((1, 64, 18), (1, 8, 3))


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
