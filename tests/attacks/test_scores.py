"""Scores that attacks climb, from logits drawn by hand."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.attacks.scores import SCORES, cross_entropy, margin

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0], [5.0, 4.0, 4.5]])


def test_the_margin_is_the_best_wrong_logit_minus_the_true_one() -> None:
    assert margin(LOGITS, torch.tensor([0, 0, 2])).tolist() == [-2.0, 3.0, 0.5]


@given(st.integers(0, 2**32), st.integers(2, 12))
def test_the_margin_is_positive_exactly_when_the_model_errs(seed: int, classes: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, classes, generator=rng, dtype=torch.float64)  # ties have probability zero
    y = torch.randint(classes, (20,), generator=rng)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_the_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    loss = cross_entropy(torch.zeros(4, 8), torch.arange(4))
    assert loss.shape == (4,) and torch.allclose(loss, torch.full((4,), math.log(8)))


def test_every_score_gives_one_number_per_image_and_pushes_the_true_logit_down() -> None:
    y = torch.tensor([0, 1, 2])
    for score in SCORES.values():
        logits = LOGITS.clone().requires_grad_()
        value = score(logits, y)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.shape == (3,)
        assert (gradient[torch.arange(3), y] < 0).all()
        assert torch.allclose(gradient.sum(1), torch.zeros(3), atol=1e-6)
