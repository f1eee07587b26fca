"""A small model to be rounded to few bits, and what it reads."""

import torch

from models.westlake.dual_ar import DualARConfig, DualARTransformer

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


def speech_grid() -> torch.Tensor:
    """Two turns of speech, [2, 9, 30]."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(1, 1001, (2, 8, 30), generator=generator)
    return torch.cat([torch.full((2, 1, 30), SEMANTIC_ID), codes], dim=1)
