"""Bounds on mutual information where it is known, and the dependence gap of CBD's critic."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deconfound.information import (
    Critic,
    dependence_gap,
    donsker_varadhan,
    info_nce,
    jensen_shannon,
    nguyen_wainwright_jordan,
    row_donsker_varadhan,
    rows,
)

Bound = Callable[[Tensor], Tensor]
logsigmoid = torch.nn.functional.logsigmoid
BOUNDS: list[tuple[Bound, float]] = [  # and the constant that makes the exact critic exact
    (donsker_varadhan, 0.0),
    (nguyen_wainwright_jordan, 1.0),
    (info_nce, 0.0),
]


def log_density_ratio(rho: float, count: int = 2000, seed: int = 0) -> Tensor:
    """The exact critic, (N, N) nats, on N pairs of standard Gaussians of correlation rho."""
    rng = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, count, generator=rng, dtype=torch.float64)
    b = rho * a + math.sqrt(1 - rho**2) * noise
    a, b = a[:, None], b[None, :]
    quadratic = (rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (2 * (1 - rho**2))
    return -0.5 * math.log(1 - rho**2) - quadratic


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
@pytest.mark.parametrize(("bound", "shift"), BOUNDS)
def test_the_exact_critic_gives_the_information_of_correlated_gaussians(
    bound: Bound, shift: float, rho: float
) -> None:
    # The mean of the joint scores has standard error rho / sqrt(N) = 0.018 at most.
    assert bound(log_density_ratio(rho) + shift).item() == pytest.approx(
        -0.5 * math.log(1 - rho**2), abs=0.05
    )


@pytest.mark.parametrize(("bound", "shift"), BOUNDS)
def test_another_critic_tells_less(bound: Bound, shift: float) -> None:
    exact = log_density_ratio(0.8)
    assert bound(0.6 * exact + shift) < bound(exact + shift) - 0.02
    assert bound(1.4 * exact + shift) < bound(exact + shift) - 0.02


@pytest.mark.parametrize(("bound", "shift"), BOUNDS)
def test_independence_is_exactly_zero_nats(bound: Bound, shift: float) -> None:
    assert bound(torch.full((50, 50), shift, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)


def test_a_constant_in_the_critic_moves_only_the_bound_that_needs_its_level() -> None:
    scores = log_density_ratio(0.6, count=200)
    assert torch.allclose(donsker_varadhan(scores + 3), donsker_varadhan(scores))
    assert torch.allclose(info_nce(scores + 3), info_nce(scores))
    assert nguyen_wainwright_jordan(scores + 3) < nguyen_wainwright_jordan(scores + 1)


@given(st.integers(0, 2**32), st.integers(2, 20), st.floats(0, 100))
def test_info_nce_never_exceeds_the_logarithm_of_the_batch_size(seed: int, count: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, count, generator=rng, dtype=torch.float64) * scale
    assert info_nce(scores) <= math.log(count) + 1e-9
    assert info_nce(1e4 * torch.eye(count)).item() == pytest.approx(math.log(count), rel=1e-5)


def test_the_bounds_of_two_by_two_scores_are_as_computed_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0], [2.0, 3.0]], dtype=torch.float64)  # joint 1, 3; product 0, 2
    e = math.e
    assert donsker_varadhan(scores).item() == pytest.approx(2 - math.log((1 + e**2) / 2))
    assert nguyen_wainwright_jordan(scores).item() == pytest.approx(2 - (1 / e + e) / 2)
    assert info_nce(scores).item() == pytest.approx(math.log(e / (e + 1)) + math.log(2))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (4, 3), (1, 1), (2, 2, 2)])
@pytest.mark.parametrize("bound", [*(bound for bound, _ in BOUNDS), jensen_shannon, rows])
def test_scores_that_are_no_square_matrix_of_pairs_are_refused(bound: Bound, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected scores"):
        bound(torch.zeros(shape))


# The divergence of Jensen and Shannon, and the bound row by row


def divergence(rho: float, nodes: int = 60) -> float:
    """Jensen-Shannon divergence of correlated Gaussians and the product of their margins, by Gauss-Hermite nodes."""
    points, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    a, noise = points[:, None], points[None, :]
    weight = weights[:, None] * weights[None, :]

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        quadratic = (rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (2 * (1 - rho**2))
        return -0.5 * math.log(1 - rho**2) - quadratic

    joint = (weight * logsigmoid(ratio(a, rho * a + math.sqrt(1 - rho**2) * noise))).sum()
    product = (weight * logsigmoid(-ratio(a, noise))).sum()
    return float((joint + product) / 2) + math.log(2)


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_the_exact_critic_gives_the_divergence_of_correlated_gaussians_and_others_less(rho: float) -> None:
    exact = log_density_ratio(rho)
    assert jensen_shannon(exact).item() == pytest.approx(divergence(rho), abs=0.01)
    for other in (0.5 * exact, 1.5 * exact, exact + 1, exact - 1):
        assert jensen_shannon(other) < jensen_shannon(exact)


def test_the_divergence_is_zero_for_a_critic_of_zeros_and_never_above_the_logarithm_of_two() -> None:
    assert jensen_shannon(torch.zeros(5, 5, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    sure = 200 * torch.eye(5, dtype=torch.float64) - 100
    assert jensen_shannon(sure).item() == pytest.approx(math.log(2), abs=1e-12)
    assert jensen_shannon(-sure) < -10


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_the_exact_critic_gives_the_information_row_by_row(rho: float) -> None:
    found = rows(log_density_ratio(rho))
    assert found.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.05)


@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(0, 20))
def test_a_bound_row_by_row_is_at_least_the_bound_over_all_rows(seed: int, count: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, count, generator=rng, dtype=torch.float64) * scale
    assert rows(scores).mean() >= donsker_varadhan(scores) - 1e-9


def test_rows_of_three_by_three_scores_are_as_computed_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    sums = [1 + math.exp(2), math.exp(0.5) + math.exp(-1), 2.0]
    joint = [1.0, 3.0, 0.0]
    clean = [t - math.log(s / 2) for t, s in zip(joint, sums, strict=True)]
    released = [t - math.log((1 + s) / 2) for t, s in zip(joint, sums, strict=True)]
    assert rows(scores).tolist() == pytest.approx(clean)
    assert rows(scores, released=True).tolist() == pytest.approx(released)


@pytest.mark.parametrize("count", [2, 5, 400])
def test_scores_of_zero_tell_nothing_except_in_the_released_form(count: int) -> None:
    zeros = torch.zeros(count, count, dtype=torch.float64)
    assert rows(zeros).abs().max() < 1e-12
    found = rows(zeros, released=True)
    assert torch.allclose(found, torch.full_like(found, -math.log(count / (count - 1))), atol=1e-12)


def test_a_constant_in_the_critic_moves_the_released_rows_only() -> None:
    scores = log_density_ratio(0.6, count=50)
    assert torch.allclose(rows(scores + 3), rows(scores))
    shifts = rows(scores + 3, released=True) - rows(scores, released=True)
    assert (shifts > 0.01).all()


def test_a_pair_at_minus_infinity_does_not_count() -> None:
    rng = torch.Generator().manual_seed(0)
    joint, product = torch.randn(4, generator=rng), torch.randn(4, 6, generator=rng)
    masked = torch.cat([product, torch.full((4, 2), -torch.inf)], 1)
    for released in (False, True):
        whole = row_donsker_varadhan(joint, product, released=released)
        assert torch.allclose(row_donsker_varadhan(joint, masked, count=6, released=released), whole)


# The critic


def critic(r: int = 6, z: int = 4, *, scale: float = 1.0, dropout: float = 0.2) -> Critic:
    """A critic whose weights are `scale` times those of a fresh one."""
    torch.manual_seed(0)
    made = Critic(r, z, dropout=dropout)
    for tensor in made.parameters():
        tensor.data *= scale
    return made


def norms(made: Critic) -> list[float]:
    return [float(torch.linalg.svdvals(layer.weight.detach())[0]) for layer in (made.inner, made.outer)]


def test_the_critic_has_the_size_of_the_specification() -> None:
    made = Critic(64, 64)
    assert sum(tensor.numel() for tensor in made.parameters()) == 8321
    assert made.inner.weight.shape == (64, 128) and made.dropout == 0.2
    assert made(torch.zeros(5, 64), torch.zeros(5, 64)).shape == (5,)


def test_the_critic_reads_r_before_z_through_one_leaky_layer() -> None:
    made = critic(1, 1, dropout=0.0)
    made.inner.weight.data = torch.tensor([[2.0, -1.0]])
    made.outer.weight.data = torch.tensor([[3.0]])
    made.inner.bias.data.zero_(), made.outer.bias.data.fill_(0.5)
    scores = made(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    assert scores.tolist() == pytest.approx([3 * 2 + 0.5, 3 * -0.01 + 0.5])


def test_dropout_acts_in_training_mode_only() -> None:
    made, a = critic(), torch.ones(4, 6)
    torch.manual_seed(0)
    assert not torch.equal(made(a, a[:, :4]), made(a, a[:, :4]))
    made.eval()
    assert torch.equal(made(a, a[:, :4]), made(a, a[:, :4]))


@given(st.integers(0, 2**32), st.floats(0.1, 30))
def test_a_projected_critic_is_one_lipschitz(seed: int, scale: float) -> None:
    made = critic(scale=scale).eval()
    made.project()
    assert max(norms(made)) <= 1 + 1e-4
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 50, 10, generator=rng) * 5
    rise = (made(a[:, :6], a[:, 6:]) - made(b[:, :6], b[:, 6:])).abs()
    assert (rise <= (1 + 1e-4) * (a - b).norm(dim=1) + 1e-5).all()


def test_a_projection_touches_no_bias_and_no_matrix_that_is_short_already() -> None:
    made = critic(scale=10)
    made.outer.weight.data *= 0.01
    biases = [layer.bias.clone() for layer in (made.inner, made.outer)]
    short, long = made.outer.weight.clone(), made.inner.weight.clone()
    made.project()
    assert torch.equal(made.outer.weight, short)
    assert torch.allclose(made.inner.weight, long / torch.linalg.matrix_norm(long, ord=2))
    assert all(map(torch.equal, biases, (made.inner.bias, made.outer.bias)))


def test_the_released_step_divides_every_tensor_by_the_root_of_its_largest_singular_value() -> None:
    made = critic()
    direction = torch.outer(torch.tensor([1.0, -2, 0, 2]) / 3, torch.full((10,), 10**-0.5))
    made.inner.weight.data = 19.3 * direction  # rank one: power iteration is exact after one round
    made.inner.bias.data = torch.tensor([3.0, 0, 0, 4])
    made.outer.bias.data = torch.tensor([0.25])
    made.project_as_released()
    assert norms(made)[0] == pytest.approx(19.3**0.5, rel=1e-4)
    assert torch.allclose(made.inner.bias, torch.tensor([3.0, 0, 0, 4]) / 5**0.5)
    assert made.outer.bias.item() == pytest.approx(0.5)


def test_the_released_step_repeated_approaches_norm_one_as_the_specification_records() -> None:
    made, found = Critic(64, 64), []
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    made.inner.weight.data = weight * 19.3 / torch.linalg.matrix_norm(weight, ord=2)
    for _ in range(5):
        made.project_as_released()
        found.append(norms(made)[0])
    assert found == pytest.approx([4.6, 2.3, 1.6, 1.3, 1.2], rel=0.08)  # cbd.md section 4


def test_the_released_step_leaves_a_bias_of_zeros_at_zero() -> None:
    made = critic()
    made.inner.bias.data.zero_()
    made.project_as_released()
    assert (made.inner.bias == 0).all()


# The gap


def test_the_gap_pairs_each_example_with_its_neighbour() -> None:
    r, z = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [10.0], [100.0]])

    def product(r: Tensor, z: Tensor) -> Tensor:
        return (r * z).squeeze(1)

    joint, one_way, other = (1 + 20 + 400) / 3, (100 + 2 + 40) / 3, (10 + 200 + 4) / 3
    found = dependence_gap(product, r, z).item()  # type: ignore[arg-type]
    assert found == pytest.approx(joint - one_way) or found == pytest.approx(joint - other)


def test_the_gap_is_zero_for_a_constant_representation_and_for_a_batch_of_one() -> None:
    made = critic(scale=5).eval()
    rng = torch.Generator().manual_seed(0)
    r, constant = torch.randn(8, 6, generator=rng), torch.ones(8, 4)
    assert dependence_gap(made, r, constant).item() == 0
    assert dependence_gap(made, r[:1], torch.randn(1, 4, generator=rng)).item() == 0


def test_the_gap_of_independent_representations_is_zero_on_average() -> None:
    made, rng = critic(scale=5).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        gaps = torch.stack(
            [
                dependence_gap(made, torch.randn(32, 6, generator=rng), torch.randn(32, 4, generator=rng))
                for _ in range(200)
            ]
        )
    assert gaps.mean().abs() < 3 * gaps.std() / math.sqrt(200)
    assert gaps.std() > 0


@pytest.mark.parametrize("dependent", [True, False])
def test_a_trained_critic_detects_dependence_and_nothing_else(dependent: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    made = critic(4, 4, dropout=0.0)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)

    def gap() -> Tensor:
        r = torch.randn(64, 4, generator=rng)
        return dependence_gap(made, r, r if dependent else torch.randn(64, 4, generator=rng))

    for _ in range(300):
        optimizer.zero_grad()
        (-gap()).backward()
        optimizer.step()
        made.project()
    with torch.no_grad():
        gaps = torch.stack([gap() for _ in range(50)])
    assert (gaps.mean() > 0.2) if dependent else (gaps.mean().abs() < 0.05)
