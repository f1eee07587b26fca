"""A frame's codes as a CUDA graph."""

from functools import partial

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from models.dual_ar import DualARConfig, DualARTransformer
from models.dual_ar.generation import draw_codes
from models.dual_ar.graph import use_graphs

CONFIG = DualARConfig(
    vocab_size=32,
    n_layer=1,
    n_head=4,
    dim=64,
    intermediate_size=96,
    n_local_heads=2,
    n_fast_layer=2,
    codebook_size=1001,
    max_seq_len=16,
    initializer_range=0.3,
)


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    torch.manual_seed(0)
    return DualARTransformer(CONFIG, semantic_id=5).eval().requires_grad_(False)


def inputs(num_rows: int, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    shape = (num_rows, CONFIG.num_codebooks)
    return [
        tensor.to(device)
        for tensor in (
            torch.randn(num_rows, CONFIG.dim, generator=generator),
            torch.randint(CONFIG.codebook_size, (*shape, 16), generator=generator),
            torch.tensor([[0.7, 0.9, 1.2]]).repeat(num_rows, 1),
            torch.rand(shape, generator=generator, dtype=torch.float64),
        )
    ]


@torch.inference_mode()
def test_codes_are_drawn_without_a_look_at_any_value(model):
    """So that they can be recorded: where a value is looked at, tracing fails."""
    function = partial(draw_codes, model)
    recorded = make_fx(function, tracing_mode="real")(*inputs(2))
    for seed in (3, 4):
        torch.manual_seed(seed)
        others = inputs(2)
        others[0] = torch.randn_like(others[0])
        assert torch.equal(recorded(*others), function(*others))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@torch.inference_mode()
def test_a_recorded_graph_draws_the_same_codes(model):
    model = model.to("cuda")
    use_graphs(model)
    for num_rows in (1, 3, 1):
        some = inputs(num_rows, "cuda")
        assert torch.equal(model.make_codes(*some), draw_codes(model, *some))
