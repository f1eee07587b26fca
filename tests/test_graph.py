"""What a GPU does as CUDA graphs: a frame's codes, and a position's way between the attentions."""

import copy
from functools import partial

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.dual_ar.engines.graph import GraphedStack, use_graphs
from models.westlake.dual_ar.generation import draw_codes

CONFIG = DualARConfig(
    vocab_size=32,
    n_layer=3,
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


def record_in_fx(function):
    """Record as a graph does: for these sizes, and any values. Where one is looked at, it fails."""
    recorded = {}

    def call(*inputs):
        num_rows = len(inputs[0])
        if num_rows not in recorded:
            recorded[num_rows] = make_fx(partial(function), tracing_mode="real")(*inputs)
        return recorded[num_rows](*inputs)

    return call


def steps_of(model: DualARTransformer, num_positions: int = 3) -> torch.Tensor:
    """Hidden states of two conversations, which begin at positions of their own."""
    generator = torch.Generator().manual_seed(7)
    caches = [model.new_cache() for _ in range(2)]
    x = torch.randn(2, 6, CONFIG.dim, generator=generator).to(model.device)
    model.layers(x[:1, :3], caches[:1])
    steps = [model.layers(x[:, 3 + i, None], caches) for i in range(num_positions)]
    alone = model.layers(x[:1, :1], caches[:1])
    return torch.cat([*steps, alone.expand(2, -1, -1)], dim=1)


@torch.inference_mode()
def test_codes_are_drawn_without_a_look_at_any_value(model):
    function = partial(draw_codes, model)
    recorded = record_in_fx(function)
    recorded(*inputs(2))
    for seed in (3, 4):
        torch.manual_seed(seed)
        others = inputs(2)
        others[0] = torch.randn_like(others[0])
        assert torch.equal(recorded(*others), function(*others))


@torch.inference_mode()
def test_a_step_in_recorded_pieces_is_the_same(model, monkeypatch):
    expected = steps_of(model)
    monkeypatch.setattr(model.layers, "step", GraphedStack(model.layers, record_in_fx))
    torch.testing.assert_close(steps_of(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@torch.inference_mode()
def test_graphs_do_the_same(model):
    model = copy.deepcopy(model).to("cuda")
    expected = steps_of(model)
    use_graphs(model)
    torch.testing.assert_close(steps_of(model), expected, rtol=1e-5, atol=1e-6)
    for num_rows in (1, 3, 1):
        some = inputs(num_rows, "cuda")
        assert torch.equal(model.make_codes(*some), draw_codes(model, *some))
