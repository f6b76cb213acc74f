"""CausalAdv's account of style against its definitions: moments, bases, the covariance correction (causaladv.md)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same, snapshot
from torch import Tensor
from torch.nn import functional as F

from deconfound.defenses.causaladv import CausalAdv
from deconfound.defenses.style import (
    BasisKind,
    RunningMoments,
    StylePredictor,
    anchor_basis,
    content_directions,
    correction,
    isotropic,
    soft_cross_entropy,
    style_basis,
    unit,
)
from deconfound.rng import global_seed

D, K = 24, 5
NO_ROOM = (3, 4)  # features, classes


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=fresh(seed), dtype=torch.float64)


def spread(width: int = D, seed: int = 1) -> Tensor:
    """A covariance (D, D) of unit features after a ReLU, as networks have them."""
    return torch.cov(
        unit((normal(300, width, seed=seed) @ normal(width, width, seed=2)).relu()).T, correction=0
    )


def anchor(width: int = D) -> Tensor:
    return anchor_basis(width, rng=fresh()).double()


def residuals(basis: Tensor, weight: Tensor, covariance: Tensor) -> Tensor:
    """|B M w_k| / (|B| |M w_k|) per class, (K,)."""
    v = covariance @ weight.T
    return (basis @ v).norm(dim=0) / (basis.norm() * v.norm(dim=0).clamp_min(1e-30))


def rank(z: Tensor) -> int:
    return int(torch.linalg.matrix_rank(z, rtol=1e-4))


# Unit features


@given(st.floats(0.1, 100))
def test_style_features_do_not_see_the_scale_of_a_feature(c: float) -> None:
    r = normal(7, D) * 10
    assert torch.allclose(unit(c * r), unit(r), atol=1e-5)
    assert torch.allclose(unit(r), r / (r.square().sum(1, keepdim=True).sqrt() + 1e-6))
    assert torch.equal(unit(torch.zeros(1, D)), torch.zeros(1, D))


# Moments


def groups(count: int = 90, classes: int = K) -> tuple[Tensor, Tensor]:
    """Rows (N, D) whose groups (N,) differ in mean, and that drift."""
    z = normal(count, D, seed=3) + torch.arange(count)[:, None] / 30
    y = torch.randint(classes, (count,), generator=fresh(4))
    return z + y[:, None], y


def moments(parts: list[tuple[Tensor, Tensor]], classes: int = K, forget: float = 0.0) -> RunningMoments:
    found = RunningMoments(classes, D, forget=forget).double()
    for z, y in parts:
        found.update(z, y)
    return found


def test_moments_after_several_batches_are_those_of_all_rows_in_any_order() -> None:
    z, y = groups()
    parts = list(zip(z.split((50, 7, 1, 32)), y.split((50, 7, 1, 32)), strict=True))
    for order in (parts, parts[::-1]):
        found = moments(order)
        for k in range(K):
            rows = z[y == k]
            assert found.count[k] == len(rows)
            assert torch.allclose(found.mean[k], rows.mean(0), atol=1e-10)
            assert torch.allclose(found.covariance[k], torch.cov(rows.T, correction=0), atol=1e-10)


def test_a_group_without_rows_keeps_what_it_has() -> None:
    z, y = groups(classes=K - 1)
    found = moments([(z[:40], y[:40])])
    assert not found.count[-1] and not found.mean[-1].any() and not found.covariance[-1].any()
    only = torch.zeros(50, dtype=torch.long)
    before = {name: value.clone() for name, value in found.named_buffers()}
    found.update(z[40:], only)
    for name, value in found.named_buffers():
        assert torch.equal(value[1:], before[name][1:]) and not torch.equal(value[0], before[name][0])
    assert found.count[0] == before["count"][0] + 50


def test_with_forgetting_the_moments_are_an_exponential_average() -> None:
    z, y = groups()
    parts = list(zip(z.split(30), y.split(30), strict=True))
    found = moments(parts, forget=0.3)
    for k in range(K):
        mean = square = torch.zeros(())
        for number, (part, label) in enumerate(parts):
            rows = part[label == k]
            w = 0.3 if number else 1.0
            mean = (1 - w) * mean + w * rows.mean(0)
            square = (1 - w) * square + w * (rows.T @ rows) / len(rows)
        assert torch.allclose(found.mean[k], mean, atol=1e-10)
        assert torch.allclose(found.covariance[k], square - torch.outer(mean, mean), atol=1e-9)


def test_a_group_that_comes_late_begins_with_its_own_moments() -> None:
    z, y = groups()
    early = y[:50].clone().clamp_max(K - 2)
    found = moments([(z[:50], early), (z[50:], torch.full((40,), K - 1))], forget=0.3)
    before = moments([(z[:50], early)], forget=0.3)
    for name, value in found.named_buffers():  # the others had no rows in the second batch
        assert torch.equal(value[:-1], before.get_buffer(name)[:-1])
    assert torch.allclose(found.mean[-1], z[50:].mean(0), atol=1e-10)
    assert torch.allclose(found.covariance[-1], torch.cov(z[50:].T, correction=0), atol=1e-10)


def test_moments_carry_no_gradient() -> None:
    z, y = groups()
    found = moments([(z.requires_grad_(), y)])
    assert not any(value.requires_grad for value in found.buffers()) and not list(found.parameters())


# The basis


def test_the_anchor_is_an_orthonormal_basis_that_begins_with_the_vector_that_overlaps_least() -> None:
    basis = anchor_basis(D, rng=fresh())
    assert torch.allclose(basis @ basis.T, torch.eye(D), atol=1e-5)
    drawn = torch.randn(4 * D, D, generator=fresh())
    overlaps = [sum(abs(float(a @ b)) for b in drawn if b is not a) for a in drawn]
    least = drawn[overlaps.index(min(overlaps))]
    assert abs(float(F.normalize(least, dim=0) @ basis[0])) == pytest.approx(1, abs=1e-5)
    assert not torch.equal(basis, anchor_basis(D, rng=fresh(1)))


def test_overlap_is_that_with_the_other_vectors_and_not_with_itself() -> None:
    for seed in range(20):  # long vectors: here counting a vector's own length would change the choice
        drawn = torch.randn(8, 2, generator=fresh(seed))
        overlap = (drawn @ drawn.T).abs()
        apart, whole = (overlap - overlap.diag().diag()).sum(1), overlap.sum(1)
        first = anchor_basis(2, rng=fresh(seed))[0]
        cosine = (F.normalize(drawn) @ first).abs()
        assert cosine[apart.argmin()].item() == pytest.approx(1, abs=1e-5)
        if apart.argmin() != whole.argmin():
            return
    pytest.fail("no seed tells the two apart")


def test_the_exact_basis_removes_all_correlation_of_style_and_content() -> None:
    weight, covariance = normal(K, D), spread()
    basis = style_basis("exact", anchor(), weight, covariance)
    product = (weight @ covariance @ basis.T).norm() / ((weight @ covariance).norm() * basis.norm())
    assert product < 1e-10 and rank(basis) == D - K
    assert torch.allclose(basis.norm(dim=1), torch.ones(D, dtype=torch.float64))


def dead(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    alive = (torch.arange(D) % 3 > 0).double()
    return weight, covariance * alive * alive[:, None]


def twice(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([weight[:1], weight[:1], weight[2:]]), covariance


def absent(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([torch.zeros(1, D).double(), weight[1:]]), covariance


def flat(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    direction = normal(D, 2, seed=9)
    return weight, direction @ direction.T


@pytest.mark.parametrize(("change", "directions"), [(dead, K), (twice, K - 1), (absent, K - 1), (flat, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_features_and_dependent_classes_leave_the_exact_basis_exact(
    change: object, directions: int, dtype: torch.dtype
) -> None:
    assert callable(change)
    weight, covariance = (z.to(dtype) for z in change(normal(K, D), spread()))
    basis = style_basis("exact", anchor().to(dtype), weight, covariance)
    assert residuals(basis, weight, covariance).max() < 1e-5
    assert rank(basis) == D - directions == D - rank(covariance @ weight.T)
    assert content_directions(weight, covariance).shape == (D, directions)


def test_without_any_variance_everything_is_style() -> None:
    basis = style_basis("exact", anchor(), normal(K, D), torch.zeros(D, D).double())
    assert torch.allclose(basis, anchor())


def test_without_room_for_style_the_basis_is_zero_and_not_rounding() -> None:
    width, classes = NO_ROOM
    for kind in ("exact", "random"):
        basis = style_basis(
            kind, anchor_basis(width, rng=fresh()), torch.rand(classes, width), torch.eye(width)
        )
        assert not basis.any()


def test_what_is_not_finite_passes_on_to_the_loss_without_an_error_of_its_own() -> None:
    weight = normal(K, D)
    weight[1, 2] = torch.nan
    assert style_basis("exact", anchor(), weight, spread()).shape == (D, D)


def test_class_after_class_only_the_last_class_is_exact() -> None:
    weight, covariance = normal(K, D), spread()
    basis = style_basis("sequential", anchor(), weight, covariance)
    left = residuals(basis, weight, covariance)
    assert left[-1] < 1e-10 and (left[:-1] > 1e-4).all()
    assert rank(basis) == D - 1
    turned = style_basis("sequential", anchor(), weight.flip(0), covariance)
    assert residuals(turned, weight, covariance)[0] < 1e-10


def test_class_after_class_is_as_in_a_naive_loop() -> None:
    weight, covariance = normal(K, D), spread()
    rows = [row.clone() for row in anchor()]
    for w in weight:
        v = covariance @ w
        for i, row in enumerate(rows):
            row = row - (row @ v) / (v @ v) * v
            rows[i] = row / row.norm()
    found = style_basis("sequential", anchor(), weight, covariance)
    assert torch.allclose(found, torch.stack(rows), atol=1e-10)


@pytest.mark.parametrize("change", [None, twice, flat])
def test_a_random_basis_has_the_rank_of_the_exact_one_and_correlates(change: object) -> None:
    weight, covariance = normal(K, D), spread()
    if callable(change):
        weight, covariance = change(weight, covariance)
    bases = {kind: style_basis(kind, anchor(), weight, covariance) for kind in ("exact", "random")}
    assert rank(bases["random"]) == rank(bases["exact"])
    assert torch.allclose(bases["random"].norm(dim=1), torch.ones(D).double())
    assert residuals(bases["random"], weight, covariance).max() > 0.05


def test_a_random_basis_is_the_same_in_every_step() -> None:
    first = style_basis("random", anchor(), normal(K, D), spread())
    later = style_basis("random", anchor(), normal(K, D, seed=7), spread(seed=8))
    assert torch.equal(first, later)


def test_placebos_are_the_features_themselves_and_the_exact_rows_in_another_order() -> None:
    weight, covariance = normal(K, D), spread()
    assert torch.equal(style_basis("identity", anchor(), weight, covariance), torch.eye(D).double())
    exact = style_basis("exact", anchor(), weight, covariance)
    rng = fresh()
    shuffled = [style_basis("reshuffled", anchor(), weight, covariance, rng=rng) for _ in range(2)]
    for basis in shuffled:
        assert sorted(map(tuple, basis.tolist())) == sorted(map(tuple, exact.tolist()))
        assert not torch.equal(basis, exact)
    assert not torch.equal(*shuffled)


@pytest.mark.parametrize("kind", ["exact", "sequential", "random"])
def test_a_basis_does_not_see_the_scale_of_weights_and_covariance(kind: BasisKind) -> None:
    weight, covariance = normal(K, D), spread()
    found = style_basis(kind, anchor(), 1e-3 * weight, 1e-3 * covariance)
    assert torch.allclose(found, style_basis(kind, anchor(), weight, covariance), atol=1e-8)


# The correction


def covariances() -> Tensor:
    z = normal(K, 40, D, seed=5) * torch.linspace(0.1, 1, K)[:, None, None]
    return z.transpose(1, 2) @ z / 40


def test_the_correction_is_the_quadratic_form_of_a_naive_loop() -> None:
    u, sigma = normal(K, D), covariances()
    expected = torch.zeros(K, K).double()
    for y in range(K):
        for k in range(K):
            for i in range(D):
                expected[y, k] += (u[k, i] - u[y, i]) * (sigma[y, i] @ (u[k] - u[y]))
    assert torch.allclose(correction(u, sigma), expected)
    assert torch.allclose(isotropic(u, 0.3), correction(u, 0.3 * torch.eye(D).double().expand(K, D, D)))


def test_half_the_correction_is_the_logarithm_of_a_monte_carlo_mean() -> None:
    """E exp (u_k - u_y) delta = exp(rho / 2 correction[y, k]) for delta ~ N(0, rho Sigma_y)."""
    u, sigma, rho, y = 0.2 * normal(K, D), covariances(), 0.7, 2
    delta = normal(200_000, D, seed=6) @ torch.linalg.cholesky(rho * sigma[y]).T
    found = (delta @ (u - u[y]).T).exp()
    error = found.std(0) / len(delta) ** 0.5
    expected = (rho / 2 * correction(u, sigma)[y]).exp()
    assert ((found.mean(0) - expected).abs() <= 4 * error + 1e-12).all()
    assert (expected[[0, 1, 3, 4]] > 1.1).all()


def predictor(kind: str = "mlp") -> StylePredictor:
    with global_seed(fresh()):
        made = StylePredictor(D, K, kind=kind)  # type: ignore[arg-type]
    made.moments.covariance.copy_(covariances())
    return made.double()


@pytest.mark.parametrize("rho", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("covariance", ["running", "isotropic"])
def test_corrected_logits_bound_the_expected_cross_entropy_from_above(rho: float, covariance: str) -> None:
    g, spec = predictor("linear"), CausalAdv(covariance=covariance, isotropic_variance=0.4)  # type: ignore[arg-type]
    q, y = normal(6, D, seed=8), torch.arange(6) % K
    with torch.no_grad():
        plain = g(q)
        found = spec.corrected(g, plain, y, rho)
        if not rho:
            assert torch.equal(found, plain)
            return
        true = F.one_hot(y, K).bool()
        assert torch.equal(found[true], plain[true]) and (found[~true] > plain[~true]).all()
        sigma = (
            g.moments.covariance if covariance == "running" else 0.4 * torch.eye(D).expand(K, D, D).double()
        )
        for i, label in enumerate(y):
            noise = normal(4000, D, seed=i) @ torch.linalg.cholesky(rho * sigma[label]).T
            losses = F.cross_entropy(g(q[i] + noise), label.expand(4000), reduction="none")
            bound = F.cross_entropy(found[i], label)
            assert bound > F.cross_entropy(plain[i], label)
            assert bound >= losses.mean() - 4 * losses.std() / 4000**0.5


def test_a_degenerate_covariance_never_makes_a_correction_negative() -> None:
    z = normal(2, D, seed=3).float()
    sigma = (z.T @ z).expand(K, D, D)
    u = (
        torch.linalg.qr(torch.cat([z, normal(K, D).float()]).T).Q.T[2:] * 1e3
    )  # off the two directions that vary
    table = correction(u, sigma)
    assert (table >= 0).all() and table.max() < 1


# The predictor


def test_the_predictor_is_the_released_network_or_the_linear_one_of_the_paper() -> None:
    g, s = predictor().eval(), normal(7, D)
    first, norm, second = g.body[0], g.body[1], g.body[3]
    hidden = ((s @ first.weight.T + first.bias) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    q = ((hidden * norm.weight + norm.bias).relu() @ second.weight.T + second.bias).relu()
    assert first.weight.shape == (D // 2, D) and second.weight.shape == (D, D // 2)
    assert torch.allclose(g(s), q @ g.last.weight.T + g.last.bias)
    linear = predictor("linear")
    assert torch.allclose(linear(s), s @ linear.last.weight.T + linear.last.bias)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_observing_gives_the_same_logits_and_takes_in_unit_hidden_activations_per_class(kind: str) -> None:
    with global_seed(fresh()):
        g = StylePredictor(D, K, kind=kind).double().eval()  # type: ignore[arg-type]
    s, y = normal(40, D), torch.arange(40) % K
    before = snapshot(g.body)
    logits = g.observe(s, y)
    assert torch.equal(logits, g(s)) and same(snapshot(g.body), before)
    q = unit(g.body(s).detach())
    for k in range(K):
        assert torch.allclose(g.moments.covariance[k], torch.cov(q[y == k].T, correction=0), atol=1e-10)
    assert logits.requires_grad and not g.moments.covariance.requires_grad


def test_soft_cross_entropy_is_entropy_plus_divergence() -> None:
    a, b = normal(9, K), normal(9, K, seed=1)
    p = a.softmax(1)
    entropy = torch.distributions.Categorical(logits=a).entropy()
    divergence = F.kl_div(b.log_softmax(1), p, reduction="none").sum(1)
    assert torch.allclose(soft_cross_entropy(p, b), entropy + divergence)
