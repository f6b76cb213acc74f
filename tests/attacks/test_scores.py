"""Scores by hand, and what each of them ignores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.attacks.scores import SCORES, cross_entropy, dlr, kl, margin, targeted_dlr

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 1.0], [0.0, 3.0, 1.0, -2.0]])
Y = torch.tensor([0, 2])


def test_cross_entropy_is_minus_the_log_probability_of_the_label() -> None:
    expected = -LOGITS.softmax(1).log()[torch.arange(2), Y]
    assert torch.allclose(cross_entropy(LOGITS, Y), expected)


def test_the_margin_is_the_best_wrong_logit_minus_the_true_one() -> None:
    assert margin(LOGITS, Y).tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("name", sorted(SCORES))
@given(seed=st.integers(0, 2**32), classes=st.integers(2, 6))
def test_margin_like_scores_are_positive_exactly_when_the_model_errs(
    name: str, seed: int, classes: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, classes, generator=rng)
    y = torch.randint(classes, (20,), generator=rng)
    if name == "cross_entropy":
        assert (SCORES[name](logits, y) >= 0).all()
    else:
        assert torch.equal(SCORES[name](logits, y) > 0, logits.argmax(1) != y)


def test_dlr_divides_the_margin_by_the_distance_of_first_and_third_logit() -> None:
    assert torch.allclose(dlr(LOGITS, Y), torch.tensor([-1 / 1.5, 2 / 3.0]))


def test_targeted_dlr_divides_by_the_distance_of_the_first_to_the_mean_of_third_and_fourth() -> None:
    target = torch.tensor([1, 0])
    assert torch.allclose(targeted_dlr(LOGITS, Y, target), torch.tensor([-3 / 2.25, -1 / 4.0]))


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(4, 6), st.integers(0, 2**32))
def test_dlr_ignores_scale_and_shift_of_the_logits(
    scale: float, shift: float, classes: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, classes, generator=rng, dtype=torch.float64)
    y, target = torch.arange(9) % classes, (torch.arange(9) + 1) % classes
    moved = scale * logits + shift
    assert torch.allclose(dlr(moved, y), dlr(logits, y), rtol=1e-6)
    assert torch.allclose(targeted_dlr(moved, y, target), targeted_dlr(logits, y, target), rtol=1e-6)


def test_with_fewer_than_four_classes_dlr_falls_back_on_what_there_is() -> None:
    two, three = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 3.0, 0.0]])
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert dlr(two, zero).tolist() == [2.0] and targeted_dlr(two, one, zero).tolist() == [-2.0]
    assert dlr(three, zero).item() == pytest.approx(2 / 3)
    assert targeted_dlr(three, one, zero).item() == -2.0


def test_equal_logits_give_a_finite_dlr() -> None:
    flat = torch.zeros(1, 5, requires_grad=True)
    score = dlr(flat, torch.tensor([1]))
    score.backward()
    assert score.isfinite() and flat.grad is not None and flat.grad.isfinite().all()


def test_kl_is_the_mean_difference_of_log_probabilities_and_zero_only_between_equals() -> None:
    p, q = LOGITS[:1], LOGITS[1:]
    expected = (p.softmax(1) * (p.softmax(1) / q.softmax(1)).log()).sum()
    assert kl(p, q).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl(p, p + 3).item() == pytest.approx(0, abs=1e-6)
