"""The embedded checkpoint's codec, to be trained on."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.codec.config import load_start, new_codec

SHIPPED = Path(__file__).parents[3] / "checkpoints/tiny"


def test_a_checkpoints_codec_is_trained_on_where_its_parts_fit(tmp_path: Path):
    weights = load_file(SHIPPED / "codec.safetensors")
    weights["head.conv_post.conv.weight"] = torch.ones(1, 3, 5)  # of another size
    save_file(weights, tmp_path / "codec.safetensors")
    codec, untrained = load_start(tmp_path), new_codec()
    loaded = {}
    for name, module in codec.named_modules():
        if hasattr(module, "weight") and isinstance(module.weight, torch.Tensor):
            loaded[f"{name}.weight"] = module.weight
    fitting = [k for k in loaded if k in weights and weights[k].shape == loaded[k].shape]
    assert len(fitting) > 50 and "backbone.norm.weight" in fitting
    for key in fitting:
        torch.testing.assert_close(loaded[key], weights[key].float(), rtol=1e-3, atol=1e-4)
    kept = untrained.head.conv_post.conv.weight
    torch.testing.assert_close(codec.head.conv_post.conv.weight, kept)
