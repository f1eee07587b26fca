"""The embedded checkpoint's codec."""

from pathlib import Path

import torch
from torch.nn.utils.parametrize import is_parametrized

from models.weights import read_weights
from models.westlake.firefly import FireflyArchitecture, FireflyConfig

TINY_CODEC = FireflyConfig(
    sample_rate=22050,
    n_fft=1024,
    win_length=1024,
    hop_length=256,
    n_mels=100,
    encoder_depths=(2, 2, 2, 2),
    encoder_dims=(64, 128, 192, 256),
    drop_path_rate=0.0,
    layer_scale_init=0.1,
    decoder_dim=512,
    decoder_kernel_size=7,
    # The first stage stays at the mel's rate, where a wide one is cheap: there the words are read.
    upsample_rates=(1, 8, 8, 2, 2),
    upsample_kernel_sizes=(1, 16, 16, 4, 4),
    resblock_kernel_sizes=(3, 7),
    resblock_dilations=(1, 3),
)
MEL_FLOOR = -7.5  # below is background noise, which nothing should be spent on


def new_codec(seed: int = 0) -> FireflyArchitecture:
    """Untrained."""
    torch.manual_seed(seed)
    return FireflyArchitecture(TINY_CODEC)


def load_start(folder: Path) -> FireflyArchitecture:
    """The codec of a checkpoint's folder, with weight norm again, to be trained on.

    Parts of other sizes than `TINY_CODEC`'s begin anew.
    """
    codec = new_codec()
    weights = read_weights(folder / "codec.safetensors")
    with torch.no_grad():
        for name, module in codec.named_modules():
            if is_parametrized(module):
                weight = weights.pop(f"{name}.weight", module.weight)
                if weight.shape == module.weight.shape:
                    module.weight = weight.float()
    own = codec.state_dict()
    for key, weight in weights.items():
        if key in own and own[key].shape == weight.shape:
            own[key] = weight.float()
    codec.load_state_dict(own)
    return codec
