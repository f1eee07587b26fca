"""A small random Mini-Omni in the published layout, and its computation written out plainly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from small_checkpoint import write_tokenizer
from torch import Tensor

NUM_ASCII = 94  # tokens that are a character of their own, the first ones
NUM_TEXT, NUM_CODES = 264, 64  # tokens and codes that are not special
TEXT_SIZE, AUDIO_SIZE = NUM_TEXT + 64, NUM_CODES + 64
TEXT_END, TEXT_PAD, TEXT_INPUT, TEXT_ANSWER = range(NUM_TEXT, NUM_TEXT + 4)
AUDIO_END, AUDIO_PAD, AUDIO_INPUT, AUDIO_ANSWER = range(NUM_CODES, NUM_CODES + 4)
SIZES = {
    "n_layer": 2,
    "n_head": 4,
    "n_query_groups": 2,
    "n_embd": 128,
    "intermediate_size": 192,
    "block_size": 320,
    "rope_base": 1000000,
    "norm_eps": 1e-6,
    "padded_vocab_size": TEXT_SIZE + 7 * AUDIO_SIZE,
    "text_vocab_size": TEXT_SIZE,
    "audio_vocab_size": AUDIO_SIZE,
    "whisper_adapter_dim": 32,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 100,
    "vocab_size": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
SNAC = {
    "sampling_rate": 24000,
    "encoder_dim": 2,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 64,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": NUM_CODES,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


def write_mini_omni(folder: Path, *, is_tied: bool = True) -> Path:
    """Write a checkpoint as it is published, its ear and its voice beside it."""
    import snac
    from transformers import WhisperConfig, WhisperModel

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.yaml").write_text(yaml.safe_dump(SIZES))
    write_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    torch.save(language_weights(is_tied), folder / "lit_model.pth")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part, module, settings in (
            (
                "whisper",
                WhisperModel(WhisperConfig(**WHISPER)),
                WHISPER | {"model_type": "whisper"},
            ),
            ("snac", snac.SNAC(**SNAC), SNAC),
        ):
            (folder / part).mkdir(exist_ok=True)
            (folder / part / "config.json").write_text(json.dumps(settings))
            torch.save(module.state_dict(), folder / part / "pytorch_model.bin")
    return folder


def language_weights(is_tied: bool = True) -> dict[str, Tensor]:
    """Of the language model and the adapter, under published keys."""
    width, hidden, head_size = SIZES["n_embd"], SIZES["intermediate_size"], 32
    num_heads = SIZES["n_head"] + 2 * SIZES["n_query_groups"]
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    weights = {"transformer.wte.weight": 8 * normal(SIZES["padded_vocab_size"], width)}
    weights["transformer.wte.weight"][NUM_ASCII:TEXT_SIZE] *= 0.2  # so that it says words
    weights["transformer.wte.weight"][TEXT_SIZE + 6 * AUDIO_SIZE + AUDIO_END] = 0  # for long
    for layer in range(SIZES["n_layer"]):
        weights |= {
            f"transformer.h.{layer}.{key}": tensor
            for key, tensor in {
                "norm_1.weight": 1 + 0.1 * normal(width),
                "attn.attn.weight": 2 * normal(num_heads * head_size, width),
                "attn.attn.bias": normal(num_heads * head_size),
                "attn.proj.weight": normal(width, width),
                "norm_2.weight": 1 + 0.1 * normal(width),
                "mlp.fc_1.weight": normal(hidden, width),
                "mlp.fc_2.weight": normal(hidden, width),
                "mlp.proj.weight": normal(width, hidden),
            }.items()
        }
    weights["transformer.ln_f.weight"] = 1 + 0.1 * normal(width)
    size = SIZES["whisper_adapter_dim"]
    weights["whisper_adapter.fc_1.weight"] = normal(hidden, size)
    weights["whisper_adapter.fc_2.weight"] = normal(hidden, size)
    weights["whisper_adapter.proj.weight"] = 4 * normal(width, hidden)
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    if not is_tied:
        weights["lm_head.weight"] = normal(SIZES["padded_vocab_size"], width)
    return weights


def plain_logits(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published model, without a cache: embedded [T, width] -> logits of the next [all ids]."""
    num_groups, shared = SIZES["n_query_groups"], SIZES["n_head"] // SIZES["n_query_groups"]
    length = len(x)
    for layer in range(SIZES["n_layer"]):
        w = {
            key.removeprefix(f"transformer.h.{layer}."): tensor
            for key, tensor in weights.items()
            if key.startswith(f"transformer.h.{layer}.")
        }
        normed = plain_norm(x, w["norm_1.weight"])
        qkv = normed @ w["attn.attn.weight"].T + w["attn.attn.bias"]
        qkv = qkv.view(length, num_groups, shared + 2, -1).permute(1, 2, 0, 3)
        mixed = []
        for group in qkv:
            k, v = plain_rope(group[-2]), group[-1]
            for query in group[:-2]:
                scores = plain_rope(query) @ k.T / math.sqrt(k.shape[-1])
                future = torch.ones(length, length).triu(1).bool()
                mixed.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v)
        x = x + torch.cat(mixed, dim=-1) @ w["attn.proj.weight"].T
        normed = plain_norm(x, w["norm_2.weight"])
        gate, up = normed @ w["mlp.fc_1.weight"].T, normed @ w["mlp.fc_2.weight"].T
        x = x + (F.silu(gate) * up) @ w["mlp.proj.weight"].T
    return plain_norm(x[-1], weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + SIZES["norm_eps"]).sqrt() * weight


def plain_rope(x: Tensor) -> Tensor:
    """[T, size]: the first half of a head is turned together with the second."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None] / SIZES["rope_base"] ** (torch.arange(half) / half)
    first, second = x[:, :half], x[:, half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def plain_embedding(weights: dict[str, Tensor], columns: list[list[int]]) -> Tensor:
    """Columns of seven codes and, last, a text token, as published -> [T, width]."""
    rows = [
        [TEXT_SIZE + AUDIO_SIZE * row + code for row, code in enumerate(codes)] + [text]
        for *codes, text in columns
    ]
    return weights["transformer.wte.weight"][torch.tensor(rows)].mean(1)


def plain_reply(
    weights: dict[str, Tensor], heard: Tensor | None, text: list[int], num_columns: int
) -> list[list[int]]:
    """Answer greedily, reading everything again for each column.

    Args:
        weights: from `language_weights`.
        heard: the encoder's features [T, 32]; None for text.
        text: tokens, where nothing was heard.
        num_columns: of the reply at most.

    Returns:
        Columns as published: seven codes and, last, a text token.
    """
    pads = [AUDIO_PAD] * 7
    if heard is None:
        columns = [[*pads, token] for token in (TEXT_INPUT, *text, TEXT_END)]
        x = plain_embedding(weights, columns)
    else:
        first, last = [AUDIO_INPUT] * 7 + [TEXT_INPUT], [AUDIO_END] * 7 + [TEXT_END]
        gate, up = (heard @ weights[f"whisper_adapter.fc_{n}.weight"].T for n in (1, 2))
        features = (F.silu(gate) * up) @ weights["whisper_adapter.proj.weight"].T
        pad = weights["transformer.wte.weight"][TEXT_PAD]
        x = torch.cat(
            [
                plain_embedding(weights, [first]),
                (features * 7 + pad) / 8,
                plain_embedding(weights, [last]),
            ]
        )
    speech, silent = [[[AUDIO_ANSWER] * 7 + [TEXT_ANSWER]], [[*pads, TEXT_ANSWER]]]
    said: list[list[int]] = []
    while len(said) < num_columns:
        logits = plain_logits(weights, torch.cat([x, plain_embedding(weights, speech)]))
        codes = logits[TEXT_SIZE:].view(7, -1).argmax(-1).tolist()
        logits = plain_logits(weights, torch.cat([x, plain_embedding(weights, silent)]))
        token = int(logits[:TEXT_SIZE].argmax())
        if any(column[-1] == TEXT_END for column in said):
            token = TEXT_PAD
        if codes[-1] == AUDIO_END:
            break
        said.append([*codes, token])
        speech.append(said[-1])
        silent.append([*pads, token])
    return said
