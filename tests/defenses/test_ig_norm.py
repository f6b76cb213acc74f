"""IG-NORM: completeness and closed forms of the attribution along a segment, both objectives, statistics left alone."""

import math
from typing import Any

import pytest
import torch
from oracle_models import linear_problem, same, small_network, snapshot, tiny_images, workbench
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.ig_norm import IGNorm, aside, path_attribution, sizes
from deconfound.defenses.standard import Standard
from deconfound.models.classifier import eval_mode
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

CLIMB = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(x: Tensor) -> Tensor:
    return (x + 0.2 * torch.randn(x.shape, generator=fresh(4))).clamp(0, 1)


def test_the_attribution_of_a_linear_model_sums_the_slopes_at_the_right_ends() -> None:
    model, x, y = linear_problem()
    z = moved(x)
    found = path_attribution(model, x, z, y, 4)
    slope = 0.0
    for k in (1, 2, 3, 4):
        wrong = model(x + (z - x) * k / 4).softmax(1).gather(1, 1 - y[:, None])
        slope = slope + (1 - 2.0 * y[:, None]) * 2 * wrong * model.w / 4
    expected = (z - x).flatten(1) * slope
    assert torch.allclose(found.flatten(1), expected, atol=1e-6)


def test_the_attribution_sums_to_the_change_of_the_loss_and_its_norm_bounds_that() -> None:
    model, z = small_network().eval(), moved(X)
    found = path_attribution(model, X, z, Y, 400)
    change = cross_entropy(model(z), Y) - cross_entropy(model(X), Y)
    assert torch.allclose(found.flatten(1).sum(1), change, atol=5e-3)
    assert (sizes(found) >= change.abs() - 5e-3).all()
    assert sizes(path_attribution(model, X, X, Y, 5)).abs().max() == 0


def test_the_size_of_an_attribution_can_be_climbed() -> None:
    model, z = small_network().eval().double(), moved(X).double()
    x = X.double()

    def size(z: Tensor) -> Tensor:
        return sizes(path_attribution(model, x, z, Y, 3))

    leaf = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(size(leaf).sum(), leaf)
    step = torch.zeros_like(z)
    step[:, 0, 1, 2] = 1e-6
    slope = (size(z + step) - size(z - step)) / 2e-6
    assert torch.allclose(gradient[:, 0, 1, 2], slope.detach(), atol=1e-6)
    with eval_mode(model):
        start = CLIMB.begin(x, rng=fresh())
        assert size(CLIMB(size, x, rng=fresh())).mean() > size(start).mean()


def slopes(loss: Tensor, model: nn.Module) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


@pytest.mark.parametrize("variant", ["norm", "sum_norm"])
def test_the_loss_is_cross_entropy_plus_the_weighted_norm_at_the_worst_image(variant: Any) -> None:
    spec = IGNorm(variant=variant, weight=2, ascent=CLIMB, points=3, attack_points=2)
    model, twin = (small_network(dropout=0.0).train() for _ in range(2))
    loss = spec.objective(model, X, Y, rng=fresh())

    def score(z: Tensor) -> Tensor:
        size = sizes(path_attribution(twin, X, z, Y, 2))
        return size if variant == "norm" else cross_entropy(twin(z), Y) + 2 * size

    with eval_mode(twin):
        x_adv = CLIMB(score, X, rng=fresh())
        assert torch.allclose(spec._score(twin, X, Y, x_adv), score(x_adv), rtol=1e-6)
    expected = F.cross_entropy(twin(X if variant == "norm" else x_adv), Y)
    before = snapshot(twin)
    expected = expected + 2 * sizes(path_attribution(aside(twin), X, x_adv, Y, 3)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert same(snapshot(twin), before)  # statistics of batch norms among it
    assert same(snapshot(model), before)
    for mine, theirs in zip(slopes(loss, model), slopes(expected, twin), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    assert ThreatModel(eps=0.1).contains(X, x_adv).all()


def test_the_norm_alone_moves_every_layer() -> None:
    model = small_network(dropout=0.0).train()
    sizes(path_attribution(aside(model), X, moved(X), Y, 2)).mean().backward()  # type: ignore[no-untyped-call]
    for name, weights in model.named_parameters():
        if name.endswith("weight"):
            assert weights.grad is not None and weights.grad.abs().sum() > 0, name


def trained(defense: Any) -> dict[str, Tensor]:
    return dict(defense(workbench(RECIPE)[0]).model.state_dict())


def test_without_weight_the_two_are_standard_and_adversarial_training_to_the_bit() -> None:
    assert same(trained(IGNorm(ascent=CLIMB, weight=0)), trained(Standard()))
    adversarial = trained(AdversarialTraining(ascent=CLIMB))
    assert same(trained(IGNorm(ascent=CLIMB, weight=0, variant="sum_norm")), adversarial)
    assert not same(trained(IGNorm(ascent=CLIMB, variant="sum_norm")), adversarial)


def test_val_is_watched_if_it_shall_be() -> None:
    bench, trainer = workbench(RECIPE)
    IGNorm(ascent=CLIMB, points=2, attack_points=1, validation="track")(bench)
    assert all(0 <= record["val_robust"] <= 1 for record in trainer.history["model"])


def test_a_start_at_the_image_is_refused_where_it_would_stay_there() -> None:
    still = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2, start="image")
    with pytest.raises(ValidationError, match=r"ascent\.start: expected uniform or gaussian"):
        IGNorm(ascent=still)
    model = small_network().eval()
    z = X.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(sizes(path_attribution(model, X, z, Y, 2)).sum(), z)
    assert gradient.abs().max() == 0
    assert IGNorm(ascent=still, variant="sum_norm").ascent == still


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    loss = IGNorm(ascent=CLIMB, points=2, attack_points=1).objective(model, X, Y, rng=fresh())
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    assert all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
