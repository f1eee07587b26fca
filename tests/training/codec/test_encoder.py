"""The encoder learns principal components of the log-mel."""

from pathlib import Path

import torch
from torch import nn

from training.codec import encoder
from training.codec.clips import Crops
from training.codec.config import new_codec


def test_components_are_read_back_from_their_codes(clip: Path, small_models):
    codec = new_codec()
    wave = Crops({clip: 1.0}, 0, "cpu").draw(0, 1, 400 * 1024)
    guide = encoder.Components(codec, wave)
    mel = codec.spec_transform(wave)
    numbers = guide(mel)
    assert numbers.shape == (400, 32)
    torch.testing.assert_close(numbers.T.cov(), torch.eye(32), rtol=0, atol=1e-2)
    read, codes = guide.read(numbers)
    blocks = guide.blocks(mel)
    assert codes.shape == (8, 400) and codes.max() < 1000 and len(codes[0].unique()) > 100
    error, rest = (read - blocks).square().mean(), (blocks - blocks.mean(0)).square().mean()
    assert error < 0.3 * rest
    # What the codec's own quantiser makes of the same numbers.
    spread = torch.tensor(encoder.SPREAD)
    for group, rvq in enumerate(codec.quantizer.residual_fsq.rvqs):
        rvq.project_in = nn.Identity()
        _, indices = rvq(numbers.unflatten(1, (8, 4))[None, :, group] * spread)
        assert torch.equal(indices[0], codes[group])


def test_the_encoder_learns_and_is_loaded_as_it_was_left(clip: Path, tmp_path: Path, small_models):
    folder = tmp_path / "stages"
    encoder.train_codes({clip: 1.0}, clip, folder, 1e-6, "cpu")
    codec = encoder.load_codes(folder / "codes.pt")
    assert not codec.training
    saved = torch.load(folder / "codes.pt", weights_only=True)
    trained = saved["modules"]["codec"]
    for name, tensor in codec.backbone.state_dict().items():
        assert torch.equal(tensor, trained[f"backbone.{name}"])
    fresh = new_codec().backbone.state_dict()
    assert any(not torch.equal(fresh[k], x) for k, x in codec.backbone.state_dict().items())
    assert {"valid_loss", "valid_mel_l1", "codes_used_min"} <= set(saved["rows"][0])


def test_it_can_begin_with_a_trained_codec(clip: Path, tmp_path: Path, small_models):
    start = new_codec(seed=5)
    encoder.train_codes({clip: 1.0}, clip, tmp_path / "stages", 0.0, "cpu", start)
    encoder.train_codes({clip: 1.0}, clip, tmp_path / "stages", 1e-6, "cpu", start)
    trained = encoder.load_codes(tmp_path / "stages" / "codes.pt").backbone.state_dict()
    for name, tensor in start.backbone.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-3)  # one step away
