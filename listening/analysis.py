"""The statistics of listening tests; scipy is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a share of `count` ratings, and its interval of 95 % confidence."""

    count: int
    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, and Student's t interval; without end for a single one."""
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return Estimate(count=1, value=mean, low=-np.inf, high=np.inf)
    error = float(np.std(values, ddof=1)) / np.sqrt(count)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
    return Estimate(count=count, value=mean, low=mean - half, high=mean + half)


def share_interval(successes: int, count: int) -> Estimate:
    """The share of successes among at least one trial, and Wilson's interval."""
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(
        count=count, value=successes / count, low=float(interval.low), high=float(interval.high)
    )


def binomial_p(successes: int, count: int, chance: float, alternative: str = "two-sided") -> float:
    """How likely so many successes, or a more extreme number, are by chance; 1 without trials."""
    from scipy.stats import binomtest

    return float(binomtest(successes, count, chance, alternative).pvalue) if count else 1.0


def signed_rank_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test of paired scores, two-sided; 1 if all are equal."""
    from scipy.stats import wilcoxon

    differences = np.subtract(first, second)
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of several tests made together, by Holm's method."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
