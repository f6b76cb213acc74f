"""Intervals against published numbers, closed forms and simulations with a known truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import norm, t

from deconfound.statistics import Interval, difference, mean, rate, wilson

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


def test_without_trials_nothing_is_known() -> None:
    found = wilson(0, 0)
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
@pytest.mark.parametrize("hit", [True, False])
def test_a_rate_without_any_variation_is_as_unsure_as_its_examples(seeds: int, hit: bool) -> None:
    found = rate(np.full((seeds, 50), hit))
    edge = Z**2 / (50 + Z**2)  # Wilson's interval of 0 out of 50; more seeds do not add examples
    assert found == pytest.approx((1, 1 - edge, 1) if hit else (0, 0, edge))


def test_one_example_tells_nothing_and_one_seed_counts_only_its_examples() -> None:
    assert rate(np.array([[True]])) == (1, 0, 1)
    assert rate(np.array([[True], [False], [True]])) == pytest.approx((2 / 3, 0, 1))
    one = rate(np.array([[True, False, True, True, False, True]]))
    half = t.ppf(0.975, 5) * math.sqrt((2 / 3) * (1 / 3) / 5)
    assert one.low == pytest.approx(2 / 3 - half) and one.high == 1


def test_more_spread_between_seeds_widens_a_rate_of_the_same_mean() -> None:
    steady = np.tile(np.arange(100) % 2 == 0, (4, 1))
    torn = np.array([np.arange(100) < n for n in (20, 40, 60, 80)])
    assert rate(torn).value == rate(steady).value == 0.5
    assert rate(torn).high - rate(torn).low > 2 * (rate(steady).high - rate(steady).low)


def test_when_all_seeds_agree_only_the_examples_count() -> None:
    table = np.tile(np.arange(40) < 10, (4, 1))
    # A rate: the variance of 40 values, a quarter of them 1, is (1/4)(3/4)(40/39); Wilson's low end is higher.
    assert rate(table).low == pytest.approx(1 / 4 - t.ppf(0.975, 39) * math.sqrt(3 / 16 / 39))
    # A difference: Agresti and Min add one pair each way, so 11 and 1 among 42 differ.
    half = Z * math.sqrt((12 / 42 - (10 / 42) ** 2) / 42)
    assert difference(table, np.zeros_like(table)) == pytest.approx((1 / 4, 1 / 4 - half, 1 / 4 + half))


def test_when_all_examples_agree_a_difference_has_the_interval_of_its_seeds() -> None:
    table = np.repeat(
        [[True], [False], [True], [True], [False], [True]], 30, axis=1
    )  # as above: (2/3)(1/3)(6/5)
    found = difference(table, np.zeros_like(table))
    half = t.ppf(0.975, 5) * math.sqrt(2 / 9 / 5)
    assert found == pytest.approx((2 / 3, 2 / 3 - half, min(1, 2 / 3 + half)))


def test_a_difference_has_the_variance_of_seeds_and_of_examples_and_no_more() -> None:
    table = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    # By hand: variance of the column means / 4 = 11/192, of the row means / 2 = 1/64, residual / 8 = 1/64.
    columns, rows, residual = 11 / 192, 1 / 64, 1 / 64
    least = 3 / 8 - Z * math.sqrt(columns + rows - residual)  # were the variances known
    most = 3 / 8 - math.sqrt(t.ppf(0.975, 1) ** 2 * rows + t.ppf(0.975, 3) ** 2 * columns)  # nothing shared
    assert max(-1, most) <= difference(table, np.zeros_like(table)).low <= least


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
    # Two discordant pairs among 402: a standard error of sqrt(2 / 402) / sqrt(402).
    assert high == -low == pytest.approx(Z * math.sqrt(2) / 402)


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
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        difference(np.ones((2, 3), bool), np.ones((3, 2), bool))


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


REPEATS = 400
WORLDS = [  # level of the task, standard deviation between seeds, between examples (probit scale)
    (0.0, 0.0, 1.0),
    (0.0, 0.1, 1.0),
    (0.0, 0.3, 1.0),
    (1.5, 0.1, 1.0),
    (1.5, 0.3, 2.0),
]


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("level, between_seeds, between_examples", WORLDS)
def test_intervals_contain_the_truth_as_often_as_they_say_when_seeds_and_examples_are_random(
    seeds: int, level: float, between_seeds: float, between_examples: float
) -> None:
    """A hit is level + seed + example + noise > 0, all normal: the truth is a value of the normal distribution.

    95 % is promised and at least 93 % is asked for in 400 tables (standard error 1.1 %); more is no fault.
    """
    rng = np.random.default_rng(20)
    size, gain = 500, 0.5

    def truth(shift: float) -> float:
        return float(norm.cdf((level + shift) / math.sqrt(1 + between_seeds**2 + between_examples**2)))

    def hits(shift: float, example: NDArray[np.float64]) -> NDArray[np.bool_]:
        seed = between_seeds * rng.standard_normal((seeds, 1))
        made: NDArray[np.bool_] = level + shift + seed + example + rng.standard_normal((seeds, size)) > 0
        return made

    in_rate = in_difference = 0
    for _ in range(REPEATS):
        example = between_examples * rng.standard_normal((1, size))
        control, treatment = hits(0.0, example), hits(gain, example)
        in_rate += covers(rate(control), truth(0.0))
        in_difference += covers(difference(treatment, control), truth(gain) - truth(0.0))
    shares = f"rate {in_rate / REPEATS:.3f}, difference {in_difference / REPEATS:.3f}"
    print(f"{seeds} seeds, {level}, {between_seeds}, {between_examples}: {shares}")
    assert in_rate / REPEATS >= 0.93
    assert in_difference / REPEATS >= 0.93
