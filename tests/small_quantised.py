"""A small model to be rounded to few bits, and what it reads."""

from ctypes import CDLL

import torch

from models.transformer.quantisation import (
    prepare_quantised,
    quantise_weights,
    with_quantised_layers,
)
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.dual_ar.engines import EagerEngine, choose_engine

SEMANTIC_ID = 259
CONFIG = DualARConfig(
    vocab_size=264,
    n_layer=2,
    n_head=4,
    dim=128,
    intermediate_size=192,
    n_local_heads=2,
    n_fast_layer=1,
    codebook_size=1001,
    max_seq_len=256,
)
LARGEST_ERRORS = {"int8": 0.05, "int4": 0.3}  # of the logits, relative


def plain_model(config: DualARConfig = CONFIG) -> DualARTransformer:
    torch.manual_seed(0)
    model = DualARTransformer(config, SEMANTIC_ID).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(4 if parameter.dim() == 2 else 1)  # so that the layers do something
    return model


def quantised(model: DualARTransformer, dtype: str, library: CDLL | None) -> EagerEngine:
    weights = quantise_weights(model.state_dict(), dtype, library)
    with torch.device("meta"):
        other = with_quantised_layers(DualARTransformer(model.config, SEMANTIC_ID), dtype)
    other.load_state_dict(weights, strict=True, assign=True)
    prepare_quantised(other, library)
    return choose_engine(other.eval().requires_grad_(False), library)


def speech_grid() -> torch.Tensor:
    """Two turns of speech, [2, 9, 30]."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(1, 1001, (2, 8, 30), generator=generator)
    return torch.cat([torch.full((2, 1, 30), SEMANTIC_ID), codes], dim=1)
