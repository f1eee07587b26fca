"""A time-boxed, resumable training loop; every stage of the recipe runs in it."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor, nn
from tqdm import tqdm

from .files import replacing

WARMUP_STEPS = 100
FINAL_LEARNING_RATE = 0.01  # of the peak
MAX_GRADIENT_NORM = 1.0
MEAN_DECAY = 0.998  # of the mean of the weights, a step; less in the first steps
SHOWN_LOSSES = 50  # the progress bar shows their mean

# One list for those that share a clipping of their gradients.
_Optimizers = Sequence[Sequence[torch.optim.Optimizer]]


class StateError(RuntimeError):
    """The state to resume from is not of what is trained now."""


@dataclass(kw_only=True)
class _Progress:
    """How far a stage has come: `rows` of its log, seconds and steps, losses since the last row."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    step: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: what is trained, for how long, and where its files go.

    `<folder>/<name>.pt` holds the state to resume from, `.csv` the log and `.png` its curves.
    `minutes` counts over all runs: a resumed stage trains only what is left of it, and ends where
    an uninterrupted one does. AdamW trains all but the matrices that Muon (Jordan et al., 2024)
    does, with steps of the size that AdamW's would have. The gradients of all modules that are not
    `apart` are clipped together.

    Fields:
        matrices: whether Muon trains a weight [n, m], by its name.
        apart: learning rates of modules whose gradients are clipped by themselves, as they do not
            belong to what the others learn; they have no matrices for Muon.
        averaged: modules whose exponential mean over the steps is validated in their place, and
            saved as module `<name>_mean`.
    """

    name: str
    folder: Path
    minutes: float
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    validate_seconds: float = 60.0
    matrices: Callable[[str], bool] = lambda name: False
    apart: Mapping[str, float] = field(default_factory=dict)
    averaged: Sequence[str] = ()

    def run(
        self,
        modules: Mapping[str, nn.Module],
        step: Callable[[int], Tensor],
        validate: Callable[[int], Mapping[str, float]],
    ) -> None:
        """Train until the time is over.

        Args:
            modules: what is trained and saved, by name.
            step: step number -> loss, a scalar; it draws the batch, by nothing but that number
                and torch's global generator, which is seeded by it.
            validate: step number -> figures for the log; it may also write samples.

        Raises:
            RuntimeError: the loss is not finite.
            StateError: what is saved has other modules, sizes or optimizers.
        """
        means = {f"{name}_mean": copy.deepcopy(modules[name]) for name in self.averaged}
        modules = {**modules, **{name: mean.requires_grad_(False) for name, mean in means.items()}}
        optimizers = self._optimizers(modules)
        self.folder.mkdir(parents=True, exist_ok=True)
        progress = self._resume(modules, optimizers)
        budget, last_row = 60 * self.minutes, progress.seconds
        _set_training(modules, True)
        with tqdm(
            total=round(budget), initial=round(progress.seconds), unit="s", desc=self.name
        ) as bar:
            while progress.seconds < budget:
                started = time.monotonic()
                share = _schedule(progress.step, progress.seconds / budget)
                for optimizer in _flat(optimizers):
                    for group in optimizer.param_groups:
                        group["lr"] = optimizer.defaults["lr"] * share
                self._learn(step, optimizers, progress)
                for name in self.averaged:
                    _average(modules[f"{name}_mean"], modules[name], progress.step)
                progress.seconds += time.monotonic() - started
                recent = progress.losses[-SHOWN_LOSSES:]
                bar.n = min(round(progress.seconds), bar.total)
                bar.set_postfix(step=progress.step, loss=f"{sum(recent) / len(recent):.3f}")
                due = progress.seconds - last_row >= self.validate_seconds
                if due or progress.seconds >= budget:
                    self._log(modules, validate, progress)
                    self._save(modules, optimizers, progress)
                    last_row = progress.seconds

    def _optimizers(self, modules: Mapping[str, nn.Module]) -> _Optimizers:
        """Of all that learns together, then of each that learns apart."""
        together = [module for name, module in modules.items() if name not in self.apart]
        named = [pair for m in together for pair in m.named_parameters()]
        learned = [(name, p) for name, p in named if p.requires_grad]
        others = [p for name, p in learned if not self.matrices(name)]
        decay = self.weight_decay
        first: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, self.learning_rate, self.betas, weight_decay=decay)
        ]
        if matrices := [p for name, p in learned if self.matrices(name)]:
            first.append(
                torch.optim.Muon(
                    matrices, self.learning_rate, decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        apart = [
            torch.optim.AdamW(modules[name].parameters(), rate, self.betas, weight_decay=decay)
            for name, rate in self.apart.items()
        ]
        return [first, *([optimizer] for optimizer in apart)]

    def _learn(
        self,
        step: Callable[[int], Tensor],
        optimizers: _Optimizers,
        progress: _Progress,
    ) -> None:
        torch.manual_seed(progress.step)  # so that a resumed run draws what an uninterrupted does
        loss = step(progress.step)
        for optimizer in _flat(optimizers):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for side in optimizers:
            groups = [group for optimizer in side for group in optimizer.param_groups]
            learned = [p for group in groups for p in group["params"]]
            nn.utils.clip_grad_norm_(learned, MAX_GRADIENT_NORM)
            for optimizer in side:
                optimizer.step()
        progress.losses.append(loss.item())  # last, as it waits for a GPU
        if not math.isfinite(progress.losses[-1]):
            raise RuntimeError(
                f"{self.name}: the loss is {progress.losses[-1]} at step {progress.step}"
            )
        progress.step += 1

    def _log(
        self,
        modules: Mapping[str, nn.Module],
        validate: Callable[[int], Mapping[str, float]],
        progress: _Progress,
    ) -> None:
        _set_training(modules, False)
        with torch.no_grad(), self._means_in_place(modules):
            figures = dict(validate(progress.step))
        _set_training(modules, True)
        loss = sum(progress.losses) / len(progress.losses)
        row = {"minutes": progress.seconds / 60, "step": progress.step, "loss": loss} | figures
        progress.rows.append(row)
        progress.losses = []
        logger.info(f"{self.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))

    @contextmanager
    def _means_in_place(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        learned = {name: copy.deepcopy(modules[name].state_dict()) for name in self.averaged}
        for name in learned:
            modules[name].load_state_dict(modules[f"{name}_mean"].state_dict())
        try:
            yield
        finally:
            for name, state in learned.items():
                modules[name].load_state_dict(state)

    def _resume(self, modules: Mapping[str, nn.Module], optimizers: _Optimizers) -> _Progress:
        saved = self.folder / f"{self.name}.pt"
        if not saved.exists():
            return _Progress()
        state = torch.load(saved, weights_only=True, map_location="cpu")
        try:
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            for optimizer, saved_state in zip(_flat(optimizers), state["optimizers"], strict=True):
                optimizer.load_state_dict(saved_state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateError(
                f"{saved} is of another make than what is trained now: remove it to begin anew"
            ) from error
        return _Progress(rows=state["rows"], seconds=state["seconds"], step=state["step"])

    def _save(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: _Optimizers,
        progress: _Progress,
    ) -> None:
        """Write log, curves and, last, the state that says how far they are."""
        rows = progress.rows
        with (
            replacing(self.folder / f"{self.name}.csv") as path,
            path.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=_columns(rows))
            writer.writeheader()
            writer.writerows(rows)
        with replacing(self.folder / f"{self.name}.png") as path:
            plot_curves(rows, path, self.name)
        state = {
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in _flat(optimizers)],
            "rows": rows,
            "seconds": progress.seconds,
            "step": progress.step,
        }
        with replacing(self.folder / f"{self.name}.pt") as path:
            torch.save(state, path)


def autocast(device: str | torch.device) -> torch.autocast:
    """Products in bfloat16 on that kind of device, as in every training here."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """One small panel per figure of the log, over minutes, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in _columns(rows) if name not in ("minutes", "step")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for axis, name in zip(axes[0], names):
        known = [row for row in rows if name in row]
        axis.plot([row["minutes"] for row in known], [row[name] for row in known])
        axis.set_title(name)
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=80, format="png")
    pyplot.close(figure)


def _columns(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of all figures in a log, whose first rows may know fewer than the last."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _flat(optimizers: _Optimizers) -> list[torch.optim.Optimizer]:
    return [optimizer for side in optimizers for optimizer in side]


@torch.no_grad()
def _average(mean: nn.Module, module: nn.Module, num_steps: int) -> None:
    """Let the mean of a module's weights follow them, when they have learned in so many steps."""
    share = 1 - min(MEAN_DECAY, num_steps / (num_steps + 9))
    learned = module.state_dict()
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            value.lerp_(learned[name], share)
        else:
            value.copy_(learned[name])


def _set_training(modules: Mapping[str, nn.Module], training: bool) -> None:
    for module in modules.values():
        module.train(training)


def _schedule(step: int, progress: float) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to its final part."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(FINAL_LEARNING_RATE, cosine)
