"""Pictures for units whose best picture is known."""

import pytest
import torch
from torch import Tensor, nn

from deconfound.interpretations.portraits import Portrait, total_variation
from deconfound.models.classifier import Classifier
from deconfound.rng import generator

SIGNS = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]])


def network(weight: Tensor, bias: float = 0.0) -> Classifier:
    """Units are linear in the four pixels of a picture (1, 1, 2, 2), behind a ReLU."""
    linear = nn.Linear(4, len(weight))
    linear.weight.data, linear.bias.data = weight.clone(), torch.full((len(weight),), bias)
    body = nn.Sequential(nn.Flatten(), linear, nn.ReLU())
    return Classifier(body, nn.Linear(len(weight), 2), channels=1).eval()


def drawn(portrait: Portrait, model: Classifier, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = model.head.in_features
    largest, given = torch.full((count,), 0.5), others or (torch.zeros(count, 1, 2, 2),)
    return portrait(model, "body", torch.arange(count), largest, given, rng=generator(0, "test"))


def test_a_linear_unit_gets_white_where_it_looks_and_black_where_it_looks_away() -> None:
    model = network(SIGNS)
    model.mean.fill_(0.5)
    model.std.fill_(0.5)  # logits of (x - 0.5) / 0.5
    picture, reached, began = drawn(Portrait(steps=100, tv=0, jitter=0), model)
    assert torch.allclose(picture.flatten(1), (SIGNS > 0).float(), atol=1e-5)
    assert torch.allclose(reached, torch.full((2,), 4 / 0.5), atol=1e-4)
    assert set(began.tolist()) <= {0, -1}


def test_a_heavy_penalty_makes_the_picture_flat() -> None:
    model = network(SIGNS, bias=5.0)
    rough = drawn(Portrait(tv=0, jitter=0, steps=40), model)[0]
    flat = drawn(Portrait(tv=100, jitter=0, steps=40, step_size=0.005), model)[0]
    assert (total_variation(flat) < 0.05).all() and (total_variation(rough) > 0.49).all()


def test_total_variation_is_the_sum_of_neighbours_over_the_pixels() -> None:
    z = torch.tensor([[[[0.0, 1.0], [0.5, 1.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    # Across: 1 and 0.5; down: 0.5 and 0.
    assert total_variation(z).tolist() == pytest.approx([2 / 4, 0])


def test_a_unit_that_sleeps_at_noise_begins_at_a_picture_that_wakes_it() -> None:
    model = network(torch.ones(1, 4), bias=-2.0)  # active above a mean of a half; noise is dark
    half, white = torch.full((1, 1, 2, 2), 0.4), torch.ones(1, 1, 2, 2)
    portrait = Portrait(steps=3, jitter=0)
    picture, reached, began = drawn(portrait, model, half, white)
    assert began.tolist() == [2] and (picture == 1).all() and reached.item() == pytest.approx((4 - 2) / 0.5)
    assert drawn(portrait, model, white, half)[2].tolist() == [1]
    _, reached, began = drawn(portrait, model, half, half)
    assert began.tolist() == [-1] and reached.tolist() == [0]
    model.mean.fill_(0.9)
    model.body[1].bias.data.fill_(1.0)
    assert drawn(portrait, model, half, white)[2].tolist() == [0]


def test_a_unit_that_is_never_positive_counts_nothing() -> None:
    model = network(-torch.ones(1, 4))
    units = (torch.tensor([0]), torch.tensor([-1.0]), [torch.ones(1, 1, 2, 2)])
    _, reached, began = Portrait(steps=2)(model, "body", *units, rng=generator(0, "test"))
    assert reached.tolist() == [0] and began.tolist() == [-1]


def test_jitter_moves_the_picture_before_each_step() -> None:
    model = network(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), bias=0.1)
    one = drawn(Portrait(steps=200, tv=0, jitter=0), model)[0]
    every = drawn(Portrait(steps=200, tv=0, jitter=1), model)[0]
    assert (one > 0.9).sum() == 1 and (every > 0.9).all()  # the one pixel has been everywhere
