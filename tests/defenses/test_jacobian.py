"""Jacobian: the exact norm, the estimate by random projections, and nothing of it at weight zero."""

import pytest
import torch
from oracle_models import linear_problem, same, small_network, tiny_images, workbench
from torch import Tensor
from torch.nn import functional as F

from deconfound.defenses.jacobian import Jacobian, directions, frobenius
from deconfound.defenses.standard import Standard
from deconfound.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms(projections: int, rng: torch.Generator) -> Tensor:
    """Squared Frobenius norms of a small network in evaluation mode, exact or estimated."""
    model = small_network().eval()
    x = X.clone().requires_grad_(True)
    logits = model(x)
    return frobenius(logits, x, directions(logits, projections, rng=rng)).detach()


def test_the_exact_norm_is_that_of_the_full_jacobian() -> None:
    model = small_network().eval()
    expected = [
        torch.autograd.functional.jacobian(model, image[None]).square().sum().item()  # type: ignore[no-untyped-call]
        for image in X
    ]
    assert norms(0, fresh()).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_mean_of_two_hundred_draws_is_the_exact_norm_within_five_percent() -> None:
    exact, rng = norms(0, fresh()), fresh(1)
    draws = torch.stack([norms(1, rng) for _ in range(200)])
    assert draws.mean().item() == pytest.approx(exact.mean().item(), rel=0.05)
    assert draws[:, 0].std() > 0.05 * draws[:, 0].mean()  # a single draw is no such thing
    several = torch.stack([norms(4, rng) for _ in range(50)])
    assert several.mean().item() == pytest.approx(exact.mean().item(), rel=0.05)
    assert several.std(0).mean() < 0.75 * draws.std(0).mean()  # a half, were it many


def test_directions_are_of_unit_length_uniform_and_each_image_has_its_own() -> None:
    logits = torch.zeros(500, 3)
    found = directions(logits, 2, rng=fresh())
    assert found.shape == (2, 500, 3)
    assert torch.allclose(found.norm(dim=2), torch.ones(2, 500))
    flat = found.flatten(0, 1)
    assert flat.mean(0).abs().max() < 0.08 and torch.allclose(
        flat.T @ flat / 1000, torch.eye(3) / 3, atol=0.04
    )
    assert not torch.equal(found[0, 0], found[0, 1]) and not torch.equal(found[0], found[1])
    assert torch.equal(directions(logits, 2, rng=fresh()), found)
    assert torch.equal(directions(logits, 0, rng=fresh())[:, 7], torch.eye(3))


def test_the_loss_of_a_linear_model_is_as_computed_by_hand() -> None:
    model, x, y = linear_problem()  # logits (-m, m): both rows of the Jacobian are w
    loss = Jacobian(weight=0.5, projections=0).objective(model, x, y, rng=fresh())
    expected = F.cross_entropy(model(x), y) + 0.25 * 2 * model.w.square().sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss - F.cross_entropy(model(x), y), model.w)
    assert torch.allclose(gradient, model.w.detach(), atol=1e-5)  # the slope of |w|^2 / 2


def test_without_weight_it_is_standard_training_to_the_bit_and_with_it_not() -> None:
    def trained(defense: Jacobian | Standard) -> dict[str, Tensor]:
        return dict(defense(workbench(RECIPE)[0]).model.state_dict())

    standard = trained(Standard())
    assert same(trained(Jacobian(weight=0)), standard)
    assert not same(trained(Jacobian(weight=0.1)), standard)
    assert not same(trained(Jacobian(weight=0.1)), trained(Jacobian(weight=0.1, projections=0)))


def test_training_makes_the_jacobian_smaller() -> None:
    def left(weight: float) -> float:
        model = Jacobian(weight=weight)(workbench(Recipe(epochs=10, batch_size=8))[0]).model.eval()
        x = X.clone().requires_grad_(True)
        logits = model(x)
        return frobenius(logits, x, directions(logits, 0, rng=fresh())).mean().item()

    assert left(0.1) < 0.5 * left(0.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    loss = Jacobian().objective(model, X, Y, rng=fresh())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
