"""Comparisons of rows that share seeds and examples: paired tests, Holm's correction, and which rows can be ranked.

A row holds hits by seed, {seed: (N,)}; two rows are compared over the seeds and the examples that both have, where a
shorter evaluation is a prefix of a longer one.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from deconfound.statistics import ALPHA, paired_mean

Bools = NDArray[np.bool_]
TINY = 1e-100  # a p-value below it is 0


class Ranks(NamedTuple):
    """The places, from 1, that a row may have by the tests; written `2`, or `1-3` if it cannot be ranked."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def mcnemar(treatment: Bools, control: Bools, *, mid: bool = False) -> float:
    """p-value, two-sided and exact, that one seed's hits (N,) on the same examples differ (McNemar 1947).

    Only discordant pairs count: under equality each is a fair coin. mid: the mid-p version, which counts the
    observed outcome half (Fagerland, Lydersen & Laake 2013); it is less conservative, and not exact.
    """
    if treatment.shape != control.shape or treatment.ndim != 1:
        raise ValueError(f"expected two vectors of one length, got {treatment.shape} and {control.shape}")
    won, lost = int((treatment & ~control).sum()), int((control & ~treatment).sum())
    fewer, pairs = min(won, lost), won + lost
    p = 2 * float(stats.binom.cdf(fewer, pairs, 0.5))
    return min(1.0, p - float(stats.binom.pmf(fewer, pairs, 0.5)) if mid else p)


def paired_p(treatment: Bools, control: Bools) -> float:
    """p-value, two-sided, that tables (S, N) differ: the level at which the interval of `difference` touches 0.

    So p < 0.05 exactly when the 95 % interval excludes 0. 1 for one example, NaN for none.
    """
    found = paired_mean(treatment, control)
    if found is None:
        return 1.0 if treatment.size else float("nan")

    def beyond(log_alpha: float) -> float:
        return found.reach(float(np.exp(log_alpha))) - abs(found.centre)

    if beyond(0.0) >= 0:
        return 1.0
    lowest = float(np.log(TINY))
    if beyond(lowest) <= 0:
        return 0.0
    return float(np.exp(optimize.brentq(beyond, lowest, 0.0, xtol=1e-12)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: step down, monotone, at most 1 (Holm 1979). NaN stays, uncounted."""
    adjusted = [float("nan")] * len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if not np.isnan(p))
    least = 0.0
    for place, (p, index) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        adjusted[index] = least
    return adjusted


def common(treatment: Mapping[int, Bools], control: Mapping[int, Bools]) -> tuple[Bools, Bools] | None:
    """Tables (S, N) over the seeds and the examples that both have; None without a common seed."""
    shared = sorted(set(treatment) & set(control))
    if not shared:
        return None
    count = min(len(row[seed]) for row in (treatment, control) for seed in shared)
    one, other = (np.stack([row[seed][:count] for seed in shared]) for row in (treatment, control))
    return one, other


def rankable(
    rows: Mapping[str, Mapping[int, Bools]], *, higher_first: bool = True, alpha: float = ALPHA
) -> dict[str, Ranks]:
    """For each row of one table the places it may have, given all paired tests between two rows, Holm-corrected.

    A row's best place is after all rows that are better beyond doubt, its worst before all that are worse. At most in
    a share alpha of tables does any true place lie outside (Mogstad, Romano, Shaikh & Wilhelm, "Inference for ranks",
    2024). Rows without a common seed are not told apart.
    """
    pairs = list(combinations(rows, 2))
    tables = [common(rows[one], rows[other]) for one, other in pairs]
    p_values = holm([paired_p(*table) if table else float("nan") for table in tables])
    better, worse = dict.fromkeys(rows, 0), dict.fromkeys(rows, 0)
    for pair, table, p in zip(pairs, tables, p_values, strict=True):
        if table and p < alpha:
            ahead = bool(table[0].sum() > table[1].sum()) == higher_first
            first, last = pair if ahead else pair[::-1]
            better[last] += 1
            worse[first] += 1
    return {name: Ranks(1 + better[name], len(rows) - worse[name]) for name in rows}
