"""Sampling equals the published distribution, however large the vocabulary."""

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for
from parity import ASSETS
from safetensors.torch import load_file

from models.westlake.dual_ar import SamplingConfig, sampling
from models.westlake.dual_ar.engines.native import NativeDraw
from models.westlake.dual_ar.sampling import candidates, draw, draw_points, penalise


def spread(ids, probs, vocab_size):
    """Probabilities over the whole vocabulary."""
    return probs.new_zeros(len(probs), vocab_size).scatter(1, ids, probs)


def by_sorting(logits, temperature, top_p):
    """Top-p then temperature, written down as plainly as possible."""
    logits, ids = logits.double().sort(descending=True)
    removed = logits.softmax(-1).cumsum(-1) > top_p
    removed[:, 0] = False
    probs = (logits.masked_fill(removed, -torch.inf) / temperature).softmax(-1)
    return torch.zeros_like(probs).scatter(1, ids, probs).float()


@pytest.mark.parametrize("with_window", [True, False])
def test_probabilities_equal_published(with_window):
    golden = load_file(ASSETS / "dual_ar_a.safetensors")
    logits, window = golden["sampler_logits"], golden["sampler_window"].long()
    temperature, top_p, penalty = golden["sampler_settings"].split(1, dim=1)
    if with_window:
        logits = penalise(logits, window, penalty)
    probs = spread(*candidates(logits, temperature, top_p), logits.shape[1])
    expected = golden["sampler_probs" if with_window else "sampler_probs_no_window"]
    torch.testing.assert_close(probs, expected, atol=1e-4, rtol=0)


@pytest.fixture(params=["on a CPU", "on a GPU"])
def device_kind(request, monkeypatch) -> None:
    """Few and many candidates are found in the way of either device."""
    monkeypatch.setattr(sampling, "_waits", lambda x: request.param == "on a GPU")


@pytest.mark.usefixtures("device_kind")
@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0, 20.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.7, 0.99, 1.0])
def test_large_vocabulary_is_not_cut_short(scale, top_p):
    logits = scale * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    logits += torch.linspace(0, 1e-2, 20_000)
    probs = spread(*candidates(logits, 0.8, top_p), 20_000)
    expected = by_sorting(logits, 0.8, top_p)
    assert (probs - expected).abs().sum(-1).max() < 2e-3


@pytest.mark.usefixtures("device_kind")
def test_top_p_keeps_no_token_more():
    rows = [torch.linspace(0, 5 + n / 100, 5000)[None] for n in range(200)]  # all differ
    masses = [row.double().softmax(-1).sort(descending=True).values.cumsum(-1) for row in rows]
    clear = [n for n, mass in enumerate(masses) if (mass - 0.7).abs().min() > 1e-5]
    assert len(clear) > 100
    for n in clear:
        _, probs = candidates(rows[n], 0.7, 0.7)
        assert int((probs > 0).sum()) == int((masses[n] <= 0.7).sum())


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def native_draw(request) -> NativeDraw:
    return NativeDraw(library_for(request.param))


def assert_draws_follow(native_draw, probs, logits, window, settings):
    """Draws of a token at many points are those of the line of probs [vocab] in the ids' order."""
    points = (torch.arange(500).double() + 0.5) / 500
    before = logits.clone()
    drawn = native_draw(
        logits.expand(500, -1),
        window.expand(500, -1),
        settings.expand(500, -1).contiguous(),
        points,
    )
    assert torch.equal(logits, before)
    ends = probs.double().cumsum(0) / probs.double().sum()
    starts = ends - probs.double() / probs.double().sum()
    assert (probs[drawn] > 0).all()
    assert (starts[drawn] < points + 2e-3).all() and (points < ends[drawn] + 2e-3).all()


@pytest.mark.parametrize("with_window", [True, False])
def test_native_draws_follow_the_published_probabilities(native_draw, with_window):
    golden = load_file(ASSETS / "dual_ar_a.safetensors")
    expected = golden["sampler_probs" if with_window else "sampler_probs_no_window"]
    settings = golden["sampler_settings"].clone()
    if not with_window:
        settings[:, 2] = 1.0
    for row in range(len(expected)):
        assert_draws_follow(
            native_draw,
            expected[row],
            golden["sampler_logits"][row : row + 1],
            golden["sampler_window"][row : row + 1].long(),
            settings[row : row + 1],
        )


@pytest.mark.parametrize("native_draw", INSTRUCTION_SETS[:-1], indirect=True)  # not emulated
@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0, 20.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.7, 0.99, 1.0])
def test_native_draws_from_a_large_vocabulary(native_draw, scale, top_p):
    logits = scale * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    logits += torch.linspace(0, 1e-2, 20_000)
    window = torch.zeros(1, 16, dtype=torch.long)
    settings = torch.tensor([[0.8, top_p, 1.0]])
    probs = by_sorting(logits, 0.8, top_p)[0]
    assert_draws_follow(native_draw, probs, logits, window, settings)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_native_draws_refuse_logits_that_are_not_finite(native_draw, row, value):
    logits = torch.randn(3, 3000)
    logits[row, (0, 7, 2999)[row]] = value
    settings = torch.tensor([[0.7, 0.7, 1.2]]).expand(3, -1).contiguous()
    points = torch.full((3,), 0.5, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="not finite"):
        native_draw(logits, torch.zeros(3, 16, dtype=torch.long), settings, points)


@pytest.mark.usefixtures("device_kind")
def test_rows_have_their_own_settings():
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    logits[0, 7] = 30
    temperature = torch.tensor([[0.3], [1.0], [1.9]])
    top_p = torch.tensor([[0.5], [0.9], [1.0]])
    together = spread(*candidates(logits, temperature, top_p), 5000)
    for row in range(3):
        settings = float(temperature[row]), float(top_p[row])
        alone = spread(*candidates(logits[row : row + 1], *settings), 5000)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_draws_follow_the_probabilities():
    ids = torch.tensor([[4, 2, 9, 7]])
    probs = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw(ids, probs, draw_points([generator])[:, 0]) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=10)[ids[0]] / 4000
    assert (shares - probs[0]).abs().max() < 0.03
    assert shares[3] == 0


def test_each_row_draws_from_its_own_generator():
    ids = torch.arange(100).expand(2, -1)
    probs = torch.full((2, 100), 0.01)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = draw(ids, probs, draw_points(seeds)[:, 0])
    alone = draw(ids[1:], probs[1:], draw_points([torch.Generator().manual_seed(2)])[:, 0])
    assert together[1] == alone[0]


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [0, -1, 2, float("nan")])
def test_settings_outside_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}.*allowed is 0 <"):
        SamplingConfig(**{name: value})


@pytest.mark.usefixtures("device_kind")
@pytest.mark.parametrize("vocab_size", [1001, 5620])
def test_a_top_p_of_1_drops_no_token(vocab_size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, vocab_size, generator=generator) - 12
    logits[:, :2] = 10 + torch.rand(500, 2, generator=generator)  # two good ones
    kept_mass = SamplingConfig(top_p=1).kept_mass
    probs = spread(*candidates(logits, 0.5, kept_mass), vocab_size)
    torch.testing.assert_close(probs, (logits / 0.5).softmax(-1), atol=1e-5, rtol=0)
    assert SamplingConfig(top_p=0.7).kept_mass == 0.7


def test_native_draws_of_a_top_p_of_1_reach_every_token(native_draw):
    logits = torch.full((1, 1001), -20.0)
    logits[0, :2] = torch.tensor([10.0, 9.5])
    settings = torch.tensor([[0.5, SamplingConfig(top_p=1).kept_mass, 1.0]])
    window = torch.full((1, 16), 5)
    assert_draws_follow(native_draw, (logits[0] / 0.5).softmax(-1), logits, window, settings)
