"""Mode connectivity: the ends of the curve, its weights, its gradient, and the place that is chosen."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same
from repair_benches import bench, convolutional
from torch.nn import functional as F

from deconfound.defenses.batch_norms import renew_statistics
from deconfound.defenses.mode_connectivity import (
    ModeConnectivity,
    Path,
    nearest_middle,
    on_path,
    place,
    shares,
    weights,
)
from deconfound.defenses.repair import suspect
from deconfound.models.classifier import to_unit


@given(st.floats(0, 1))
def test_the_shares_of_a_place_are_positive_and_sum_to_one(u: float) -> None:
    assert sum(shares(u)) == pytest.approx(1) and min(shares(u)) >= 0


def test_the_shares_of_the_middle_are_a_quarter_a_half_and_a_quarter() -> None:
    assert shares(0.5) == (0.25, 0.5, 0.25) and shares(0.1) == pytest.approx((0.81, 0.18, 0.01))


def test_the_curve_begins_at_the_first_network_and_ends_at_the_second() -> None:
    first, second, bend = (weights(convolutional(seed)) for seed in range(3))
    path = Path(first, second)
    assert same(path.at(0.0, bend), first) and same(path.at(1.0, bend), second)
    assert not same(path.at(0.5, bend), path.middle())


@given(st.floats(0, 1))
def test_with_the_bend_in_the_middle_the_curve_is_the_straight_line(u: float) -> None:
    first, second = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}
    path = Path(first, second)
    assert path.at(u, path.middle())["w"].tolist() == pytest.approx([4 * u, 2], abs=1e-5)


def test_the_gradient_of_the_bend_is_that_of_the_network_on_the_curve_times_its_share() -> None:
    first, second, bend = (convolutional(seed) for seed in range(3))
    path = Path(weights(first), weights(second))
    images = bench().val
    x, y = to_unit(images.x), images.y
    u = float(torch.rand((), generator=torch.Generator().manual_seed(4)))
    path(bend, x, y, rng=torch.Generator().manual_seed(4)).backward()

    there = convolutional(2)
    place(there, path.at(u, weights(bend)))
    F.cross_entropy(there(x), y).backward()
    for mine, its in zip(bend.parameters(), there.parameters(), strict=True):
        assert mine.grad is not None and its.grad is not None
        assert torch.allclose(mine.grad, 2 * u * (1 - u) * its.grad, atol=1e-6)
    assert all(parameter.grad is None for model in (first, second) for parameter in model.parameters())


def test_every_batch_draws_a_place_of_its_own() -> None:
    path = Path(weights(convolutional()), weights(convolutional(1)))
    bend, images, rng = convolutional(2), bench().val, torch.Generator().manual_seed(0)
    x, y = to_unit(images.x), images.y
    assert len({path(bend, x, y, rng=rng).item() for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("found", "tolerance", "expected"),
    [
        ([(0.1, 0.9), (0.5, 0.87), (0.9, 0.8)], 0.04, 0.5),
        ([(0.1, 0.9), (0.5, 0.85), (0.9, 0.8)], 0.04, 0.1),
        ([(0.3, 0.9), (0.7, 0.9)], 0.0, 0.3),
        ([(0.25, 0.5)], 0.0, 0.25),
    ],
)
def test_the_place_nearest_the_middle_among_the_good_ones_is_chosen(
    found: list[tuple[float, float]], tolerance: float, expected: float
) -> None:
    assert nearest_middle(found, tolerance) == expected


def test_at_zero_the_result_is_the_start_with_renewed_statistics() -> None:
    room = bench()
    done = ModeConnectivity(endpoint_epochs=1, epochs=1, u=0.0)(room)
    start = suspect(room)
    assert same(weights(done.model), weights(start))
    renew_statistics(start, room.val, batch_size=room.recipe.batch_size, rng=torch.Generator())
    assert same(dict(done.model.state_dict()), dict(start.state_dict()))
    assert done.notes["u"] == 0 and "held_out_images" not in done.notes


def test_the_curve_is_noted_and_the_place_lies_on_its_grid() -> None:
    done = ModeConnectivity(endpoint_epochs=1, epochs=1, points=3, tolerance=1.0)(bench())
    assert done.notes["u"] == 0.5 and done.notes["held_out_images"] == 12
    assert [pair.split(":")[0] for pair in str(done.notes["held_accuracy_curve"]).split()] == [
        "0.25",
        "0.5",
        "0.75",
    ]


def test_a_network_on_the_path_leaves_the_bend_alone() -> None:
    room, bend = bench(), convolutional(2)
    before = {name: value.clone() for name, value in bend.state_dict().items()}
    path = Path(weights(convolutional()), weights(convolutional(1)))
    there = on_path(room, path, bend, 0.3, room.val)
    assert same(dict(bend.state_dict()), before) and not there.training
    assert same(weights(there), path.at(0.3, weights(bend)))
    again = on_path(dataclasses.replace(room), path, bend, 0.3, room.val)
    assert same(dict(again.state_dict()), dict(there.state_dict()))
