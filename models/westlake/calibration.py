"""What the language model's layers read when it speaks: rounding to 4 bits is made to fit that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ctypes import CDLL
from pathlib import Path

import torch
from torch import Tensor

from ..devices import multiplies_bfloat16
from ..tokenizer import TextTokenizer, mark_ids
from ..transformer import KVCache
from ..transformer.quantisation import (
    LAYERS,
    prepare_quantised,
    quantise_weights,
    with_quantised_layers,
)
from ..transformer.rounding import Inputs, collected_inputs
from ..weights import assign_weights, give_back_freed_memory, planned
from .dual_ar import DualARConfig, DualARTransformer, PromptTokens, SamplingConfig, turn_grid
from .dual_ar.engines import NativeDraw
from .dual_ar.prompt import text_columns
from .fastest import LARGE_MODEL

NUM_REPLIES, NUM_REPLIES_OF_LARGE = 32, 8
NUM_FRAMES, NUM_FRAMES_OF_LARGE = 32, 10  # of each reply; a large model's take seconds
NUM_WORDS = 8  # of each question
FAST_SHARE = 2  # of so many positions that a large model's fast layers read, one is kept


def calibrate(
    weights: Mapping[str, Tensor],
    path: Path,
    config: DualARConfig,
    tokenizer: TextTokenizer,
    library: CDLL,
    seed: int = 0,
) -> Inputs:
    """Let a model answer questions of its tokenizer's words, and keep what its layers read.

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
    model = _speaker(weights, path, config, tokenizer, library)
    is_large = model.num_parameters >= LARGE_MODEL
    generator = torch.Generator().manual_seed(seed)
    num_replies = NUM_REPLIES_OF_LARGE if is_large else NUM_REPLIES
    prompts = _questions(config, tokenizer, generator, num_replies)
    num_frames = NUM_FRAMES_OF_LARGE if is_large else NUM_FRAMES
    num_frames = min(num_frames, config.max_seq_len - prompts.shape[2])
    shares = {"fast_layers": FAST_SHARE if is_large else 1}
    end_id = PromptTokens.from_encode(tokenizer.encode).end
    marks = torch.tensor(sorted(mark_ids(tokenizer)), dtype=torch.long)
    with (
        collected_inputs(model, LAYERS, shares) as found,
        suppress(FloatingPointError),  # a checkpoint that can't speak is loaded all the same
    ):
        _speak(model, NativeDraw(library), prompts, num_frames, end_id, marks, generator)
    del model
    inputs = {name: torch.cat(found.pop(name)) for name in list(found)}
    give_back_freed_memory()
    return inputs


def _speaker(
    weights: Mapping[str, Tensor],
    path: Path,
    config: DualARConfig,
    tokenizer: TextTokenizer,
    library: CDLL,
) -> DualARTransformer:
    """The model in bfloat16, which mostly is how it lies in its file and takes no memory; in 8 bits
    where the processor is slow at that."""
    with planned():
        model = DualARTransformer(config, tokenizer.get_added_vocab()["<|semantic|>"])
    if multiplies_bfloat16(torch.device("cpu")):
        floats = {key: tensor.bfloat16() for key, tensor in weights.items()}
        assign_weights(model, floats, path, None)
    else:
        with planned():
            with_quantised_layers(model, "int8")
        assign_weights(model, quantise_weights(weights, "int8", library), path, None)
        prepare_quantised(model, library, in_place=True)
    return model.eval().requires_grad_(False)


def _questions(
    config: DualARConfig, tokenizer: TextTokenizer, generator: torch.Generator, count: int
) -> Tensor:
    """Questions of random words, [N, 1+K, T]."""
    special = set(tokenizer.get_added_vocab().values())
    words = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
    layout = PromptTokens.from_encode(tokenizer.encode)
    chosen = words[torch.randint(len(words), (count, NUM_WORDS), generator=generator)]
    return torch.stack(
        [turn_grid(layout, ids, None, config.num_codebooks) for ids in chosen.tolist()]
    )


@torch.inference_mode()
def _speak(
    model: DualARTransformer,
    native_draw: NativeDraw,
    grid: Tensor,
    num_frames: int,
    end_id: int,
    marks: Tensor,
    generator: torch.Generator,
) -> None:
    """Reply to prompts [N, 1+K, T] side by side, without an end; marks are not spoken."""
    config, num_rows = model.config, len(grid)
    if num_frames < 1:
        return
    cache = KVCache(config.slow, grid.shape[2] + num_frames, model.dtype, num_rows=num_rows)
    sampling = SamplingConfig()
    codes = grid[:, 1:, -1].clone()  # of each row's last frame

    def draw(logits: Tensor) -> Tensor:
        count = len(logits)
        settings = torch.tensor([[sampling.temperature, sampling.top_p, 1.0]]).repeat(count, 1)
        points = torch.rand(count, generator=generator, dtype=torch.float64)
        return native_draw(logits, torch.zeros(count, 1, dtype=torch.long), settings, points)

    for _ in range(num_frames):
        hidden = model.forward_hidden(grid, [cache])[:, -1]
        logits = model.text_logits(hidden)
        logits[:, end_id] = logits.amin()
        text = draw(logits)
        grid = text_columns(text.tolist(), config.num_codebooks).T[..., None]
        (spoken,) = torch.where(~torch.isin(text, marks))
        if not len(spoken):
            continue
        # A frame's codes at once, each after those of the frame before: weights are read but once.
        logits = model.forward_fast(hidden[spoken], codes[spoken, :-1])
        codes[spoken] = draw(logits.flatten(0, 1)).view(len(spoken), -1)
        grid[spoken, 1:, 0] = codes[spoken]
