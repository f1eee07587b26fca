"""Golden numbers of the published implementation: their weights are rebuilt from the key names."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.published import rename_dual_ar

ASSETS = Path(__file__).parent / "assets"

# Of `<|semantic|>` in the small language model behind the golden numbers.
SEMANTIC_ID = 5


def load_json(name: str) -> dict:
    """Read one of the assets."""
    return json.loads((ASSETS / name).read_text(encoding="utf-8"))


def seeded_state_dict(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Rebuild the weights behind the golden numbers.

    Args:
        shapes: every key of the published state dict and its shape.

    Returns:
        float32 tensors under the same keys, each drawn by a generator seeded with its key.
    """
    return {key: _seeded_tensor(key, shape) for key, shape in shapes.items()}


def _seeded_tensor(key: str, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(tuple(shape), generator=generator)
    if key.endswith("original0"):
        return 1 + 0.1 * noise
    if len(shape) >= 2:
        return noise / math.sqrt(noise.numel() / shape[0])
    if key.endswith("gamma"):
        return 0.3 * noise
    if key.endswith("weight"):
        return 1 + 0.1 * noise
    return 0.1 * noise


def golden_dual_ar() -> DualARTransformer:
    """The small language model behind the golden numbers, for inference."""
    model = DualARTransformer(DualARConfig(**load_json("dual_ar_a_config.json")), SEMANTIC_ID)
    published = seeded_state_dict(load_json("dual_ar_a_state_dict.json"))
    model.load_state_dict(rename_dual_ar(published), strict=True)
    return model.eval().requires_grad_(False)
