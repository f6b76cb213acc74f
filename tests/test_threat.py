"""Projections, steps and starts against the definitions of the balls they belong to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import DUAL
from scipy.stats import kstest
from torch import Tensor

from deconfound.threat import Norm, SparseBall, ThreatModel, size

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
norms, radii, seeds = st.sampled_from(NORMS), st.floats(0, 2), st.integers(0, 2**32)


def points(seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Images in the box, and points around them that mostly are neither in the ball nor in the box."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 2, 3, 3, generator=rng)
    return x, x + spread * torch.randn(x.shape, generator=rng)


def distance(norm: str, x: Tensor, z: Tensor) -> np.ndarray:
    """Distance per image in double precision, by numpy."""
    delta = (z.double() - x.double()).numpy().reshape(len(x), -1)
    return np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@given(norms, radii, seeds)
def test_a_projection_is_legal(norm: Norm, eps: float, seed: int) -> None:
    x, z = points(seed)
    projected = ThreatModel(norm=norm, eps=eps).project(x, z)
    assert (distance(norm, x, projected) <= eps + 1e-5).all()
    assert projected.min() >= 0 and projected.max() <= 1


@given(norms, radii, seeds)
def test_projecting_twice_changes_nothing(norm: Norm, eps: float, seed: int) -> None:
    x, z = points(seed)
    threat = ThreatModel(norm=norm, eps=eps)
    once = threat.project(x, z)
    assert torch.allclose(threat.project(x, once), once, rtol=0, atol=1e-6)


@given(norms, radii, seeds)
def test_a_legal_point_is_its_own_projection(norm: Norm, eps: float, seed: int) -> None:
    x, far = points(seed)
    direction = far - x
    length = torch.from_numpy(distance(norm, x, far)).float().view(-1, 1, 1, 1)
    legal = (x + direction / length * min(0.999 * eps, 3.0)).clamp(0, 1)
    assert torch.allclose(ThreatModel(norm=norm, eps=eps).project(x, legal), legal, rtol=0, atol=1e-6)


@given(norms, seeds)
def test_a_radius_of_zero_gives_the_image_back(norm: Norm, seed: int) -> None:
    x, z = points(seed)
    threat = ThreatModel(norm=norm, eps=0)
    assert torch.equal(threat.project(x, z), x)
    assert torch.equal(threat.random_start(x, rng=torch.Generator().manual_seed(seed)), x)


@given(radii, seeds)
def test_the_linf_projection_is_the_nearest_legal_point(eps: float, seed: int) -> None:
    x, z = points(seed)
    low, high = np.maximum(0, x.double().numpy() - eps), np.minimum(1, x.double().numpy() + eps)
    nearest = np.clip(z.double().numpy(), low, high)  # pixel by pixel: the nearest point of an interval
    assert np.allclose(ThreatModel(eps=eps).project(x, z).numpy(), nearest, rtol=0, atol=1e-6)


@given(st.floats(0.001, 0.3), seeds)
def test_away_from_the_box_the_l2_projection_is_the_nearest_point_of_the_ball(eps: float, seed: int) -> None:
    _, z = points(seed)
    x = torch.full_like(z, 0.5)
    length = torch.from_numpy(distance("l2", x, z)).float().view(-1, 1, 1, 1)
    expected = torch.where(length <= eps, z, x + (z - x) * eps / length)
    found = ThreatModel(norm="l2", eps=eps).project(x, z)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


@given(norms, seeds)
def test_the_steepest_step_has_length_one_and_gains_the_dual_norm(norm: Norm, seed: int) -> None:
    gradient = points(seed)[1]
    step = ThreatModel(norm=norm, eps=1).steepest(gradient)
    gain = (gradient * step).flatten(1).sum(1)
    dual = gradient.flatten(1).norm(p=DUAL[norm], dim=1)  # one l1 step of 18 pixels moves one of them
    assert np.allclose(distance(norm, torch.zeros_like(step), step), 1, atol=1e-5)
    assert torch.allclose(gain, dual, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_step_is_zero_where_the_gradient_is_zero(norm: Norm) -> None:
    gradient = torch.ones(3, 1, 2, 2)
    gradient[1] = 0
    step = ThreatModel(norm=norm, eps=1).steepest(gradient)
    assert torch.equal(step[1], torch.zeros(1, 2, 2))
    assert (step[[0, 2]] > 0).flatten(1).any(1).all()


@given(norms, radii, seeds)
def test_a_random_start_is_legal_and_repeats_with_its_generator(norm: Norm, eps: float, seed: int) -> None:
    x, _ = points(seed)
    threat = ThreatModel(norm=norm, eps=eps)
    start, again = (threat.random_start(x, rng=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(start, again)
    assert (distance(norm, x, start) <= eps + 1e-5).all()
    assert start.min() >= 0 and start.max() <= 1


def test_random_starts_fill_the_cube_uniformly() -> None:
    x = torch.full((3000, 1, 1, 2), 0.5)
    start = ThreatModel(eps=0.2).random_start(x, rng=torch.Generator().manual_seed(0))
    shares = ((start - x) / 0.4 + 0.5).flatten(1).double().numpy()  # uniform on [0, 1] per pixel
    assert kstest(shares[:, 0], "uniform").pvalue > 1e-3
    assert kstest(shares[:, 1], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.06


def test_random_starts_fill_the_ball_uniformly() -> None:
    x = torch.full((3000, 1, 1, 3), 0.5)
    start = ThreatModel(norm="l2", eps=0.2).random_start(x, rng=torch.Generator().manual_seed(0))
    delta = ((start - x).flatten(1).double() / 0.2).numpy()
    radius = np.linalg.norm(delta, axis=1)
    assert kstest(radius**3, "uniform").pvalue > 1e-3  # volume grows with the cube of the radius
    for axis in range(3):  # Archimedes: a coordinate of a uniform point on the sphere is uniform
        assert kstest(delta[:, axis] / radius / 2 + 0.5, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_contains_judges_each_image_by_itself(norm: Norm) -> None:
    x = torch.full((6, 1, 2, 2), 0.95)
    z = x.clone()
    z[1, 0, 0, 0] -= 0.099  # legal, just
    z[2, 0, 0, 0] -= 0.101  # outside the ball
    z[3, 0, 0, 0] += 0.06  # inside the ball, outside the box
    z[4, 0, 0, 0] = torch.nan
    z[5] -= 0.06  # legal for linf; 0.12 away for l2
    legal = ThreatModel(norm=norm, eps=0.1).contains(x, z)
    assert legal.tolist() == [True, True, False, False, False, norm == "linf"]


@pytest.mark.parametrize("norm", NORMS)
def test_a_pixel_below_zero_is_not_legal(norm: Norm) -> None:
    x = torch.zeros(1, 1, 2, 2)
    assert not ThreatModel(norm=norm, eps=0.1).contains(x, x - 0.01).any()


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_batch_passes_through(norm: Norm) -> None:
    threat, x = ThreatModel(norm=norm, eps=0.1), torch.zeros(0, 3, 2, 2)
    assert threat.project(x, x).shape == threat.steepest(x).shape == x.shape
    assert threat.random_start(x, rng=torch.Generator()).shape == x.shape
    assert threat.contains(x, x).shape == (0,)


@given(st.floats(0.01, 6), seeds)
def test_the_l1_projection_is_the_nearest_legal_point(eps: float, seed: int) -> None:
    x, z = points(seed)
    found = ThreatModel(norm="l1", eps=eps).project(x, z).double().numpy()
    x, z = x.double().numpy().reshape(5, -1), z.double().numpy().reshape(5, -1)
    for row in range(
        5
    ):  # the multiplier of the l1 constraint by bisection, for the projection onto box and ball
        low, high = 0.0, 10.0
        for _ in range(200):
            middle = (low + high) / 2
            shrunk = np.sign(z[row] - x[row]) * np.maximum(np.abs(z[row] - x[row]) - middle, 0)
            nearest = np.clip(x[row] + shrunk, 0, 1)
            low, high = (middle, high) if np.abs(nearest - x[row]).sum() > eps else (low, middle)
        if np.abs(np.clip(z[row], 0, 1) - x[row]).sum() <= eps:
            nearest = np.clip(z[row], 0, 1)
        assert np.allclose(found[row].ravel(), nearest, rtol=0, atol=1e-5)


def test_random_starts_fill_the_l1_ball_uniformly() -> None:
    x = torch.full((3000, 1, 1, 2), 0.5)
    start = ThreatModel(norm="l1", eps=0.2).random_start(x, rng=torch.Generator().manual_seed(0))
    delta = ((start - x).flatten(1).double() / 0.2).numpy()
    radius = np.abs(delta).sum(1)
    assert kstest(radius**2, "uniform").pvalue > 1e-3  # area grows with the square of the radius
    assert kstest(np.abs(delta[:, 0]) / radius, "uniform").pvalue > 1e-3  # along an edge of the diamond
    assert abs((delta > 0).mean() - 0.5) < 0.03


def test_an_l1_step_passes_over_pixels_at_the_edge_that_it_would_leave() -> None:
    z = torch.tensor([0.0, 1.0, 0.5, 0.5]).view(1, 1, 2, 2)
    gradient = torch.tensor([-4.0, 3.0, -2.0, 1.0]).view(1, 1, 2, 2)
    threat = ThreatModel(norm="l1", eps=1)
    assert threat.steepest(gradient, z).flatten().tolist() == [0, 0, -1, 0]
    assert threat.steepest(gradient).flatten().tolist() == [-1, 0, 0, 0]
    assert threat.steepest(-gradient, z).flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("norm", NORMS)
def test_the_size_of_a_perturbation_is_its_norm(norm: Norm) -> None:
    x, z = points(3)
    assert np.allclose(size(z - x, norm).numpy(), distance(norm, x, z), rtol=1e-5)


def test_an_l1_step_of_a_large_image_moves_a_twentieth_of_its_pixels() -> None:
    gradient = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    step = ThreatModel(norm="l1", eps=1).steepest(gradient)
    assert (step != 0).flatten(1).sum(1).tolist() == [15, 15]
    assert torch.allclose(step.abs().flatten(1).sum(1), torch.ones(2))
    kept, rest = gradient[step != 0].abs(), gradient[step == 0].abs()
    assert torch.equal(step.sign()[step != 0], gradient.sign()[step != 0]) and kept.min() > rest.median()


# Few pixels


@given(st.floats(0, 1), st.integers(0, 18), seeds)
def test_a_sparse_ball_counts_places_and_not_channels(eps: float, changed: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 3, 6, 3, generator=rng)
    places = torch.randperm(18, generator=rng)[:changed]
    z = x.clone().flatten(2)
    z[0, :, places] = torch.where(z[0, :, places] > 0.5, 0.0, 1.0)
    ball = SparseBall(eps=eps)
    assert bool(ball.contains(x, z.view_as(x))) == (changed <= 18 * eps + 1e-6)
    assert ball.most(x) <= 18 * eps + 1e-6 < ball.most(x) + 1


def test_a_sparse_ball_has_whole_pixels_in_spite_of_rounding() -> None:
    assert SparseBall(eps=0.29).most(torch.zeros(1, 3, 10, 20)) == 58
    assert SparseBall(eps=0.145).most(torch.zeros(1, 1, 28, 28)) == 113


def test_a_sparse_ball_is_within_the_box_and_refuses_what_is_no_number() -> None:
    x = torch.full((4, 1, 2, 2), 0.5)
    z = x.clone()
    z[:, 0, 0, 0] = torch.tensor([1.0, 1.1, -0.1, torch.nan])
    assert SparseBall(eps=0.25).contains(x, z).tolist() == [True, False, False, False]
    assert not SparseBall(eps=0.2).contains(x[:1], z[:1]).any()  # not one whole pixel
    assert SparseBall(eps=0).contains(x, x + 1e-6).all()
