"""The published language model's key names; this is the one place that knows them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Published layer name -> ours, and its place where several become one along the first dimension.
_DUAL_AR_LAYERS = {
    "q_proj": ("wqkv", 0),
    "k_proj": ("wqkv", 1),
    "v_proj": ("wqkv", 2),
    "wq": ("wqkv", 0),
    "wk": ("wqkv", 1),
    "wv": ("wqkv", 2),
    "o_proj": ("wo", 0),
    "gate_proj": ("w_gate_up", 0),
    "up_proj": ("w_gate_up", 1),
    "down_proj": ("w_down", 0),
}
_WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of data parallel training
_COMPUTED = ("freqs_cis", "fast_freqs_cis", "causal_mask")  # buffers, not weights
_JOINED_LAYERS = (("q_proj", "k_proj", "v_proj"), ("wq", "wk", "wv"), ("gate_proj", "up_proj"))


def unwrapped(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what other tools put in front of the keys, and buffers that are no weights."""
    weights = {}
    for key, tensor in state_dict.items():
        while key.startswith(_WRAPPERS):
            key = key.partition(".")[2]
        if key.rpartition(".")[2] not in _COMPUTED:
            weights[key] = tensor
    return weights


def rename_dual_ar(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a published DualARTransformer state dict to our key names.

    Drops a "model." prefix and joins q, k, v and gate, up. Our own names pass unchanged.

    Args:
        state_dict: published, older published (fast wq, wk, wv) or our own keys.

    Returns:
        A new dict; tensors that were not joined are the same objects.

    Raises:
        ValueError: two keys mean the same weights.
    """
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, tensor in state_dict.items():
        path = key.removeprefix("model.").split(".")
        place = 0
        if len(path) > 1:
            path[-2], place = _DUAL_AR_LAYERS.get(path[-2], (path[-2], 0))
        name = ".".join(path)
        if place in parts[name]:
            raise ValueError(f"{key} and another key both hold {name}: keep only one of them")
        parts[name][place] = tensor
    return {
        name: torch.cat([tensors[place] for place in sorted(tensors)])
        if len(tensors) > 1
        else next(iter(tensors.values()))
        for name, tensors in parts.items()
    }


def missing_parts(keys: Iterable[str]) -> list[str]:
    """Keys of which `rename_dual_ar` would join what is there without them."""
    missing: set[str] = set()
    for key in keys:
        *path, end = key.split(".")
        for group in _JOINED_LAYERS:
            if path and path[-1] in group:
                missing.update(".".join([*path[:-1], part, end]) for part in group)
    return sorted(missing.difference(keys))
