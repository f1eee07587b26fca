"""The published weights' key names and their order of rows; the one place that knows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..weights import refuse_keys
from .config import MiniOmniConfig

ADAPTER = "whisper_adapter."
_OUTER = {
    "transformer.wte.weight": "embed_tokens.weight",
    "transformer.ln_f.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYERS = {
    "norm_1": "input_layernorm",
    "attn.attn": "self_attn.wqkv",
    "attn.proj": "self_attn.wo",
    "norm_2": "post_attention_layernorm",
    "mlp.fc_1": "feed_forward.w_gate_up",
    "mlp.fc_2": "feed_forward.w_gate_up",
    "mlp.proj": "feed_forward.w_down",
}
_LAYER = re.compile(r"transformer\.h\.(\d+)\.(.+)\.(weight|bias)")


def rename_language_model(
    weights: Mapping[str, Tensor], config: MiniOmniConfig, path: Path
) -> dict[str, Tensor]:
    """Bring published weights, without the ear's adapter, to our names and orders.

    Queries, keys and values lie interleaved in groups there, and a head's halves are turned
    together; here the heads of queries, keys and values follow one another, and neighbours are
    turned. A head that equals the embedding is left out: it is tied.

    Args:
        weights: by published key.
        config: the sizes.
        path: the file they came from, for the errors.

    Raises:
        ValueError: keys that are none of ours, or one without its pair.
    """
    renamed: dict[str, Tensor] = {}
    unknown, alone = [], []
    for key, tensor in weights.items():
        found = _LAYER.fullmatch(key)
        if key in _OUTER:
            renamed[_OUTER[key]] = tensor
        elif not found or found[2] not in _LAYERS:
            unknown.append(key)
        elif found[2] == "mlp.fc_1":
            other = key.replace("fc_1", "fc_2")
            if other in weights and weights[other].shape == tensor.shape and tensor.dim():
                renamed[_ours(found)] = torch.cat([tensor, weights[other]])
            else:
                alone.append(other if other not in weights else f"{other} of the shape of fc_1")
        elif found[2] == "attn.attn":
            renamed[_ours(found)] = _in_our_order(tensor, config, key, path)
        elif found[2] != "mlp.fc_2":
            renamed[_ours(found)] = tensor
    refuse_keys(path, "has unexpected keys", unknown)
    refuse_keys(path, "lacks keys", alone)
    head, embedding = renamed.get("lm_head.weight"), renamed.get("embed_tokens.weight")
    if head is not None and embedding is not None and _are_equal(head, embedding):
        del renamed["lm_head.weight"]
    return renamed


def _ours(key: re.Match) -> str:
    return f"layers.{key[1]}.{_LAYERS[key[2]]}.{key[3]}"


def _in_our_order(tensor: Tensor, config: MiniOmniConfig, key: str, path: Path) -> Tensor:
    """The rows of a fused attention layer."""
    groups, stack = config.n_query_groups, config.stack
    shared = config.n_head // groups
    num_rows, rows = groups * (shared + 2) * stack.head_dim, len(tensor) if tensor.dim() else 0
    refuse_keys(
        path, "has other shapes than the config asks for",
        [] if rows == num_rows else [f"{key} of {rows} rows, not {num_rows}"],
    )  # fmt: skip
    heads = tensor.reshape(groups, shared + 2, stack.head_dim, *tensor.shape[1:])
    q, k, v = heads.split((shared, 1, 1), dim=1)
    q, k = (x.unflatten(2, (2, -1)).transpose(2, 3).flatten(2, 3) for x in (q, k))
    return torch.cat([x.flatten(0, 2) for x in (q, k, v)])


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or (a.shape == b.shape and torch.equal(a, b))


def rename_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a Whisper's weights those of the encoder, under its own names."""
    inner = ((key.removeprefix("model."), tensor) for key, tensor in weights.items())
    decoders = ("decoder.", "proj_out.")
    return {
        key.removeprefix("encoder."): tensor
        for key, tensor in inner
        if not key.startswith(decoders)
    }


def rename_codec(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SNAC's weights, from older names of a weight norm's two parts to PyTorch's present ones."""
    endings = {"weight_g": "original0", "weight_v": "original1"}
    renamed = {}
    for key, tensor in weights.items():
        layer, _, kind = key.rpartition(".")
        part = endings.get(kind)
        renamed[f"{layer}.parametrizations.weight.{part}" if part else key] = tensor
    return renamed
