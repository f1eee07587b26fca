"""The training loop: that it learns, and that a resumed training is the uninterrupted one."""

import csv
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training import files, loop
from training.loop import Stage, StateError, autocast


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by between any two looks at the clock, so that a step takes one."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


class Trial:
    """A stage whose batches and dropout are random."""

    def __init__(self, folder: Path, minutes: float = 10 / 60, averaged: tuple = ()) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1)
        )
        self.stage = Stage(
            name="trial",
            folder=folder,
            minutes=minutes,
            learning_rate=0.1,
            validate_seconds=3,
            averaged=averaged,
        )
        self.steps: list[int] = []

    def step(self, index: int) -> Tensor:
        self.steps.append(index)
        assert self.net.training
        batch = torch.randn(16, 4)
        return (self.net(batch)[:, 0] - batch.sum(1)).square().mean()

    def validate(self, index: int) -> dict[str, float]:
        assert not self.net.training and not torch.is_grad_enabled()
        torch.randn(7)  # what is drawn here changes nothing of the training
        return {"bias": self.net[3].bias.item()}

    def run(self, step: Callable[[int], Tensor] | None = None) -> dict:
        self.stage.run({"net": self.net}, step or self.step, self.validate)
        return torch.load(self.stage.folder / "trial.pt", weights_only=True)


def assert_equal(first: object, second: object) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second):
            assert_equal(a, b)
    else:
        assert first == second


def test_a_stage_learns_and_logs(tmp_path: Path, clock: None):
    trial = Trial(tmp_path, minutes=2)
    trial.run()
    assert trial.steps == list(range(120))
    with open(tmp_path / "trial.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(3, 121, 3))
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["bias"]) == pytest.approx(trial.net[3].bias.item())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "trial.csv",
        "trial.png",
        "trial.pt",
    ]


@pytest.mark.parametrize("averaged", [(), ("net",)])
@pytest.mark.parametrize("end", [1, 5, 9])
def test_a_resumed_training_is_the_uninterrupted_one(
    tmp_path: Path, clock: None, end: int, averaged: tuple[str, ...]
):
    whole = Trial(tmp_path / "whole", averaged=averaged).run()
    killed = Trial(tmp_path / "killed", averaged=averaged)

    def step(index: int) -> Tensor:
        if index == end:
            raise KeyboardInterrupt
        return killed.step(index)

    with pytest.raises(KeyboardInterrupt):
        killed.run(step)
    torch.manual_seed(99)
    resumed = Trial(tmp_path / "killed", averaged=averaged)
    state = resumed.run()
    assert resumed.steps == list(range(3 * (end // 3), 10))
    assert_equal(state, whole)
    for name in ("trial.csv", "trial.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_mean_of_the_weights_is_validated_and_saved(
    tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "MEAN_DECAY", 0.3)  # which is reached in the fourth step
    plain, trial = Trial(tmp_path / "plain").run(), Trial(tmp_path, averaged=("net",))
    biases = []

    def step(index: int) -> Tensor:
        biases.append(trial.net[3].bias.item())
        return trial.step(index)

    state = trial.run(step)
    biases.append(trial.net[3].bias.item())
    means = [biases[0]]
    for decay, bias in zip((1 / 10, 2 / 11, 3 / 12, *[0.3] * 7), biases[1:], strict=True):
        means.append(decay * means[-1] + (1 - decay) * bias)
    shown = [row["bias"] for row in state["rows"]]
    assert shown == pytest.approx([means[n] for n in (3, 6, 9, 10)], rel=1e-4)
    assert state["modules"]["net_mean"]["3.bias"].item() == pytest.approx(means[-1], rel=1e-4)
    assert state["modules"]["net_mean"]["2.num_batches_tracked"] == 10
    # What learns does as without a mean.
    assert_equal(state["modules"]["net"], plain["modules"]["net"])
    assert_equal(trial.net.state_dict(), plain["modules"]["net"])
    assert means[-1] != pytest.approx(biases[-1], rel=1e-4)


@pytest.mark.parametrize("apart", [{}, {"second": 0.03}])
def test_modules_that_learn_apart_have_their_own_rate_and_clipping(
    tmp_path: Path, clock: None, apart: dict[str, float]
):
    modules = {name: nn.Linear(3, 1, bias=False) for name in ("first", "third", "second")}
    before = {name: module.weight.detach().clone() for name, module in modules.items()}
    Stage(
        name="sides",
        folder=tmp_path,
        minutes=1 / 60,
        learning_rate=0.1,
        weight_decay=0,
        apart=apart,
    ).run(
        modules,
        lambda _: sum(10**n * m.weight.sum() for n, m in enumerate(modules.values(), start=1)),
        lambda _: {},
    )
    norms = {name: module.weight.grad.norm().item() for name, module in modules.items()}
    if apart:
        assert norms["second"] == pytest.approx(1, rel=1e-4)
        assert norms["first"] ** 2 + norms["third"] ** 2 == pytest.approx(1, rel=1e-4)
    else:
        assert sum(norm**2 for norm in norms.values()) == pytest.approx(1, rel=1e-4)
    assert norms["third"] == pytest.approx(10 * norms["first"], rel=1e-4)
    for name, module in modules.items():  # AdamW's first step is as long as its rate
        rate = apart.get(name, 0.1) / loop.WARMUP_STEPS
        torch.testing.assert_close(before[name] - module.weight, torch.full((1, 3), rate))


@pytest.mark.parametrize("failing", ["csv", "png", "pt"])
def test_a_stage_killed_while_it_writes_can_go_on(
    tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch, failing: str
):
    whole = Trial(tmp_path / "whole").run()
    killed = Trial(tmp_path / "killed")
    killed.stage = Stage(**{**vars(killed.stage), "minutes": 6 / 60})
    replace, seen = Path.replace, []

    def fail(path: Path, target: Path) -> Path:
        seen.append(target)
        if target.name == f"trial.{failing}" and len(seen) > 3:  # the second time
            raise OSError("no space is left")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            killed.run()
    assert [path.suffix for path in seen[:3]] == [".csv", ".png", ".pt"]  # the mark comes last
    resumed = Trial(tmp_path / "killed")
    # The schedule is by the whole time, which the killed run was cut short of.
    state = resumed.run()
    assert resumed.steps == list(range(3, 10)) and state["step"] == whole["step"]


def test_a_stage_that_has_no_time_left_does_nothing(tmp_path: Path, clock: None):
    state = Trial(tmp_path).run()
    again = Trial(tmp_path)
    assert_equal(again.run(), state)
    assert again.steps == [] and torch.equal(again.net[3].bias, state["modules"]["net"]["3.bias"])
    longer = Trial(tmp_path, minutes=12 / 60)
    longer.run()
    assert longer.steps == [10, 11]


def more_layers(trial: Trial) -> None:
    trial.net.append(nn.Linear(1, 1))


def other_sizes(trial: Trial) -> None:
    trial.net[0] = nn.Linear(4, 9)


def a_mean(trial: Trial) -> None:
    trial.stage = replace(trial.stage, averaged=("net",))


def one_more_optimizer(trial: Trial) -> None:
    trial.stage = replace(trial.stage, matrices=lambda name: name == "0.weight")


@pytest.mark.parametrize("change", [more_layers, other_sizes, a_mean, one_more_optimizer])
def test_a_state_of_another_make_is_refused_and_stays(
    tmp_path: Path, clock: None, change: Callable[[Trial], None]
):
    Trial(tmp_path).run()
    before = (tmp_path / "trial.pt").read_bytes()
    trial = Trial(tmp_path, minutes=12 / 60)
    change(trial)
    with pytest.raises(StateError, match="trial.pt is of another make .* remove it to begin anew"):
        trial.run()
    assert trial.steps == [] and (tmp_path / "trial.pt").read_bytes() == before


def test_a_validation_that_fails_leaves_what_learns(tmp_path: Path, clock: None):
    trial = Trial(tmp_path, averaged=("net",))

    def validate(index: int) -> dict[str, float]:
        raise OSError("no space is left")

    trial.validate, trial.stage = validate, replace(trial.stage, validate_seconds=1)
    before = trial.net[3].bias.item()
    with pytest.raises(OSError, match="no space"):
        trial.run()
    # AdamW's first step is as long as its rate, and the mean goes a part of it.
    assert abs(trial.net[3].bias.item() - before) == pytest.approx(
        0.1 / loop.WARMUP_STEPS, rel=1e-2
    )


def test_curves_are_a_picture(tmp_path: Path, plot_curves: Callable):
    rows = [{"minutes": n, "step": n, "loss": 1 / n} for n in range(1, 4)]
    plot_curves([*rows, rows[0] | {"minutes": 4, "weight": 2.0}], tmp_path / "curves", "trial")
    assert (tmp_path / "curves").read_bytes().startswith(b"\x89PNG")


def test_a_log_may_get_new_figures(tmp_path: Path, clock: None):
    Trial(tmp_path).run()
    longer = Trial(tmp_path, minutes=12 / 60)
    longer.validate = lambda index: {"bias": 0.0, "weight": 2.0}
    longer.run()
    with open(tmp_path / "trial.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["weight"] for row in rows] == [""] * 4 + ["2.0"]


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path: Path):
    trial = Trial(tmp_path)
    with pytest.raises(RuntimeError, match="trial: the loss is nan at step 0"):
        trial.run(lambda index: trial.net[0].weight.sum() * torch.nan)
    assert not (tmp_path / "trial.pt").exists()


def test_autocast_takes_a_device_with_its_number():
    assert autocast("cuda:1").device == "cuda" and autocast(torch.device("cpu")).device == "cpu"


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
