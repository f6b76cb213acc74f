"""Intervals against published numbers, closed forms and simulations with a known truth."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.stats import binom, binomtest, chi2, norm, t

from deconfound.rng import numpy_generator
from deconfound.statistics import (
    ALPHA,
    Interval,
    clopper_pearson,
    difference,
    hierarchical_bootstrap,
    mean,
    paired_mean,
    rate,
    squared_critical,
    wilson,
)

Z = 1.959963984540054
counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
tables = hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 20)))
pairs = st.tuples(st.integers(1, 4), st.integers(1, 20)).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


@pytest.mark.parametrize(
    "hits, total, low, high",
    [  # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(hits: int, total: int, low: float, high: float) -> None:
    found = wilson(hits, total)
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (hits / total, low, high)


@given(counts)
def test_the_ends_of_wilson_are_where_a_score_test_just_rejects(count: tuple[int, int]) -> None:
    hits, total = count
    p, low, high = wilson(hits, total)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(p - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / total), rel=1e-6)
    assert (low == 0) == (hits == 0) or low < 1e-12
    assert (high == 1) == (hits == total) or high > 1 - 1e-12


@given(counts)
def test_wilson_lies_in_the_unit_interval_contains_the_estimate_and_is_symmetric(
    count: tuple[int, int],
) -> None:
    hits, total = count
    p, low, high = wilson(hits, total)
    assert 0 <= low <= p <= high <= 1 or (p in (0, 1) and abs(p - (low if p == 0 else high)) < 1e-12)
    other = wilson(total - hits, total)
    assert (other.low, other.high) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counts, st.integers(2, 9))
def test_wilson_shrinks_with_more_trials_and_grows_with_the_level(count: tuple[int, int], times: int) -> None:
    hits, total = count
    few, many = wilson(hits, total), wilson(hits * times, total * times)
    assert few.low <= many.low + 1e-12 and many.high <= few.high + 1e-12
    assert many.high - many.low < few.high - few.low
    sure = wilson(hits, total, level=0.99)
    assert sure.low <= few.low + 1e-12 and few.high <= sure.high + 1e-12


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_and_clopper_pearson_are_those_of_scipy(count: tuple[int, int], level: float) -> None:
    hits, total = count
    test = binomtest(hits, total)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(level, method)
        assert ours(hits, total, level=level) == pytest.approx(
            (hits / total, theirs.low, theirs.high), abs=1e-9
        )


@pytest.mark.parametrize(
    "hits, total, low, high",
    [  # Newcombe 1998, Table I, method 5
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0000, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_pearson_agrees_with_published_intervals(
    hits: int, total: int, low: float, high: float
) -> None:
    found = clopper_pearson(hits, total)
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (hits / total, low, high)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_without_trials_nothing_is_known(interval: Callable[[int, int], Interval]) -> None:
    found = interval(0, 0)
    assert math.isnan(found.value) and (found.low, found.high) == (0, 1)


@given(tables)
def test_a_rate_is_the_mean_of_its_table_inside_an_interval_inside_the_unit_interval(
    table: NDArray[np.bool_],
) -> None:
    found = rate(table)
    assert found.value == pytest.approx(table.mean())
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1
    assert rate(~table) == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low), abs=1e-9)


@given(tables, st.integers(0, 99))
def test_a_rate_does_not_depend_on_the_order_of_seeds_and_examples(
    table: NDArray[np.bool_], draw: int
) -> None:
    rows, columns = (np.random.default_rng(draw).permutation(n) for n in table.shape)
    assert rate(table[rows][:, columns]) == pytest.approx(rate(table))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("hits", [0, 1, 20, 50])
def test_a_rate_on_which_all_seeds_agree_is_as_unsure_as_its_examples(seeds: int, hits: int) -> None:
    found = rate(np.tile(np.arange(50) < hits, (seeds, 1)))
    assert found == clopper_pearson(hits, 50), "more seeds do not add examples"


def test_one_example_tells_next_to_nothing_and_none_tells_nothing() -> None:
    assert rate(np.array([[True]])) == pytest.approx((1, 0.025, 1))
    assert rate(np.array([[True], [False], [True]])) == pytest.approx((2 / 3, 0, 1))
    found = rate(np.ones((3, 0), bool))
    assert math.isnan(found.value) and (found.low, found.high) == (0, 1)


SMALL = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
# By hand: variance of its row means / 2 = 1/64, of its column means / 4 = 11/192, residual / 8 = 1/64.
SEEDS, EXAMPLES = 1 / 64, 11 / 192 - 1 / 64
T1, T3 = t.ppf(0.975, 1), t.ppf(0.975, 3)


def test_a_rate_adds_the_variances_of_seeds_and_examples_and_tests_the_score() -> None:
    value, low, high = rate(SMALL)
    assert value == 3 / 8 and 0 < low < value < high < 1
    for end in (low, high):  # with two seeds the squared quantiles are weighted as Cochran does
        scaled = (T1**2 * SEEDS + T3**2 * EXAMPLES) * end * (1 - end) / (3 / 8 * 5 / 8)
        assert (value - end) ** 2 == pytest.approx(scaled)


def test_a_rate_whose_seed_means_agree_by_accident_keeps_some_variance() -> None:
    table = np.array([[True, False], [False, True]])
    found = rate(table)  # neither rows nor columns vary: a quarter of four trials' variance is left
    k = t.ppf(0.975, 1) ** 2 / 4 / 4
    assert (found.value - found.low) ** 2 == pytest.approx(k * found.low * (1 - found.low))


def test_more_spread_between_seeds_widens_a_rate_of_the_same_mean() -> None:
    steady = np.tile(np.arange(100) % 2 == 0, (4, 1))
    torn = np.array([np.arange(100) < n for n in (20, 40, 60, 80)])
    assert rate(torn).value == rate(steady).value == 0.5
    assert rate(torn).high - rate(torn).low > 2 * (rate(steady).high - rate(steady).low)


def test_one_seed_has_the_interval_of_agresti_and_min() -> None:
    table = np.arange(40)[None] < 10
    found = difference(table, np.zeros_like(table))
    # 11 and 1 among 42; the variance of the 40 is taken with 39 degrees of freedom, and so is the quantile.
    centre, square = 10 / 42, 40 * (3 / 16) * (40 / 39) + 2 + 10**2 / 40 - 10**2 / 42
    half = t.ppf(0.975, 39) * math.sqrt(square) / 42
    assert found == pytest.approx((1 / 4, centre - half, centre + half))
    assert found.low == pytest.approx(centre - Z * math.sqrt(12 / 42 - centre**2) / math.sqrt(42), abs=0.01)


def test_when_all_seeds_agree_only_the_examples_count() -> None:
    one = np.arange(4000)[None] < 1000
    many = np.tile(one, (5, 1))
    assert difference(many, np.zeros_like(many)) == pytest.approx(
        difference(one, np.zeros_like(one)), abs=4e-4
    )


def test_when_all_examples_agree_a_difference_has_the_interval_of_its_seeds() -> None:
    table = np.repeat([[True], [False], [True], [True], [False], [True]], 3000, axis=1)  # (2/3)(1/3)(6/5)
    found = difference(table, np.zeros_like(table))
    half = t.ppf(0.975, 5) * math.sqrt(2 / 9 / 5)
    assert found == pytest.approx((2 / 3, 2 / 3 - half, min(1, 2 / 3 + half)), abs=1e-3)


def test_a_difference_adds_the_variances_of_seeds_and_examples() -> None:
    found = paired_mean(SMALL, np.zeros_like(SMALL))
    assert found is not None  # two trials more among eight are one example among four
    seeds = SEEDS * (4 / 5) ** 2
    examples = (16 * EXAMPLES + 1 + (3 / 8) ** 2 * 4 / 5) / 25
    assert found.centre == pytest.approx(3 / 10)
    assert found.variance == pytest.approx(seeds + examples)
    assert found.reach() == pytest.approx(math.sqrt(T1**2 * seeds + T3**2 * examples))


@given(pairs)
def test_a_difference_is_between_its_bounds_and_turns_its_sign(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    found, turned = difference(*pair), difference(*pair[::-1])
    assert found.value == pytest.approx(pair[0].mean() - pair[1].mean())
    assert -1 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1
    assert turned == pytest.approx((-found.value, -found.high, -found.low))


def test_equal_tables_differ_by_nothing_within_a_narrow_interval() -> None:
    table = np.random.default_rng(0).random((3, 400)) < 0.7
    value, low, high = difference(table, table)
    assert value == 0 and low < 0 < high
    # Two trials among 1,202, two thirds of an example among 400.67.
    assert high == -low == pytest.approx(t.ppf(0.975, 399) * math.sqrt(2 / 3) / (400 + 2 / 3))


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    both = np.array([hard < 0.5 + 0.001 * seed for seed in range(3)])
    better = np.array([hard < 0.6 + 0.001 * seed for seed in range(3)])
    paired, one, other = difference(better, both), rate(better), rate(both)
    assert paired.low > 0.05
    assert paired.high - paired.low < (one.high - one.low + other.high - other.low) / 1.5


def test_one_example_says_nothing_of_a_difference_and_shapes_must_agree() -> None:
    assert difference(np.array([[True]]), np.array([[False]])) == (1, -1, 1)
    nothing = difference(np.ones((2, 0), bool), np.ones((2, 0), bool))
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (-1, 1)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        difference(np.ones((2, 3), bool), np.ones((3, 2), bool))


@given(tables, st.integers(0, 9))
def test_a_bootstrap_contains_the_mean_and_is_repeated_by_its_generator(
    table: NDArray[np.bool_], seed: int
) -> None:
    one, other = (
        hierarchical_bootstrap(table, rng=numpy_generator(seed, "test"), draws=50) for _ in range(2)
    )
    assert one == other
    assert one.value == pytest.approx(table.mean())
    assert 0 <= one.low <= one.value + 0.2 and one.value - 0.2 <= one.high <= 1


def test_a_bootstrap_takes_the_same_examples_for_every_seed() -> None:
    one = np.arange(400)[None] < 100
    found = [
        hierarchical_bootstrap(table, rng=numpy_generator(0, "test"), stretch=False)
        for table in (one, np.tile(one, (5, 1)))
    ]
    half = Z * math.sqrt(1 / 4 * 3 / 4 / 400)  # copies of a seed add nothing
    for interval in found:
        assert interval == pytest.approx((1 / 4, 1 / 4 - half, 1 / 4 + half), abs=0.004)


def test_a_bootstrap_takes_whole_seeds() -> None:
    table = np.repeat(np.arange(8)[:, None] < 4, 100, axis=1)
    plain = hierarchical_bootstrap(table, rng=numpy_generator(0, "test"), stretch=False)
    assert plain == pytest.approx(
        (1 / 2, 1 / 8, 7 / 8), abs=1e-9
    )  # of 8 fair coins 1 and 7 are the quantiles
    stretched = hierarchical_bootstrap(table, rng=numpy_generator(0, "test"))
    factor = t.ppf(0.975, 7) / Z * math.sqrt(8 / 7)
    assert stretched.low == pytest.approx(max(0, 1 / 2 - 3 / 8 * factor), abs=0.02)


def test_a_bootstrap_without_variation_falls_back_and_one_example_says_nothing() -> None:
    rng, ones = numpy_generator(0, "test"), np.ones((3, 9), bool)
    assert hierarchical_bootstrap(ones, rng=rng) == rate(ones)
    assert hierarchical_bootstrap(~ones, rng=rng) == rate(~ones)
    assert hierarchical_bootstrap(ones - 1.0, rng=rng) == difference(ones, ones)
    assert hierarchical_bootstrap(-1.0 * ones, rng=rng) == difference(~ones, ones)
    assert hierarchical_bootstrap(np.ones((3, 1), bool), rng=rng) == (1, 0, 1)
    assert hierarchical_bootstrap(np.ones((3, 1)), rng=rng) == (1, -1, 1)
    nothing = hierarchical_bootstrap(np.ones((3, 0), bool), rng=rng)
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (0, 1)


def test_a_mean_has_the_interval_of_student() -> None:
    # Three numbers: t with 2 degrees of freedom is 4.302653, the standard error 1 / sqrt(3).
    assert mean(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert mean(np.array([5.0, 5.0])) == (5, 5, 5)
    assert mean(np.array([5.0])) == (5, -math.inf, math.inf)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(-10, 10), st.floats(-10, 10))
def test_a_mean_moves_with_its_numbers(values: list[float], shift: float, scale: float) -> None:
    one, other = mean(np.array(values)), mean(np.array(values) * scale + shift)
    ends = sorted((one.low * scale + shift, one.high * scale + shift))
    assert (other.low, other.high) == pytest.approx(ends, abs=1e-6)


SHARES = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1])


def misses(alpha: float, *, share: float, seeds: int) -> float:
    """How often a normal mean lies outside: its variance is 1, the seeds' share of it estimated from S - 1 squares.

    By the midpoint rule over 1,000 quantiles of that estimate; the examples' share is known (10^6 examples).
    """
    estimates = share * chi2.ppf((np.arange(1000) + 0.5) / 1000, seeds - 1) / (seeds - 1)
    total = estimates + 1 - share
    squares = [
        squared_critical(alpha, share=float(part), seeds=seeds, examples=10**6) for part in estimates / total
    ]
    return float(2 * norm.sf(np.sqrt(np.array(squares) * total)).mean())


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20])
def test_critical_values_hold_their_level_whatever_the_share_of_the_seeds(seeds: int) -> None:
    found = [misses(ALPHA, share=float(share), seeds=seeds) for share in SHARES]
    assert max(found) < 0.054
    assert min(found) > (0.043 if seeds > 2 else 0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("alpha", [0.01, 0.05 / 15, 0.001])
def test_critical_values_of_a_far_tail_are_not_too_small(seeds: int, alpha: float) -> None:
    """Holm's correction looks there."""
    assert max(misses(alpha, share=float(share), seeds=seeds) for share in SHARES) < 1.08 * alpha


@given(st.floats(0, 1), st.integers(1, 12), st.integers(2, 50), st.floats(1e-9, 1), st.floats(1e-9, 1))
def test_a_critical_value_falls_as_the_level_of_the_test_rises(
    share: float, seeds: int, examples: int, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    of_low, of_high = (squared_critical(a, share=share, seeds=seeds, examples=examples) for a in (low, high))
    assert of_low >= of_high - 1e-9 >= -1e-9


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("total", [20, 100, 500])
def test_a_rate_of_one_seed_holds_the_truth_at_least_as_often_as_it_says(total: int, p: float) -> None:
    """Exact: every possible number of hits, weighted by its chance."""
    found = [rate(np.arange(total)[None] < hits) for hits in range(total + 1)]
    held = sum(binom.pmf(hits, total, p) for hits, interval in enumerate(found) if covers(interval, p))
    assert 0.95 <= held <= 0.99


HARD, OWN = (
    2.0,
    0.5,
)  # standard deviations on the logit scale: of an example's difficulty, and for one method alone
GRID, WEIGHT = np.polynomial.hermite_e.hermegauss(80)


def expected(level: float, spread: float) -> float:
    """Mean of the logistic function of a normal variable."""
    return float(WEIGHT @ special.expit(level + spread * GRID) / WEIGHT.sum())


def level_of(p: float, spread: float) -> float:
    return float(optimize.brentq(lambda level: expected(level, spread) - p, -30, 30))


def worlds(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    level: float,
    torn: float,
    example: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Hits (R, S, N) of R tables: logit = level + seed + example."""
    logit = level + torn * rng.standard_normal((*shape[:2], 1), np.float32) + example
    made: NDArray[np.bool_] = rng.random(shape, np.float32) < special.expit(logit)
    return made


REPEATS = 6000  # the standard error of a coverage of 95 % is 0.28 %
CELLS = [  # seeds, examples, rate, standard deviation between seeds (logit)
    (3, 100, 0.1, 0.2),
    (3, 500, 0.5, 0.0),
    (3, 500, 0.5, 0.5),
    (3, 2000, 0.9, 0.2),
    (5, 100, 0.5, 0.5),
    (5, 500, 0.9, 0.2),
    (10, 100, 0.5, 0.0),
    (10, 500, 0.9, 0.5),
]


@pytest.mark.slow
@pytest.mark.parametrize("seeds, examples, p, torn", CELLS)
def test_rates_hold_the_truth_in_95_percent_of_tables_plus_minus_1(
    seeds: int, examples: int, p: float, torn: float
) -> None:
    rng, shape = np.random.default_rng([1, seeds, examples]), (100, seeds, examples)
    level, held = level_of(p, math.hypot(torn, HARD)), 0
    for _ in range(REPEATS // 100):
        example = HARD * rng.standard_normal((100, 1, examples), np.float32)
        held += sum(covers(rate(table), p) for table in worlds(rng, shape, level, torn, example))
    print(f"{seeds} seeds, {examples} examples, {p}, {torn}: {held / REPEATS:.4f}")
    assert abs(held / REPEATS - 0.95) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seeds, examples, p, torn", [cell for cell in CELLS if cell[1] > 100])
@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_differences_hold_the_truth_in_95_percent_of_tables_plus_minus_1(
    seeds: int, examples: int, p: float, torn: float, gain: float
) -> None:
    rng, shape = np.random.default_rng([2, seeds, examples]), (100, seeds, examples)
    spread = math.hypot(torn, HARD, OWN)
    level, held = level_of(p, spread), 0
    truth = expected(level + gain, spread) - p
    for _ in range(REPEATS // 100):
        example = HARD * rng.standard_normal((100, 1, examples), np.float32)
        sides = []
        for shift in (gain, 0.0):
            own = example + OWN * rng.standard_normal((100, 1, examples), np.float32)
            sides.append(worlds(rng, shape, level + shift, torn, own))
        held += sum(covers(difference(*pair), truth) for pair in zip(*sides, strict=True))
    print(f"{seeds} seeds, {examples} examples, {p}, {torn}, {gain}: {held / REPEATS:.4f}")
    assert abs(held / REPEATS - 0.95) <= 0.01


@pytest.mark.slow
def test_a_stretched_bootstrap_holds_the_truth_with_three_seeds_where_a_plain_one_does_not() -> None:
    rng, shape, repeats, torn = np.random.default_rng(3), (100, 3, 500), 1000, 0.5
    level, held = level_of(0.5, math.hypot(torn, HARD)), {True: 0, False: 0}
    for _ in range(repeats // 100):
        example = HARD * rng.standard_normal((100, 1, 500), np.float32)
        for table in worlds(rng, shape, level, torn, example):
            for stretch in (True, False):
                found = hierarchical_bootstrap(table, rng=rng, draws=200, stretch=stretch)
                held[stretch] += covers(found, 0.5)
    print(f"{held[True] / repeats:.3f} stretched, {held[False] / repeats:.3f} plain")
    assert abs(held[True] / repeats - 0.95) <= 0.02  # standard error 0.007
    assert held[False] / repeats < 0.88


def test_an_interval_inside_its_ends_is_cut_there_and_what_is_missing_stays_missing() -> None:
    assert (
        Interval(0.9, 0.7, 1.1).inside(0, 1) == (0.9, 0.7, 1)
        and Interval(0.1, -0.1, 0.3).inside(0, 1).low == 0
    )
    none = Interval(math.nan, math.nan, math.nan).inside(0, 1)
    assert all(math.isnan(end) for end in none)
