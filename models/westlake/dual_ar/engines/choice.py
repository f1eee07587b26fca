"""Which engine a loaded model gets, and whether CUDA graphs do what they should."""

from __future__ import annotations

from ctypes import CDLL

import torch
from loguru import logger
from torch import Tensor

from ....transformer import graphs
from ....transformer.native import MAX_HEAD
from ..model import DualARTransformer
from ..sampling import WINDOW_SIZE, SamplingConfig
from .eager import EagerEngine
from .graph import GraphEngine
from .native import NativeEngine

TOLERANCE = 0.02  # of hidden states between two engines, relative; bfloat16 rounds by 0.004
PROMPT_LENGTH = 4
ROWS = (1, 2)  # replies that are stepped together in the check


def choose_engine(model: DualARTransformer, library: CDLL | None) -> EagerEngine:
    """The fastest engine for a model whose weights are in place.

    Args:
        model: on its device.
        library: that its quantised layers are prepared with; None for none.
    """
    if library is not None and model.config.head_dim <= MAX_HEAD:
        return NativeEngine(model, library)
    eager = EagerEngine(model)
    if graphs.are_wanted(model.device):
        return checked(GraphEngine(model), eager)
    return eager


def checked(engine: EagerEngine, eager: EagerEngine) -> EagerEngine:
    """The engine if its frames are those of the eager one, else the eager one, with a warning."""
    try:
        fault = _difference(engine, eager)
    except Exception as error:  # whatever capturing may raise
        fault = f"{type(error).__name__}: {error}"
    if fault is None:
        return engine
    reason = " ".join(str(fault).split())
    logger.warning(f"the {engine.name} engine is left out, PyTorch takes its place: {reason}")
    return eager


@torch.inference_mode()
def _difference(engine: EagerEngine, eager: EagerEngine) -> str | None:
    """How the engines' frames differ; None if they do not."""
    for num_rows in ROWS:
        expected, codes = _frame(eager, eager, num_rows)
        found, own_codes = _frame(engine, eager, num_rows)
        error = float((found - expected).norm() / expected.norm())
        if not error <= TOLERANCE:
            return f"hidden states differ by {error:.3g} of their size"
        if not torch.equal(own_codes, codes):
            return "other codes are drawn"
    return None


def _frame(engine: EagerEngine, eager: EagerEngine, num_rows: int) -> tuple[Tensor, Tensor]:
    """Hidden states of two decode steps [B, 2, dim], and codes [B, K] drawn from given ones."""
    model = engine.model
    config, device = model.config, model.device
    generator = torch.Generator().manual_seed(num_rows)
    codes = (num_rows, config.num_codebooks)
    grid = torch.randint(1, config.codebook_size, (*codes, PROMPT_LENGTH + 2), generator=generator)
    text = torch.full((num_rows, 1, PROMPT_LENGTH + 2), model.semantic_id)
    grid = torch.cat([text, grid], dim=1).to(device)
    caches = [model.new_cache(PROMPT_LENGTH + 2) for _ in range(num_rows)]
    eager.read(grid[:, :, :PROMPT_LENGTH], caches)
    columns = grid[:, :, PROMPT_LENGTH:].split(1, dim=2)
    hidden = torch.cat([engine.read(column, caches) for column in columns], dim=1)
    sampling = SamplingConfig()
    settings = (sampling.temperature, sampling.top_p, sampling.repetition_penalty)
    generator = torch.Generator().manual_seed(num_rows)
    drawn = engine.draw_codes(
        torch.randn(num_rows, config.dim, generator=generator).to(device, model.dtype),
        torch.zeros(*codes, WINDOW_SIZE, dtype=torch.long, device=device),
        torch.tensor([settings] * num_rows, device=device),
        torch.rand(codes, generator=generator, dtype=torch.float64).to(device),
    )
    return hidden, drawn.clone()
