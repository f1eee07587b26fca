"""Rounding to 4 bits for the inputs that a layer gets: what it computes errs less than half."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from libraries import INSTRUCTION_SETS, library_for
from torch import Tensor, nn

from models.hub import TINY
from models.tokenizer import load_tokenizer
from models.transformer.quantisation import LAYERS, quantise_weights
from models.transformer.quantised import GROUP_SIZE
from models.transformer.rounding import DAMPING, collected_inputs, factors_of
from models.westlake.calibration import calibrate
from models.westlake.checkpoint import load_checkpoint
from models.westlake.checkpoint_files import read_config, read_model
from models.westlake.dual_ar import DualARConfig, DualARTransformer
from models.westlake.saved_checkpoint import save_quantised

SIZES = (192, 320)  # of inputs: less than a block, and more
HALF = 0.5
WIDTHS = (1.0, 0.85, 0.7)  # as in rounding.h


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def library(request):
    return library_for(request.param)


def inputs(size: int, seed: int = 0) -> Tensor:
    """Inputs [N, size] that go together, some of them outliers."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(size, size, generator=torch.Generator().manual_seed(9)) / size**0.5
    x = torch.randn(4 * size, size, generator=generator) @ (mixed + 0.5 * torch.eye(size))
    x[:, ::37] *= 20
    return x


def dequantised(weights: dict[str, Tensor], layer: str) -> Tensor:
    """A layer's weight [out, in] as it is used."""
    packed, scale = weights[f"{layer}.weight"], weights[f"{layer}.scale"].bfloat16().float()
    steps = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1).float() - 8
    return (steps.unflatten(1, (-1, GROUP_SIZE)) * scale[..., :1] + scale[..., 1:]).flatten(1)


def error(x: Tensor, weight: Tensor, rounded: Tensor) -> float:
    """Of a layer's outputs, relative and squared."""
    return float((x @ (rounded - weight).T).square().sum() / (x @ weight.T).square().sum())


def plainly_rounded(weight: Tensor, x: Tensor) -> Tensor:
    """The algorithm as it is written down, in float64, for one block of inputs."""
    gram = x.T @ x
    damped = gram.double() / gram.diagonal().mean() + DAMPING * torch.eye(len(gram))
    upper = torch.linalg.cholesky(damped, upper=True)
    asked = upper / upper.diagonal()[:, None]  # of each input by the errors of the later ones
    rounded = torch.empty_like(weight, dtype=torch.float64)
    errors = torch.zeros_like(rounded)
    for end in range(len(gram), 0, -GROUP_SIZE):
        group = slice(end - GROUP_SIZE, end)
        x = weight[:, group] + errors[:, end:] @ asked[group, end:].T
        step, middle = plainly_fitted(x, upper.diagonal()[group].square())
        for j in range(end - 1, end - GROUP_SIZE - 1, -1):
            x = weight[:, j] + errors[:, j + 1 :] @ asked[j, j + 1 :]
            at = ((x - middle) / step + 8).round().clamp(0, 15) - 8
            rounded[:, j] = middle + at * step
            errors[:, j] = weight[:, j] - rounded[:, j]
    return rounded.float()


def plainly_fitted(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """A group's step, and what its 8th means: of a few widths the one that errs least."""
    low, high = x.aminmax(dim=1)
    found: list[tuple[float, float, float]] = [(torch.inf, 0.0, 0.0)] * len(x)
    root = share.sqrt()[:, None]
    for width in WIDTHS:
        step = width * (high - low) / 15
        at = ((x - (low + high)[:, None] / 2) / step[:, None] + 7.5).round().clamp(0, 15) - 8
        for row, (steps, values) in enumerate(zip(at, x, strict=True)):
            basis = torch.stack([steps, torch.ones_like(steps)], dim=1)
            fitted = torch.linalg.lstsq(root * basis, root * values[:, None]).solution[:, 0]
            fault = float(((basis @ fitted - values).square() * share).sum())
            found[row] = min(found[row], (fault, *fitted.bfloat16().tolist()))
    return tuple(torch.tensor(found, dtype=torch.float64)[:, 1:].T)


@pytest.mark.parametrize("size", SIZES)
def test_outputs_err_less_than_half_as_much(library, size):
    weight = 0.02 * torch.randn(19, size, generator=torch.Generator().manual_seed(1))
    x, others = inputs(size), inputs(size, seed=5)
    weights = {"a.wo.weight": weight.clone()}
    plain = dequantised(quantise_weights(weights, "int4", library), "a.wo")
    fitted = quantise_weights(weights, "int4", library, {"a.wo": x})
    assert fitted["a.wo.weight"].shape == (19, size // 2)
    assert fitted["a.wo.scale"].shape == (19, size // GROUP_SIZE, 2)
    for given in (x, others):
        ratio = error(given, weight, dequantised(fitted, "a.wo")) / error(given, weight, plain)
        assert ratio < HALF / 2
    assert torch.equal(weight, weights["a.wo.weight"])  # the caller's stay as they are


def test_weights_are_those_of_the_algorithm(library):
    weight = 0.02 * torch.randn(19, 128, generator=torch.Generator().manual_seed(1))
    x = inputs(128)
    found = quantise_weights({"a.wo.weight": weight}, "int4", library, {"a.wo": x})
    rounded, plain = dequantised(found, "a.wo"), plainly_rounded(weight, x)
    # One step that rounds otherwise changes all that follow in its row.
    same = (rounded - plain).abs().amax(dim=1) < 1e-6
    assert same.float().mean() > 0.7
    assert error(x, weight, rounded) == pytest.approx(error(x, weight, plain), rel=0.05)


def test_inputs_that_never_come_and_weights_that_are_alike_are_no_fault(library):
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    weight[3], weight[5, :GROUP_SIZE] = 0, 0.25
    x = inputs(128)
    x[:, :70] = 0
    for given in (x, torch.zeros_like(x)):
        found = quantise_weights({"a.wo.weight": weight}, "int4", library, {"a.wo": given})
        rounded = dequantised(found, "a.wo")
        assert rounded.isfinite().all()
        assert error(inputs(128), weight, rounded) < 0.1
        torch.testing.assert_close(rounded[3], weight[3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("outlier", [1e20, torch.inf, torch.nan])
def test_a_layer_whose_inputs_are_too_large_is_rounded_to_the_nearest(library, outlier):
    weights = {"a.wo.weight": torch.randn(16, 320, generator=torch.Generator().manual_seed(1))}
    x = inputs(320).bfloat16()
    x[:, 300] *= outlier
    found = quantise_weights(weights, "int4", library, {"a.wo": x})
    nearest = quantise_weights(weights, "int4", library)
    assert all(torch.equal(found[key], nearest[key]) for key in nearest)


def test_factors_are_those_of_the_damped_gram_matrix():
    x = inputs(320)
    factors = factors_of(x)
    assert len(factors) == 256 * 256 + 64 * 64
    for block, found in ((x[:, :256], factors[: 256 * 256]), (x[:, 256:], factors[256 * 256 :])):
        gram, upper = block.T.double() @ block.double(), found.view(block.shape[1], -1)
        assert torch.equal(upper, upper.triu())
        damped = gram / gram.diagonal().mean() + DAMPING * torch.eye(len(gram))
        again = upper.double().T @ upper.double()
        torch.testing.assert_close(again, damped, rtol=0, atol=1e-3)


def test_inputs_are_those_of_the_named_layers_and_the_hooks_go():
    model = nn.ModuleDict({"wo": nn.Linear(8, 8), "head": nn.Linear(8, 8)})
    x = torch.randn(3, 6, 8)
    with torch.no_grad(), collected_inputs(model, LAYERS) as found:
        for part in x.split(1):
            model["head"](model["wo"](part))
    assert list(found) == ["wo"]
    torch.testing.assert_close(torch.cat(found["wo"]), x.flatten(0, 1))
    model["wo"](x)
    assert len(found["wo"]) == 3


def test_of_some_layers_a_part_of_the_inputs_is_kept_of_each_row_in_turn():
    model = nn.ModuleDict({"fast": nn.ModuleDict({"wo": nn.Linear(8, 8)})})
    x = torch.randn(2, 6, 8)
    with torch.no_grad(), collected_inputs(model, LAYERS, {"fast": 3}) as found:
        for part in x:
            model["fast"]["wo"](part)
    parts = found["fast.wo"]
    assert torch.equal(torch.cat(parts), torch.cat([x[0, ::3], x[1, 1::3]]))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)


def outliers(folder: Path) -> tuple[Path, DualARConfig, dict[str, Tensor]]:
    """A random model, some of whose channels are twenty times as loud."""
    config = read_config(folder / "config.json", DualARConfig)
    heads = {name: 2 for name in ("n_layer", "n_head", "n_local_heads", "n_local_heads_fast")}
    sizes = {"dim": 128, "intermediate_size": 192, "intermediate_size_fast": 192}
    config = replace(config, **heads, **sizes)
    torch.manual_seed(0)
    model = DualARTransformer(config, 5)
    weights = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    for key, tensor in weights.items():
        if tensor.dim() == 1 and "norm" in key:
            tensor[::29] *= 20
        elif tensor.dim() == 2:
            tensor *= 3
    return folder / "random", config, weights


class Speaking:
    """A model's layers, rounded to the nearest, and for what they read when it speaks."""

    def __init__(self, kind: str) -> None:
        folder, library = Path(TINY), library_for("native")
        read, config = read_model(folder), read_config(folder / "config.json", DualARConfig)
        path, self.weights = read.path, read.weights
        tokenizer = load_tokenizer(folder, config.vocab_size)
        if kind == "outliers":
            path, config, self.weights = outliers(folder)
        given = self.weights, path, config, tokenizer, library
        self.num_layers = 4 * (config.n_layer + config.n_fast_layer)
        self.own, self.others = calibrate(*given), calibrate(*given, seed=1)
        self.plain = quantise_weights(self.weights, "int4", library)
        self.fitted = quantise_weights(self.weights, "int4", library, dict(self.own))

    def ratio(self, inputs: dict[str, Tensor]) -> float:
        """Of the layers' errors, on average."""
        ratios = []
        for layer, x in inputs.items():
            weight = self.weights[f"{layer}.weight"].float()
            gram = x.float().T @ x.float()
            faults = (dequantised(each, layer) - weight for each in (self.fitted, self.plain))
            found, expected = (float(((fault @ gram) * fault).sum()) for fault in faults)
            ratios.append(found / expected)
        assert len(ratios) == self.num_layers
        return sum(ratios) / len(ratios)


@pytest.mark.parametrize("speaks_in_bfloat16", [True, False])
@pytest.mark.parametrize("kind", ["embedded", "outliers"])
def test_the_layers_of_a_model_that_speaks_err_less_than_half_as_much(
    kind, speaks_in_bfloat16, monkeypatch
):
    monkeypatch.setattr(
        "models.westlake.calibration.multiplies_bfloat16", lambda device: speaks_in_bfloat16
    )
    model = Speaking(kind)
    assert model.ratio(model.own) < 0.8 * HALF
    assert model.ratio(model.others) < HALF  # of what it was not fitted to


@pytest.mark.parametrize("kind", ["embedded", "outliers"])
def test_after_a_large_model_s_shorter_replies_they_err_less_than_half_as_much(kind, monkeypatch):
    monkeypatch.setattr("models.westlake.calibration.LARGE_MODEL", 1)
    model = Speaking(kind)
    assert model.ratio(model.own) < HALF
    assert model.ratio(model.others) < 0.75  # they tell less of what it was not fitted to


def test_the_same_file_gives_the_same_weights_each_time(tmp_path):
    library_for("native")
    save_quantised(TINY, tmp_path / "four", "int4")
    loaded, saved = (load_checkpoint(folder, dtype="int4") for folder in (TINY, tmp_path / "four"))
    expected, found = loaded.model.state_dict(), saved.model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
