"""Splits are exact in their proportions, the same for the same seed, and blind to what they must not see."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconfound.data.splits import balanced, cut_val, limit, proportional, stratified, take
from deconfound.errors import DataError
from deconfound.types import Images, Split

labels = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda y: torch.tensor(y))
seeds = st.integers(0, 2**31)


def numbered(y: torch.Tensor) -> Split:
    """A split whose only pixel and whose ground truth are the position of the example."""
    position = torch.arange(len(y))
    return Split(Images(position.to(torch.uint8)[:, None, None, None], y), {"position": position.numpy()})


def test_largest_remainder_gives_the_seats_of_a_worked_example() -> None:
    # shares of 10 seats among 43, 39, 18 of 100: 4.3, 3.9, 1.8; the two left-over seats go to .9 and .8
    assert proportional(np.array([43, 39, 18]), 10).tolist() == [4, 4, 2]
    assert proportional(np.array([1, 1, 1, 1]), 2).tolist() == [1, 1, 0, 0]


def test_a_balanced_slice_fills_small_classes_and_shares_the_rest() -> None:
    assert balanced(np.array([1, 10, 10]), 5).tolist() == [1, 2, 2]
    assert balanced(np.array([1, 10, 10]), 6).tolist() == [1, 3, 2]
    assert balanced(np.array([4, 0, 4]), 8).tolist() == [4, 0, 4]


@settings(deadline=None)
@given(labels, st.floats(0, 1), seeds)
def test_stratified_parts_the_indices_with_every_class_within_one_of_its_share(
    y: torch.Tensor, fraction: float, seed: int
) -> None:
    kept, held = stratified(y, fraction, seed=seed, purpose="any")

    assert sorted(kept.tolist() + held.tolist()) == list(range(len(y)))
    assert kept.tolist() == sorted(kept.tolist()) and held.tolist() == sorted(held.tolist())
    assert len(held) == round(fraction * len(y))
    for label in set(y.tolist()):
        share = Fraction(len(held) * int((y == label).sum()), len(y))
        assert abs(int((y[held] == label).sum()) - share) < 1


@settings(deadline=None)
@given(labels, seeds, st.data())
def test_a_count_of_examples_is_held_exactly(y: torch.Tensor, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(y)))
    kept, held = stratified(y, count, seed=seed, purpose="any")
    assert (len(kept), len(held)) == (len(y) - count, count)


@settings(deadline=None)
@given(labels, st.integers(0, 100), seeds)
def test_a_slice_has_no_class_that_could_take_from_a_larger_one(
    y: torch.Tensor, count: int, seed: int
) -> None:
    part = limit(numbered(y), count, seed)
    sizes = torch.bincount(y, minlength=7)
    chosen = torch.bincount(part.images.y, minlength=7)

    assert int(chosen.sum()) == min(count, len(y))
    for label in range(7):
        if chosen[label] < sizes[label]:  # not exhausted: nobody has two more
            assert chosen.max() <= chosen[label] + 1


@settings(deadline=None)
@given(labels, st.integers(0, 80), seeds)
def test_a_larger_slice_contains_the_smaller_one(y: torch.Tensor, count: int, seed: int) -> None:
    smaller, larger = (limit(numbered(y), n, seed).extra["position"].tolist() for n in (count, count + 1))
    assert set(smaller) <= set(larger)
    assert larger == sorted(larger)


def test_the_same_seed_and_purpose_draw_the_same_and_others_draw_otherwise() -> None:
    y = torch.arange(400) % 4

    def held(seed: int, purpose: str) -> list[int]:
        found: list[int] = stratified(y, 0.25, seed=seed, purpose=purpose)[1].tolist()
        return found

    assert held(1, "val") == held(1, "val")
    assert held(1, "val") != held(2, "val")
    assert held(1, "val") != held(1, "test")


def test_the_draw_within_a_class_does_not_depend_on_other_classes() -> None:
    y = torch.arange(100) % 2
    more = torch.cat([y, torch.full((50,), 2)])
    held = stratified(y, 0.2, seed=3, purpose="val")[1]
    among_more = stratified(more, 0.2, seed=3, purpose="val")[1]
    assert among_more[among_more < 100].tolist() == held.tolist()


def test_val_is_cut_with_its_pixels_labels_and_ground_truth_together() -> None:
    whole = numbered(torch.arange(60) % 3)
    train, val = cut_val(whole, 0.1, seed=0)

    assert torch.bincount(val.images.y).tolist() == [2, 2, 2]
    for part in (train, val):
        position = torch.from_numpy(part.extra["position"])
        assert torch.equal(part.images.x.flatten(), position.to(torch.uint8))
        assert torch.equal(part.images.y, position % 3)
    assert len(train.images.y) == 54 and whole.images.x.shape == (60, 1, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "fraction", "words"),
    [((50, 50), 0.001, "empty val"), ((40, 1), 0.98, r"classes \[1\] in train"), ((3, 3), 1.0, r"\[0, 1\]")],
)
def test_a_val_split_that_would_empty_something_is_refused(
    sizes: tuple[int, int], fraction: float, words: str
) -> None:
    y = torch.repeat_interleave(torch.arange(2), torch.tensor(sizes))
    with pytest.raises(DataError, match=words):
        cut_val(numbered(y), fraction, seed=0)


def test_a_count_beyond_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        stratified(torch.zeros(3, dtype=torch.long), 4, seed=0, purpose="any")


def test_no_limit_and_a_high_limit_leave_the_split_alone() -> None:
    whole = numbered(torch.arange(6) % 2)
    assert limit(whole, None, 0) is whole
    assert limit(whole, 6, 0) is whole


def test_take_keeps_the_order_of_the_indices() -> None:
    part = take(numbered(torch.arange(5)), torch.tensor([4, 0, 2]))
    assert part.images.y.tolist() == part.extra["position"].tolist() == [4, 0, 2]
