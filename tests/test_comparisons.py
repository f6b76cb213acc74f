"""Paired tests against scipy, corrections by hand, ranks of rows whose order is known."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import binomtest

from deconfound.comparisons import Ranks, common, holm, mcnemar, paired_p, rankable
from deconfound.statistics import difference

Bools = NDArray[np.bool_]
vectors = st.integers(0, 30).flatmap(
    lambda size: st.tuples(hnp.arrays(np.bool_, size), hnp.arrays(np.bool_, size))
)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 20)).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)
p_lists = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8)


@given(vectors)
def test_mcnemar_is_a_fair_coin_over_the_discordant_pairs(pair: tuple[Bools, Bools]) -> None:
    won, lost = int((pair[0] & ~pair[1]).sum()), int((~pair[0] & pair[1]).sum())
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(*pair) == pytest.approx(expected) == pytest.approx(mcnemar(*pair[::-1]))


def test_mcnemar_by_hand_and_its_mid_p() -> None:
    treatment, control = np.array([True] * 7 + [False] + [True] * 5), np.array([False] * 7 + [True] * 6)
    assert mcnemar(treatment, control) == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar(treatment, control, mid=True) == pytest.approx((2 * (1 + 8) - 8) / 2**8)
    assert mcnemar(control, control) == mcnemar(control, control, mid=True) == 1
    assert mcnemar(np.array([True, False]), np.array([False, True]), mid=True) == pytest.approx(1)
    with pytest.raises(ValueError, match="one length"):
        mcnemar(treatment[None], control[None])


def agree(treatment: Bools, control: Bools) -> bool:
    found = difference(treatment, control)
    return (paired_p(treatment, control) < 0.05) == (found.low > 0 or found.high < 0)


@given(pairs)
def test_a_difference_is_significant_exactly_when_its_interval_excludes_zero(
    pair: tuple[Bools, Bools],
) -> None:
    assert agree(*pair)
    assert paired_p(*pair) == pytest.approx(paired_p(*pair[::-1]), abs=1e-9)
    assert 0 <= paired_p(*pair) <= 1


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_so_is_a_difference_near_the_edge(seeds: int) -> None:
    rng, found = np.random.default_rng(seeds), []
    for _ in range(300):
        control = rng.random((seeds, 60)) < rng.random()
        treatment = control ^ (rng.random((seeds, 60)) < 0.5 * rng.random() * np.where(control, 0.3, 1))
        assert agree(treatment, control)
        found.append(paired_p(treatment, control) < 0.05)
    assert 30 < sum(found) < 270


def test_p_values_of_the_same_difference_fall_with_more_examples_down_to_zero() -> None:
    pattern = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 1, 0]], bool)
    found = []
    for times in (10, 100, 1000, 100_000):
        treatment = np.tile(pattern, times)
        found.append(paired_p(treatment, np.zeros_like(treatment)))
    assert found == sorted(found, reverse=True) and found[0] < 0.05 and found[-1] == 0


def test_without_examples_there_is_no_p_value_and_one_example_or_equal_tables_show_nothing() -> None:
    assert math.isnan(paired_p(np.ones((3, 0), bool), np.ones((3, 0), bool)))
    assert paired_p(np.array([[True]]), np.array([[False]])) == 1
    table = np.random.default_rng(0).random((3, 50)) < 0.5
    assert paired_p(table, table) == 1


@pytest.mark.parametrize("seeds, torn", [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_equal_methods_differ_significantly_in_one_table_of_twenty(seeds: int, torn: float) -> None:
    rng, repeats, found = np.random.default_rng(7), 2000, 0
    for _ in range(repeats):
        easy = rng.random((1, 200))
        one, other = (
            rng.random((seeds, 200)) < easy + torn * rng.standard_normal((seeds, 1)) for _ in range(2)
        )
        found += paired_p(one, other) < 0.05
    assert 0.03 < found / repeats < 0.06  # standard error 0.005


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []
    assert holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)


@given(p_lists)
def test_holm_keeps_the_order_and_lies_between_the_plain_value_and_bonferroni(values: list[float]) -> None:
    adjusted, count = holm(values), sum(not math.isnan(p) for p in values)
    known = sorted((p, q) for p, q in zip(values, adjusted, strict=True) if not math.isnan(p))
    assert [q for _, q in known] == sorted(q for _, q in known)
    assert all(p <= q <= min(1, count * p) + 1e-12 for p, q in known)
    assert [math.isnan(p) for p in values] == [math.isnan(q) for q in adjusted]
    assert not known or known[0][1] == min(1, count * known[0][0])


def rows(**shares: float) -> Mapping[str, Mapping[int, Bools]]:
    """Three seeds of 400 hits, nearly the same in every seed."""
    grid = np.linspace(0, 1, 400)
    return {name: {seed: grid < share + 0.001 * seed for seed in range(3)} for name, share in shares.items()}


def test_rows_apart_have_one_place_and_rows_close_together_share_theirs() -> None:
    table = rows(low=0.2, one=0.6, other=0.601, high=0.9)
    expected = {"low": (4, 4), "one": (2, 3), "other": (2, 3), "high": (1, 1)}
    assert rankable(table) == expected
    assert rankable(table, higher_first=False) == {
        "low": (1, 1), "one": (2, 3), "other": (2, 3), "high": (4, 4),
    }  # fmt: skip
    assert [str(found) for found in rankable(table).values()] == ["4", "2-3", "2-3", "1"]


def test_a_difference_that_one_test_shows_may_be_none_among_many() -> None:
    draws = np.random.default_rng(0).random((12, 3, 300))
    many = {str(number): dict(enumerate(hits)) for number, hits in enumerate(draws < 0.5)}
    worse = {seed: hits.copy() for seed, hits in many["0"].items()}
    for hits in worse.values():
        hits[np.flatnonzero(hits)[:5]] = False
    p = paired_p(*(np.stack(list(row.values())) for row in (worse, many["0"])))
    assert 0.05 / 78 < p < 0.05  # 13 rows make 78 pairs
    assert rankable({"0": many["0"], "worse": worse}) == {"0": Ranks(1, 1), "worse": Ranks(2, 2)}
    assert rankable({**many, "worse": worse})["0"].worst == 13


def test_only_common_seeds_and_the_common_prefix_of_examples_are_compared() -> None:
    short = {1: np.array([True, False]), 2: np.array([True, True]), 9: np.array([False])}
    long = {2: np.array([False, True, True]), 1: np.array([True, True, False]), 3: np.array([True])}
    found = common(short, long)
    assert found is not None
    assert found[0].tolist() == [[True, False], [True, True]]
    assert found[1].tolist() == [[True, True], [False, True]]
    assert common({1: short[1]}, {2: short[1]}) is None


def test_rows_without_a_common_seed_cannot_be_ranked() -> None:
    apart = {"a": {1: np.ones(500, bool)}, "b": {2: np.zeros(500, bool)}}
    assert rankable(apart) == {"a": (1, 2), "b": (1, 2)}
    assert rankable({"a": {1: np.ones(500, bool)}}) == {"a": (1, 1)}
    assert rankable({}) == {}


def test_equal_rows_are_ranked_in_at_most_one_table_of_twenty() -> None:
    rng, repeats, wrong = np.random.default_rng(5), 600, 0
    for _ in range(repeats):
        easy = rng.random((1, 100))
        draws = rng.random((4, 3, 100)) < easy + 0.1 * rng.standard_normal((4, 3, 1))
        found = rankable({str(name): dict(enumerate(hits)) for name, hits in enumerate(draws)})
        wrong += any(ranks != (1, 4) for ranks in found.values())
    assert wrong / repeats <= 0.06  # standard error 0.009
