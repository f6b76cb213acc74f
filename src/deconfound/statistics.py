"""Intervals. A rate is never a point: it comes with the uncertainty over seeds and over test examples.

Hits form a table (S, N): S trainings with different seeds, scored on the same N examples. Both are samples:
another seed and another example would have given another number, so their variances add (a crossed
random-effects model).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(hits: float, total: int, *, level: float = LEVEL) -> Interval:
    """Interval of a proportion from independent trials (Wilson 1927); [0, 1] when there are none."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z = float(stats.norm.ppf(0.5 + level / 2))
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def rate(hits: NDArray[np.bool_]) -> Interval:
    """Mean of hits (S, N) with an interval over seeds and examples.

    The wider, end by end, of the crossed t-interval and of Wilson's interval at N independent examples: the
    first knows of the seeds, the second stays honest near 0 and 1, where variances vanish.
    """
    table = np.asarray(hits, float)
    if table.shape[1] == 0:
        return Interval(float("nan"), 0.0, 1.0)
    crossed = _crossed(table)
    plain = wilson(float(table.mean()) * table.shape[1], table.shape[1])
    low, high = min(crossed.low, plain.low), max(crossed.high, plain.high)
    return Interval(crossed.value, max(0.0, low), min(1.0, high))


def difference(treatment: NDArray[np.bool_], control: NDArray[np.bool_]) -> Interval:
    """Mean of paired differences, in [-1, 1], of tables (S, N) that share seeds (rows) and examples
    (columns).

    Near the ends, where the variance vanishes, two discordant pairs are added before the variance is taken
    (one each way: Agresti & Min, "Simple improved confidence intervals for comparing matched proportions",
    2005).
    """
    if treatment.shape != control.shape:
        raise ValueError(f"expected tables of the same shape, got {treatment.shape} and {control.shape}")
    table = np.asarray(treatment, float) - np.asarray(control, float)
    crossed = _crossed(table)
    widened = np.concatenate([table.mean(0), [1.0, -1.0]])
    floor = float(stats.norm.ppf(0.5 + LEVEL / 2)) * float(widened.std() / len(widened) ** 0.5)
    low, high = min(crossed.low, crossed.value - floor), max(crossed.high, crossed.value + floor)
    return Interval(crossed.value, max(-1.0, low), min(1.0, high))


def mean(values: Floats) -> Interval:
    """Mean of one number per seed, with Student's interval; unbounded for a single seed."""
    value = float(np.mean(values))
    if len(values) < 2:
        return Interval(value, float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(value, value - half, value + half)


def _crossed(table: Floats) -> Interval:
    """Interval of the mean of a table (S, N) whose rows and columns are both random.

    Variance of the mean: between rows / S + between columns / N (Cornfield & Tukey 1956, without taking off the
    residual that both contain). Each part has Student's quantile for its own degrees of freedom, so that three
    seeds count as three (in the manner of Cochran 1964). With one row only the columns count.
    """
    seeds, examples = table.shape
    value = float(table.mean())
    if examples < 2:
        return Interval(value, float("-inf"), float("inf"))
    parts = [(float(table.mean(0).var(ddof=1)) / examples, examples - 1)]
    if seeds > 1:
        parts.append((float(table.mean(1).var(ddof=1)) / seeds, seeds - 1))
    half = sum(float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) ** 2 * part for part, freedom in parts) ** 0.5
    return Interval(value, value - half, value + half)
