"""A time-boxed, resumable training loop; every stage of the recipe runs in it."""

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor, nn
from tqdm import tqdm

WARMUP_STEPS = 100
FINAL_LEARNING_RATE = 0.05  # of the peak


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: what is trained, for how long, and where its files go.

    `<folder>/<name>.pt` holds the state to resume from, `.csv` the log and `.png` its curves.
    `minutes` counts over all runs: a resumed stage trains only what is left of it.
    """

    name: str
    folder: Path
    minutes: float
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    validate_seconds: float = 60.0

    def run(
        self,
        modules: Mapping[str, nn.Module],
        step: Callable[[int], Tensor],
        validate: Callable[[int], Mapping[str, float]],
    ) -> None:
        """Train until the time is over.

        Args:
            modules: what is trained and saved, by name.
            step: step number -> loss, a scalar; it draws the batch, by nothing but that number.
            validate: step number -> figures for the log; it may also write samples.
        """
        parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, self.learning_rate, self.betas, weight_decay=self.weight_decay
        )
        rows: list[dict[str, float]] = []
        seconds, index = 0.0, 0
        saved = self.folder / f"{self.name}.pt"
        if saved.exists():
            state = torch.load(saved, weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            optimizer.load_state_dict(state["optimizer"])
            rows, seconds, index = state["rows"], state["seconds"], state["step"]
        self.folder.mkdir(parents=True, exist_ok=True)
        budget = 60 * self.minutes
        bar = tqdm(total=round(budget), initial=round(seconds), unit="s", desc=self.name)
        losses: list[float] = []
        last_validation = seconds
        while seconds < budget:
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * _schedule(index, seconds / budget)
            torch.manual_seed(index)  # so that a resumed run draws what an uninterrupted one does
            loss = step(index)
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"{self.name}: the loss is {loss.item()} at step {index}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            index += 1
            spent = time.monotonic() - started
            seconds += spent
            bar.n = min(round(seconds), bar.total)
            bar.set_postfix(step=index, loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
            if seconds - last_validation >= self.validate_seconds or seconds >= budget:
                for module in modules.values():
                    module.eval()
                with torch.no_grad():
                    figures = dict(validate(index))
                for module in modules.values():
                    module.train()
                row = {"minutes": seconds / 60, "step": index, "loss": sum(losses) / len(losses)}
                rows.append(row | figures)
                losses, last_validation = [], seconds
                logger.info(
                    f"{self.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items())
                )
                self._save(modules, optimizer, rows, seconds, index)
        bar.close()

    def _save(self, modules, optimizer, rows, seconds, index) -> None:
        state = {
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizer": optimizer.state_dict(),
            "rows": rows,
            "seconds": seconds,
            "step": index,
        }
        temporary = self.folder / f"{self.name}.pt.new"
        torch.save(state, temporary)
        temporary.replace(self.folder / f"{self.name}.pt")  # never half a file
        with open(self.folder / f"{self.name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        plot_curves(rows, self.folder / f"{self.name}.png", self.name)


def plot_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """One small panel per figure of the log, over minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in rows[0] if name not in ("minutes", "step")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for axis, name in zip(axes[0], names):
        axis.plot([row["minutes"] for row in rows], [row[name] for row in rows])
        axis.set_title(name)
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _schedule(step: int, progress: float) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(FINAL_LEARNING_RATE, cosine)
