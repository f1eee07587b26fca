"""CUDA graphs: what is recorded does the same, and where it does not it is left out."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from loguru import logger
from torch.fx.experimental.proxy_tensor import make_fx

from models.devices import find_device
from models.transformer.graphs import Graphed
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.dual_ar.engines import choose_engine
from models.westlake.dual_ar.engines.choice import checked
from models.westlake.dual_ar.engines.eager import EagerEngine, draw_codes
from models.westlake.dual_ar.engines.graph import GraphEngine

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


def steps_of(engine: EagerEngine, num_positions: int = 3) -> torch.Tensor:
    """Hidden states of two conversations, which begin at positions of their own."""
    generator = torch.Generator().manual_seed(7)
    model = engine.model
    caches = [model.new_cache() for _ in range(2)]
    codes = torch.randint(1, CONFIG.codebook_size, (2, 8, 6), generator=generator)
    grid = torch.cat([torch.full((2, 1, 6), model.semantic_id), codes], dim=1).to(model.device)
    engine.read(grid[:1, :, :3], caches[:1])
    steps = [engine.read(grid[:, :, 3 + i, None], caches) for i in range(num_positions)]
    alone = engine.read(grid[:1, :, :1], caches[:1])
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
def test_a_step_in_recorded_pieces_is_the_same(model):
    expected = steps_of(EagerEngine(model))
    engine = GraphEngine(model, record_in_fx)
    torch.testing.assert_close(steps_of(engine), expected, rtol=1e-5, atol=1e-6)


class InPlaces:
    """As a graph, a function has one place for its inputs and one for its results."""

    def __init__(self, function) -> None:
        self.function, self.places, self.results = function, None, None

    def __call__(self, *inputs):
        if self.places is None:
            self.places = [tensor.clone() for tensor in inputs]
        for place, tensor in zip(self.places, inputs, strict=True):
            place.copy_(tensor)
            time.sleep(0)  # lets another thread go on
        made = self.function(*self.places)
        parts = made if isinstance(made, tuple) else (made,)
        if self.results is None:
            self.results = [part.clone() for part in parts]
        for result, part in zip(self.results, parts, strict=True):
            result.copy_(part)
        return tuple(self.results) if isinstance(made, tuple) else self.results[0]


def test_two_who_speak_at_once_are_not_mixed(model):
    engine = GraphEngine(model, InPlaces)
    words = torch.tensor([[3, 9, 4, 8, 7], [11, 2, 12, 1, 6]])

    def read(tokens):
        cache, silent = model.new_cache(), torch.zeros(1, 8, 1, dtype=torch.long)
        columns = [torch.cat([token.view(1, 1, 1), silent], dim=1) for token in tokens]
        with torch.inference_mode():
            return torch.cat([engine.read(column, [cache]) for column in columns], dim=1)

    alone = [read(row) for row in words]
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(read, words))
        assert all(map(torch.equal, together, alone))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_graphs_do_the_same_bit_for_bit(model, dtype):
    model = copy.deepcopy(model).to(find_device("cuda"), dtype)
    engine = GraphEngine(model)
    for _ in range(2):  # recorded, and replayed
        assert torch.equal(steps_of(engine), steps_of(EagerEngine(model)))
    for num_rows in (1, 3, 1):
        hidden, *others = inputs(num_rows, "cuda")
        some = [hidden.to(dtype), *others]
        assert torch.equal(engine.draw_codes(*some), draw_codes(model, *some))


class NoGraph:
    """A CUDA graph where there is no GPU: what was recorded does nothing."""

    def replay(self) -> None:
        pass


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    """Graphs are recorded as on a GPU, by what does nothing."""
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Mock)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NoGraph)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **options: nullcontext())


@pytest.mark.usefixtures("no_gpu")
def test_what_was_recorded_in_inference_mode_is_used_outside_of_it():
    """Speech is read column by column outside of it, and replies are made inside."""
    double = Graphed(lambda x: 2 * x)
    with torch.inference_mode():
        double(torch.ones(1, 3))
    with torch.no_grad():
        assert torch.equal(double(torch.ones(1, 3)), torch.full((1, 3), 2.0))


class Broken(EagerEngine):
    """Fails as graphs may: with an error, another hidden state, or other codes."""

    name = "broken"

    def __init__(self, model: DualARTransformer, fault: str) -> None:
        super().__init__(model)
        self.fault = fault

    def read(self, grid, caches):
        if self.fault == "error":
            raise RuntimeError("operation not permitted when\nstream is capturing")
        hidden = super().read(grid, caches)
        if self.fault == "hidden":
            return hidden * 1.5
        return hidden + torch.nan if self.fault == "nan" else hidden

    def draw_codes(self, *inputs):
        return super().draw_codes(*inputs) + (self.fault == "codes")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("error", "RuntimeError: operation not permitted when stream is capturing"),
        ("hidden", "hidden states differ by 0.5"),
        ("nan", "hidden states differ by nan"),
        ("codes", "other codes are drawn"),
    ],
)
def test_an_engine_that_fails_or_differs_is_left_out_with_a_warning(model, fault, said):
    eager, lines = EagerEngine(model), []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        assert checked(Broken(model, fault), eager) is eager
        (line,) = lines
        assert "the broken engine is left out" in line and said in line
    finally:
        logger.remove(sink)


def test_an_engine_that_does_the_same_is_taken_without_a_word(model):
    good, lines = GraphEngine(model, record_in_fx), []
    sink = logger.add(lines.append, level="WARNING")
    try:
        assert checked(good, EagerEngine(model)) is good
    finally:
        logger.remove(sink)
    assert lines == []


CHECKED = "models.westlake.dual_ar.engines.choice.checked"


def test_no_graphs_are_taken_unchecked(model, monkeypatch):
    engines = []
    monkeypatch.setattr(DualARTransformer, "device", torch.device("cuda"))
    monkeypatch.setattr(CHECKED, lambda *given: engines.extend(given) or given[1])
    chosen = choose_engine(model, None)
    assert list(map(type, engines)) == [GraphEngine, EagerEngine]
    assert chosen is engines[1]


def test_a_switch_turns_graphs_off(model, monkeypatch):
    monkeypatch.setattr(DualARTransformer, "device", torch.device("cuda"))
    monkeypatch.setattr(CHECKED, lambda graph, eager: graph)
    assert isinstance(choose_engine(model, None), GraphEngine)
    monkeypatch.setenv("WESTLAKE_CUDA_GRAPHS", "0")
    assert type(choose_engine(model, None)) is EagerEngine
