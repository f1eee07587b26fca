"""What the language model's layers read when it speaks: rounding to 4 bits is made to fit that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ctypes import CDLL
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..devices import multiplies_bfloat16
from ..tokenizer import TextTokenizer
from ..transformer.quantisation import (
    LAYERS,
    prepare_quantised,
    quantise_weights,
    with_quantised_layers,
)
from ..transformer.rounding import Grams, collected_grams
from ..weights import assign_weights, planned
from .dual_ar import (
    DualARConfig,
    DualARTransformer,
    PromptTokens,
    Reply,
    SamplingConfig,
    choose_engine,
    make_frames,
    next_frames,
    turn_grid,
)

NUM_REPLIES, NUM_FRAMES = 16, 32
NUM_WORDS = 8  # of each question


def calibrate(
    weights: Mapping[str, Tensor],
    path: Path,
    config: DualARConfig,
    tokenizer: TextTokenizer,
    library: CDLL,
    seed: int = 0,
) -> Grams:
    """Let a model answer questions of its tokenizer's words, and collect what its layers read.

    It answers rounded to the nearest, which is fast; then the floats read what was said.

    Args:
        weights: the language model's under our names, floats.
        path: the file they came from, for the errors.
        config, tokenizer: the checkpoint's.
        library: that computes.
        seed: of the questions and the replies.

    Returns:
        For `quantise_weights`.

    Raises:
        ValueError: weights that do not fit the config.
    """
    semantic_id = tokenizer.get_added_vocab()["<|semantic|>"]
    with planned():
        speaker = with_quantised_layers(DualARTransformer(config, semantic_id), "int4")
        reader = DualARTransformer(config, semantic_id)
    assign_weights(speaker, quantise_weights(weights, "int4", library), path, None)
    prepare_quantised(speaker, library)
    grids = _grids(speaker.eval().requires_grad_(False), tokenizer, library, seed)
    del speaker  # its memory is free for the floats
    fast = multiplies_bfloat16(torch.device("cpu"))
    assign_weights(reader, weights, path, torch.bfloat16 if fast else torch.float32)
    reader.eval().requires_grad_(False)
    with collected_grams(reader, LAYERS) as grams, torch.inference_mode():
        for grid, num_frames in grids:
            hidden = reader.forward_hidden(grid[None, :, :-1])[0, -num_frames:]
            reader.forward_fast(hidden, grid[1:-1, -num_frames:].T)
    return {name: blocks for name, blocks in grams.items() if all(map(_is_finite, blocks))}


def _grids(
    model: DualARTransformer, tokenizer: TextTokenizer, library: CDLL, seed: int
) -> list[tuple[Tensor, int]]:
    """Questions of random words with their replies [1+K, T], and the replies' frames."""
    special = set(tokenizer.get_added_vocab().values())
    words = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
    layout = PromptTokens.from_encode(tokenizer.encode)
    generator = torch.Generator().manual_seed(seed)
    prompts, replies = [], []
    for number in range(NUM_REPLIES):
        chosen = words[torch.randint(len(words), (NUM_WORDS,), generator=generator)]
        prompt = turn_grid(layout, chosen.tolist(), None, model.config.num_codebooks)
        num_frames = min(NUM_FRAMES, model.config.max_seq_len - prompt.shape[1])
        if num_frames < 1:
            return []
        sampling = SamplingConfig(seed=seed * NUM_REPLIES + number)
        prompts.append(prompt)
        replies.append(Reply(model, prompt, num_frames, sampling, layout.end))
    with suppress(FloatingPointError):  # a checkpoint that can't speak is loaded all the same
        for _ in make_frames(partial(next_frames, choose_engine(model, library)), replies):
            pass
    return [
        (torch.cat([prompt, *(column[:, None] for column in reply.columns)], dim=1), len(columns))
        for prompt, reply in zip(prompts, replies, strict=True)
        if (columns := reply.columns)
    ]


def _is_finite(gram: Tensor) -> bool:
    return bool(gram.isfinite().all())
