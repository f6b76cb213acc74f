"""Intervals. A rate is never a point: it comes with the uncertainty over seeds and over test examples.

Hits form a table (S, N): S trainings with different seeds, scored on the same N examples. Both are samples: another
seed and another example would have given another number, so their variances add (crossed random effects). What stands
in the tables (`rate`, `difference`) is a closed form:

    variance = V(seed means) / S  +  the examples' own part, V(example means) / N - residual / (S N)
    critical value = between those of Student for S - 1 and for N - 1 degrees of freedom, by the seeds' share

and not the hierarchical bootstrap, which stands beside it: three seeds have ten resamples, and where seeds dominate,
their percentiles hold the truth in 77 to 84 % of tables.

Share of simulated tables whose interval holds the truth, in percent (3,000 to 6,000 tables a cell, standard error 0.3
to 0.4; a hit has the logit level + seed + example, examples with standard deviation 2; rates 0.5 and 0.9, N = 100, 500
and 2000; rates below one half mirror those above; differences of 0.03 to 0.07):

    seeds  spread between seeds (logit)   rate           difference
    3      0 / 0.2 / 0.5                  94.2 to 96.2   94.5 to 96.5
    5      0 / 0.2 / 0.5                  94.5 to 95.7   95.0 to 96.7
    10     0 / 0.2 / 0.5                  94.5 to 96.3   94.9 to 96.8

Above 96 lie differences at 100 examples and a rate of 0.9, where pairs hardly differ and the two added trials weigh (a
rate of 0.97: up to 99). Two seeds: 95 to 99. One seed: the rate of this very training is held exactly, by at least 95
(95.6 to 98.3 at 100 examples, as hits are whole numbers); of other trainings one seed knows nothing (a difference at
500 examples and a spread of 0.5: 35).
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.95
ALPHA = 0.05
FLOOR = 0.25  # of the variance of S * N independent trials: three seed means may agree by accident
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def inside(self, lowest: float, highest: float) -> "Interval":
        """The part of it that is possible for a number that cannot leave its ends; it holds the truth as often.
        What is NaN stays so.
        """
        return Interval(self.value, max(self.low, lowest), min(self.high, highest))


class Crossed(NamedTuple):
    """A mean over seeds and examples. share: of the seeds in the variance of the mean, in [0, 1]."""

    centre: float
    variance: float
    share: float
    seeds: int
    examples: int

    def reach(self, alpha: float = ALPHA) -> float:
        """Half the width of the interval of level 1 - alpha."""
        square = squared_critical(alpha, share=self.share, seeds=self.seeds, examples=self.examples)
        return math.sqrt(square * self.variance)


def wilson(hits: float, total: int, *, level: float = LEVEL) -> Interval:
    """Interval of a proportion from independent trials (Wilson 1927); [0, 1] when there are none."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z = float(special.ndtri(0.5 + level / 2))
    return _score(hits / total, z * z / total)


def clopper_pearson(hits: int, total: int, *, level: float = LEVEL) -> Interval:
    """The exact interval of a proportion (Clopper & Pearson 1934): never less than its level; [0, 1] without trials."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, total - hits + 1, tail)) if hits else 0.0
    high = float(special.betainccinv(hits + 1, total - hits, tail)) if hits < total else 1.0
    return Interval(hits / total, low, high)


def rate(hits: NDArray[np.bool_]) -> Interval:
    """Mean of hits (S, N) with an interval over seeds and examples.

    Wilson's interval for as many independent trials as would have the variance of the table (Korn & Graubard 1998 do
    so with Clopper-Pearson), which keeps it honest near 0 and 1. Where all seeds agree, or there is one only, the
    examples are the trials, and their interval is Clopper-Pearson's.
    """
    table = np.asarray(hits, float)
    seeds, examples = table.shape
    value = float(table.mean()) if examples else float("nan")
    if examples and (table == table[0]).all():
        return clopper_pearson(int(table[0].sum()), examples)
    if examples < 2:
        return Interval(value, 0.0, 1.0)
    return _score(value, _crossed(table).reach() ** 2 / (value * (1 - value)))


def difference(treatment: NDArray[np.bool_], control: NDArray[np.bool_]) -> Interval:
    """Mean of paired differences, in [-1, 1], of tables (S, N) that share seeds (rows) and examples (columns)."""
    found = paired_mean(treatment, control)
    if found is None:
        value = float(treatment.mean()) - float(control.mean()) if treatment.size else float("nan")
        return Interval(value, -1.0, 1.0)
    value, half = float(np.mean(treatment)) - float(np.mean(control)), found.reach()
    return Interval(value, max(-1.0, found.centre - half), min(1.0, found.centre + half))


def paired_mean(treatment: NDArray[np.bool_], control: NDArray[np.bool_]) -> Crossed | None:
    """Mean difference of tables (S, N) after adding two trials, one won by each side, to the S * N; None if N < 2.

    With one seed this is the interval of Agresti & Min, "Simple improved confidence intervals for comparing matched
    proportions", 2005: it stays open when hardly any pair is discordant.
    """
    if treatment.shape != control.shape:
        raise ValueError(f"expected tables of the same shape, got {treatment.shape} and {control.shape}")
    table = np.asarray(treatment, float) - np.asarray(control, float)
    if table.shape[1] < 2:
        return None
    return _crossed(table, added=2 / table.shape[0])


def crossed_mean(values: Floats) -> Interval:
    """Mean of real values (S, N) of S seeds on the same N examples, with an interval over both seeds and examples."""
    table = np.asarray(values, float)
    if table.shape[1] < 2:
        return Interval(float(table.mean()) if table.size else float("nan"), float("-inf"), float("inf"))
    found = _crossed(table)
    half = found.reach()
    return Interval(found.centre, found.centre - half, found.centre + half)


def hierarchical_bootstrap(
    table: NDArray[np.bool_] | Floats, *, rng: np.random.Generator, draws: int = 2000, stretch: bool = True
) -> Interval:
    """Percentile interval of the mean of hits, or of paired differences (-1, 0, 1), in a table (S, N).

    A draw takes S seeds and, for all of them together, N examples with replacement (Owen, "The pigeonhole bootstrap",
    2007). Such draws spread too little: S seeds by a factor sqrt((S - 1) / S), and a normal tail instead of
    Student's. `stretch` moves them away from the mean until their standard deviation times 1.96 is the reach of
    `rate` and `difference` (in the manner of Hesterberg, "What teachers should know about the bootstrap", 2015), so
    that the draws add the shape only: then 93.5 to 96 % for three seeds or more (1,000 tables a cell), and 92 % for one
    seed, 100 examples and a rate of 0.9, where percentiles are not skewed enough.
    """
    values = np.asarray(table, float)
    seeds, examples = values.shape
    lowest = 0.0 if table.dtype == np.bool_ else -1.0
    if examples < 2:
        return Interval(float(values.mean()) if examples else float("nan"), lowest, 1.0)
    if (values == values[0, 0]).all():  # no draw differs: what the closed forms say
        return rate(values == 1) if lowest == 0 else difference(values == 1, values == -1)
    patterns, counts = np.unique(
        values, axis=1, return_counts=True
    )  # examples alike in all seeds are exchangeable
    value = float(values.mean())
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    columns = rng.multinomial(examples, counts / examples, size=draws) / examples
    drawn = (rows @ patterns * columns).sum(1) - value
    if stretch:
        drawn *= _crossed(values).reach() / (float(drawn.std()) * _quantile(ALPHA, np.inf))
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value, max(lowest, value + float(low)), min(1.0, value + float(high)))


def mean(values: Floats) -> Interval:
    """Mean of one number per seed, with Student's interval; unbounded for a single seed."""
    value = float(np.mean(values))
    if len(values) < 2:
        return Interval(value, float("-inf"), float("inf"))
    half = float(
        special.stdtrit(len(values) - 1, 0.5 + LEVEL / 2) * np.std(values, ddof=1) / len(values) ** 0.5
    )
    return Interval(value, value - half, value + half)


def squared_critical(alpha: float, *, share: float, seeds: int, examples: int) -> float:
    """Square of the two-sided critical value of a mean whose variance is, by estimate, the seeds' in a share.

    Cochran (1964) weights the squared quantiles of Student by the shares. With few seeds that is too wide between the
    ends (97.7 % for three), and the degrees of freedom of Satterthwaite (1946) too narrow (92.2 %): a small share may
    be an accident of few seeds. The polynomial was fitted to normal data: 94.6 to 95.7 % for three seeds or more,
    whatever the true share. It fades into Cochran's weight as alpha falls, since the same accident weighs more in a
    far tail; so the value falls with alpha, and can be inverted into a p-value.
    """
    by_examples = _quantile(alpha, examples - 1) ** 2
    if seeds == 1:
        return by_examples
    weight = share
    if 2 < seeds <= examples:
        fitted = min(share, share**2.5 * (1 + 1.5 * (1 - share)))
        trust = min(1.0, (alpha / ALPHA) ** 0.5)
        weight = trust * fitted + (1 - trust) * share
    return by_examples + (_quantile(alpha, seeds - 1) ** 2 - by_examples) * weight


@cache
def _quantile(alpha: float, freedom: float) -> float:
    """Two-sided critical value of Student."""
    return -float(special.stdtrit(freedom, alpha / 2))


def _score(p: float, k: float) -> Interval:
    """Wilson's interval of a proportion p; k: squared critical value / number of trials."""
    centre = (p + k / 2) / (1 + k)
    half = (k * p * (1 - p) + k * k / 4) ** 0.5 / (1 + k)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def _crossed(table: Floats, *, added: float = 0.0) -> Crossed:
    """Mean of a table (S, N >= 2) in [-1, 1] whose rows and columns are both random, and its variance.

    V(row means) / S holds the seeds' own part and the residual, V(column means) / N - residual / (S N) the examples'
    own part (Cornfield & Tukey 1956). added: examples of which one half is 1 and the other -1 in every seed.
    """
    seeds, examples = table.shape
    rows, columns = table.mean(1), table.mean(0)
    value = float(rows.mean())
    by_seeds, by_examples = 0.0, float(columns.var(ddof=1)) / examples
    if seeds > 1:
        by_seeds = float(rows.var(ddof=1)) / seeds
        left = float(np.square(table - rows[:, None] - columns + value).sum())
        by_examples -= left / ((seeds - 1) * (examples - 1)) / (seeds * examples)
        trials = (float(np.square(table).mean()) - value * value) / (seeds * examples)
        by_examples = max(by_examples, FLOOR * trials - by_seeds, 0.0)
    whole = examples + added
    by_seeds *= (examples / whole) ** 2
    by_examples = (by_examples * examples**2 + added * (1 + value * value * examples / whole)) / whole**2
    variance = by_seeds + by_examples
    share = by_seeds / variance if variance > 0 else 0.0
    return Crossed(value * examples / whole, variance, share, seeds, examples)
