"""Local intrinsic dimension of points whose dimension is known."""

import math

import pytest
import torch

from deconfound.detectors.lid import dimension
from deconfound.rng import generator


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("neighbours", [20, 50])
def test_points_of_a_subspace_have_its_dimension(k: int, neighbours: int) -> None:
    rng = generator(0, "points")
    basis = torch.linalg.qr(torch.randn(30, k, generator=rng)).Q
    points = torch.randn(2000, k, generator=rng) @ basis.T + 1e-6 * torch.randn(2000, 30, generator=rng)
    assert dimension(points[:300], points, neighbours).median().item() == pytest.approx(k, rel=0.25)


def test_the_estimate_is_minus_the_inverse_mean_logarithm_of_relative_distances() -> None:
    reference = torch.tensor([[1.0], [-2.0], [4.0], [9.0]])
    expected = -3 / (math.log(1 / 4) + math.log(2 / 4))
    assert dimension(torch.zeros(1, 1), reference, 3).item() == pytest.approx(expected)


def test_a_point_is_not_its_own_neighbour() -> None:
    points = torch.randn(50, 4, generator=generator(0, "points"))
    alone = torch.cat([dimension(points[i : i + 1], points[torch.arange(50) != i], 8) for i in range(50)])
    assert torch.allclose(dimension(points, points, 8), alone)


def test_points_that_are_all_the_same_have_a_finite_dimension() -> None:
    assert dimension(torch.zeros(3, 4), torch.zeros(30, 4), 10).tolist() == [1000.0] * 3


def test_there_are_never_more_neighbours_than_other_points() -> None:
    points = torch.randn(6, 2, generator=generator(0, "points"))
    assert torch.equal(dimension(points, points, 40), dimension(points, points, 5))
