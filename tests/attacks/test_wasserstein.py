"""Wasserstein: budget, box and mass of the images found, and how near they come to the optimum of a linear model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle_models import Linear, small_network
from pydantic import ValidationError
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, vstack
from torch import Tensor, nn

from deconfound.attacks.ascent import Point
from deconfound.attacks.wasserstein import (
    FrankWolfe,
    FrankWolfeWasserstein,
    Oracle,
    Transport,
    WassersteinBall,
)

Array = NDArray[np.float64]


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def arcs(shape: tuple[int, ...], reach: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """From, to and length of all moves within a channel of at most `reach` rows and columns."""
    place = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1)
    apart = place[:, None] - place[None]
    source, target = np.nonzero((apart[..., 0] == 0) & (np.abs(apart[..., 1:]).max(-1) <= reach))
    return source, target, np.linalg.norm(apart[source, target].astype(float), axis=1)


def optimum(x: Tensor, gradient: Tensor, eps: float, window: int) -> float:
    """max <gradient, z> over all z that local transport of cost eps per mass makes of x (C, H, W), with z <= 1."""
    source, target, cost = arcs(tuple(x.shape), window // 2)
    count, pixels = len(source), x.numel()
    ones, number = np.ones(count), np.arange(count)
    arrive = coo_matrix((ones, (target, number)), (pixels, count))
    mass = x.double().flatten().numpy()
    found = linprog(
        -gradient.double().flatten().numpy()[target],
        A_ub=vstack([coo_matrix(cost[None]), arrive]),
        b_ub=np.r_[eps * mass.sum(), np.ones(pixels)],
        A_eq=coo_matrix((ones, (source, number)), (pixels, count)),
        b_eq=mass,
        method="highs",
    )
    assert found.status == 0
    return -float(found.fun)


def distance(x: Tensor, z: Tensor) -> float:
    """Least cost of all transports of x to z (C, H, W), per mass of x, by a linear program over all pairs."""
    source, target, cost = arcs(tuple(x.shape), np.inf)
    count, pixels = len(source), x.numel()
    ones, number = np.ones(count), np.arange(count)
    leave = coo_matrix((ones, (source, number)), (pixels, count))
    arrive = coo_matrix((ones, (target, number)), (pixels, count))
    before, after = (image.double().flatten().numpy() for image in (x, z))
    both = vstack([leave, arrive])
    found = linprog(cost, A_eq=both, b_eq=np.r_[before, after], method="highs")
    assert found.status == 0
    return float(found.fun) / float(before.sum())


def gained(x: Tensor, z: Tensor, gradient: Tensor, eps: float, window: int) -> list[float]:
    """Per image the part of the exact gain that was found."""
    parts = []
    for before, after, slope in zip(x.double(), z.double(), gradient.double(), strict=True):
        start = float((slope * before).sum())
        parts.append((float((slope * after).sum()) - start) / (optimum(before, slope, eps, window) - start))
    return parts


# The budget


@pytest.mark.parametrize(
    ("after", "cost"),
    [
        ([0.5, 0.0, 0.5], 0.0),
        ([0.25, 0.25, 0.5], 0.25),  # a quarter by one pixel
        ([0.25, 0.5, 0.25], 0.5),  # a quarter from either side by one
        ([0.0, 0.5, 0.5], 0.5),
        ([0.0, 0.25, 0.75], 0.75),  # a quarter by one, a quarter by two; or half by one, a quarter by one
        ([0.0, 0.0, 1.0], 1.0),
    ],
)
def test_the_cost_of_a_transport_by_hand(after: list[float], cost: float) -> None:
    x = torch.tensor([0.5, 0.0, 0.5]).view(1, 1, 1, 3)
    z = torch.tensor(after).view(1, 1, 1, 3)
    assert WassersteinBall(eps=cost).contains(x, z).all()
    assert not cost or not WassersteinBall(eps=cost - 1e-3).contains(x, z).any()


def test_distance_is_euclidean_and_channels_share_one_budget() -> None:
    x, z = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    x[0, 0, 0, 0], z[0, 0, 1, 1] = 0.5, 0.5  # sqrt(2) pixels
    x[0, 1, 0, 0], z[0, 1, 0, 2] = 0.25, 0.25  # 2 pixels
    x[0, 1, 2, 2] = z[0, 1, 2, 2] = 0.25  # stays
    cost = (0.5 * 2**0.5 + 0.25 * 2) / 1.0
    assert WassersteinBall(eps=cost).contains(x, z).all()
    assert not WassersteinBall(eps=cost - 1e-3).contains(x, z).any()


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_ball_is_that_of_the_linear_program(channels: int, height: int, width: int, seed: int) -> None:
    x = torch.rand(1, channels, height, width, generator=fresh(seed)).double()
    order = torch.randperm(height * width, generator=fresh(seed))
    z = 0.6 * x + 0.4 * x.flatten(2)[:, :, order].view_as(x)  # the same mass in each channel
    cost = distance(x[0], z[0])
    assert WassersteinBall(eps=cost).contains(x, z).all()
    assert cost < 1e-3 or not WassersteinBall(eps=cost * 0.99).contains(x, z, tolerance=1e-7).any()


def test_mass_may_not_appear_vanish_or_change_its_channel() -> None:
    x = torch.full((4, 2, 3, 3), 0.5)
    z = x.clone()
    z[0, 0, 0, 0] += 0.1
    z[1, 0, 0, 0] -= 0.1
    z[2, 0, 0, 0], z[2, 1, 0, 0] = 0.4, 0.6
    assert WassersteinBall(eps=100).contains(x, z).tolist() == [False, False, False, True]


def test_pixels_outside_the_box_and_numbers_that_are_none_are_not_legal() -> None:
    x = torch.full((4, 1, 2, 2), 0.5)
    z = x.clone()
    z[0, 0, 0] = torch.tensor([1.1, -0.1])
    z[1, 0, 0, 0], z[2, 0, 0, 0] = torch.nan, torch.inf
    assert WassersteinBall(eps=100).contains(x, z).tolist() == [False, False, False, True]


def test_a_black_image_has_only_itself() -> None:
    x = torch.zeros(2, 1, 3, 3)
    z = x.clone()
    z[1, 0, 0, 0] = 0.5
    assert WassersteinBall(eps=10).contains(x, z).tolist() == [True, False]
    found = FrankWolfeWasserstein(eps=0.5)(Linear(torch.ones(9)), x, torch.zeros(2).long(), rng=fresh())
    assert torch.equal(found, x)


# The oracle


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("brightness", [1.0, 0.3])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 4, 5)])
def test_the_oracle_comes_near_the_linear_program(
    shape: tuple[int, ...], eps: float, brightness: float, window: int
) -> None:
    x = torch.rand(6, *shape, generator=fresh()) * brightness
    gradient = torch.randn(x.shape, generator=fresh(1))
    z = Oracle(Transport(window), eps)(x, gradient, {}, sweeps=400)
    parts = gained(x, z, gradient, eps, window)
    assert min(parts) > (0.96 if brightness < 1 else 0.88) and max(parts) <= 1 + 1e-4
    assert WassersteinBall(eps=eps).contains(x, z).all()


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 3, 5]),
    st.floats(0.001, 3),
    st.sampled_from([1.0, 3.0]),
    st.integers(0, 1000),
)
def test_any_moves_become_a_legal_image_of_the_same_mass(
    channels: int, height: int, width: int, window: int, eps: float, contrast: float, seed: int
) -> None:
    """However wrong the plan: budget, box and mass hold after what must be undone is undone."""
    x = ((torch.rand(3, channels, height, width, generator=fresh(seed)) - 0.3) * contrast).clamp(0, 1)
    transport = Transport(window)
    plan = torch.rand(3, channels, window**2, height, width, generator=fresh(seed)) ** 8
    inside = transport.gather(torch.ones_like(x)) > 0
    moves = x[:, :, None] * (plan * inside) / (plan * inside).sum(2, keepdim=True)
    z = Oracle(transport, eps).legal(x, moves, eps * x.flatten(1).sum(1))
    assert z.min() >= 0 and z.max() <= 1
    assert torch.allclose(z.sum((2, 3)), x.sum((2, 3)), atol=1e-5)
    assert WassersteinBall(eps=eps).contains(x, z).all()


def test_what_does_not_fit_goes_back_where_it_came_from() -> None:
    x = torch.tensor([0.6, 0.8, 0.4]).view(1, 1, 1, 3)
    moves = torch.zeros(1, 1, 9, 1, 3)
    moves[0, 0, 5, 0, 0] = 0.3  # from the first pixel to the second, which has room for 0.2
    moves[0, 0, 3, 0, 2] = 0.1  # from the third as well
    z = Oracle(Transport(3), 1.0).legal(x, moves, torch.tensor([10.0]))
    assert z.flatten().tolist() == pytest.approx([0.6 - 0.15, 1.0, 0.4 - 0.05], abs=1e-6)


def test_an_overfull_pixel_that_had_given_mass_away_sends_its_own_visitors_back() -> None:
    x = torch.tensor([0.5, 0.9, 0.9]).view(1, 1, 1, 3)
    moves = torch.zeros(1, 1, 9, 1, 3)
    moves[0, 0, 5, 0, 0] = 0.4  # to the second pixel, which makes room:
    moves[0, 0, 5, 0, 1] = 0.4  # to the third, which has room for 0.1
    z = Oracle(Transport(3), 1.0).legal(x, moves, torch.tensor([10.0]))
    assert z.flatten().tolist() == pytest.approx([0.3, 1.0, 1.0], abs=1e-5)


# The attack


@pytest.mark.parametrize("eps", [0.005, 0.1, 0.5])
@pytest.mark.parametrize("brightness", [1.0, 0.4])
def test_on_a_linear_model_forty_steps_come_near_the_exact_optimum(eps: float, brightness: float) -> None:
    x = torch.rand(4, 2, 8, 8, generator=fresh()) * brightness
    model = Linear(torch.randn(128, generator=fresh(1)))
    y = (model.margin(x) > 0).long()
    z = FrankWolfeWasserstein(eps=eps)(model, x, y, rng=fresh())
    gradient = (1 - 2 * y).view(-1, 1, 1, 1) * model.w.detach().view(1, 2, 8, 8)
    parts = gained(x, z, gradient, eps, 5)
    assert min(parts) > 0.95 and max(parts) <= 1 + 1e-4
    assert WassersteinBall(eps=eps).contains(x, z).all()


def test_a_step_goes_two_parts_of_k_plus_two_towards_the_answer_of_the_oracle() -> None:
    x = torch.rand(4, 1, 6, 6, generator=fresh()) * 0.3
    gradient = torch.randn(x.shape, generator=fresh(1))
    move = FrankWolfe(Oracle(Transport(5), 0.1))
    at = Point(torch.arange(4), x, x, torch.zeros(4), gradient)
    vertex = move.oracle(x, gradient, {}, sweeps=80)
    assert torch.allclose(move(0, at), vertex, atol=1e-6)
    for step in range(1, 4):
        at.memory = {}
        vertex = move.oracle(x, gradient, {}, sweeps=15)
        assert torch.allclose(move(step, at), x + 2 / (step + 2) * (vertex - x), atol=1e-6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3))


def test_more_budget_breaks_more_images_of_a_network_and_all_are_legal() -> None:
    model, x = network(), torch.rand(40, 2, 6, 6, generator=fresh())
    y = model(x).argmax(1)
    broken = []
    for eps in (0.0005, 0.005, 0.05):
        attack = FrankWolfeWasserstein(eps=eps, steps=15)
        z = attack(model, x, y, rng=fresh())
        assert attack.threat.contains(x, z).all() and z.min() >= 0 and z.max() <= 1
        assert torch.allclose(z.sum((2, 3)), x.sum((2, 3)), atol=2e-5)
        broken.append(int((model(z).argmax(1) != y).sum()))
    assert broken[0] < broken[1] < broken[2]


def test_early_stop_stops_at_the_first_error_and_gives_the_same_verdicts_on_a_linear_model() -> None:
    x = torch.rand(40, 1, 6, 6, generator=fresh())
    model = Linear(torch.randn(36, generator=fresh(1)) / 2)
    y = (model.margin(x) > 0).long()
    late = FrankWolfeWasserstein(eps=0.02, steps=10)(model, x, y, rng=fresh())
    early = FrankWolfeWasserstein(eps=0.02, steps=10, early_stop=True)(model, x, y, rng=fresh())
    verdicts = model(late).argmax(1) == y
    assert torch.equal(model(early).argmax(1) == y, verdicts) and 5 < int(verdicts.sum()) < 35
    assert torch.allclose(early[verdicts], late[verdicts], atol=1e-5) and not torch.equal(early, late)


def test_nothing_is_drawn_and_the_layout_of_memory_does_not_matter() -> None:
    model, x = network(), torch.rand(9, 2, 6, 6, generator=fresh())
    y, attack = torch.arange(9) % 3, FrankWolfeWasserstein(eps=0.1, steps=5)
    first = attack(model, x, y, rng=fresh(3))
    assert torch.equal(attack(model, x, y, rng=fresh(4)), first)
    other = attack(model, x.contiguous(memory_format=torch.channels_last), y, rng=fresh(3))
    assert torch.allclose(other, first, atol=1e-5)


def test_no_image_of_a_batch_influences_another() -> None:
    model, x, y = small_network(), torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    attack = FrankWolfeWasserstein(eps=0.2, steps=5)
    apart = [attack(model, x[i : i + 1], y[i : i + 1], rng=fresh()) for i in range(6)]
    assert torch.allclose(attack(model, x, y, rng=fresh()), torch.cat(apart), atol=1e-4)


def test_a_model_without_any_gradient_leaves_the_images_as_they_are() -> None:
    x = torch.rand(5, 1, 4, 4, generator=fresh())
    model = Linear(torch.zeros(16))
    assert torch.equal(FrankWolfeWasserstein(eps=0.5)(model, x, torch.zeros(5).long(), rng=fresh()), x)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected an odd number of pixels, got 4"):
        FrankWolfeWasserstein(eps=0.1, window=4)
