"""The attack on explanations: what it keeps, what it lowers, and the twin it needs."""

from typing import Any

import pytest
import torch
from nearest_oracle import planes
from oracle_models import small_network
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.fragile import Fragile, Hunt, Softened, integrated_gradients, saliency, top_pixels
from deconfound.attacks.victim import attacking
from deconfound.errors import NoGradientError
from deconfound.models.classifier import Classifier, predict
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.speed import folded
from deconfound.rng import generator, global_seed

MAPS: tuple[Any, ...] = ("saliency", "integrated_gradients")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, undecided: bool = False) -> Classifier:
    """Two channels of 8 x 8 pixels, four classes; undecided: every image is near a boundary."""
    with global_seed(generator(0, "init")):
        model = SmallCNN(widths=(6, 6), hidden=12)((2, 8, 8), 4).eval()
    if undecided:
        model.head.bias.data -= predict(model, torch.rand(50, 2, 8, 8, generator=fresh(9))).mean(0)
    return model


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.5])
def test_every_prediction_stays_and_no_intersection_rises(kind: Any, eps: float) -> None:
    model, x = network(undecided=True), torch.rand(12, 2, 8, 8, generator=fresh())
    attack = Fragile(eps=eps, steps=15, map=kind, path_steps=3)
    z = attack(model, x, rng=fresh())
    assert torch.equal(predict(model, z).argmax(1), predict(model, x).argmax(1))
    assert torch.equal(attack.intersection(model, x, x), torch.ones(12))
    kept = attack.intersection(model, x, z)
    assert (kept <= 1).all() and kept.mean() < 0.95 and attack.threat.contains(x, z).all()


@pytest.mark.parametrize("kind", MAPS)
def test_it_keeps_fewer_of_the_top_pixels_than_noise_of_the_same_size_does(kind: Any) -> None:
    model, x = network(), torch.rand(24, 2, 8, 8, generator=fresh())
    attack = Fragile(eps=0.1, steps=30, map=kind, path_steps=4)
    kept = attack.intersection(model, x, attack(model, x, rng=fresh())).mean()
    signs = (torch.rand(x.shape, generator=fresh(1)) - 0.5).sign() * 0.1
    noise = attack.intersection(model, x, (x + signs).clamp(0, 1)).mean()
    assert kept < noise - 0.1


def test_more_steps_keep_no_more_of_the_top_pixels_and_the_last_iterate_counts() -> None:
    model, x = network(), torch.rand(12, 2, 8, 8, generator=fresh())
    before = torch.ones(12)
    for steps in range(1, 9):
        attack = Fragile(eps=0.5, steps=steps, step_size=0.1)
        kept = attack.intersection(model, x, attack(model, x, rng=fresh()))
        assert (kept <= before).all()
        assert steps > 1 or (kept < before).any()
        before = kept


def test_the_score_is_a_share_whatever_the_size_of_the_map() -> None:
    x, rows = torch.rand(6, 2, 8, 8, generator=fresh()), torch.arange(6)
    found = []
    for factor in (1, 100):
        model = network()
        model.head.weight.data *= factor
        model.head.bias.data *= factor
        with attacking(model, x, 0 * rows) as victim:
            found.append(Hunt(Fragile(eps=0.1), victim, x).look(x.clone().requires_grad_(True), rows)[0])
    assert ((found[0] > -1) & (found[0] < 0)).all() and torch.allclose(*found, atol=1e-5)


def test_the_saliency_of_a_linear_model_cannot_be_moved() -> None:
    model, x, _ = planes(4)
    attack = Fragile(eps=0.3, top=0.3)
    z = attack(model, x, rng=fresh())
    assert torch.equal(z, x) and torch.equal(attack.intersection(model, x, z), torch.ones(len(x)))


def test_integrated_gradients_of_a_linear_model_can() -> None:
    model, x, _ = planes(4)
    attack = Fragile(eps=0.3, top=0.3, map="integrated_gradients", steps=20)
    assert attack.intersection(model, x, attack(model, x, rng=fresh())).mean() < 1


class Switch(nn.Module):
    """A ReLU network whose gradient is constant around x: only its twin says which way the map changes."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = x.flatten(1).unbind(1)
        first = F.relu(a - 0.45) * 2 + b + 0.01 * c + 0.01 * d
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_without_the_twin_the_ascent_would_not_know_the_way() -> None:
    model, x = Switch(), torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    attack = Fragile(eps=0.1, top=0.25, steps=20)
    z = attack(model, x, rng=fresh())
    assert (
        attack.intersection(model, x, z).item() == 0 and z[0, 0, 0, 0] < 0.45
    )  # the first unit is switched off

    still = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(still)[:, 0].sum(), still, create_graph=True)
    assert not slope.requires_grad or not torch.autograd.grad(slope.sum(), still, allow_unused=True)[0].any()


def test_the_twin_replaces_every_relu_and_nothing_else() -> None:
    x = torch.linspace(-1, 1, 9)
    soft = F.softplus(x, beta=10)

    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y.relu_()
            return y

    relus = (nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, Tensor.relu, torch.relu_, InPlace())
    for relu in relus:
        with Softened(10):
            assert torch.equal(relu(x.clone()), soft)
        assert torch.equal(relu(x.clone()), x.clamp_min(0))
    with Softened(10):
        assert torch.equal(F.leaky_relu(x), torch.where(x > 0, x, 0.01 * x)) and torch.equal(
            x.tanh(), torch.tanh(x)
        )


def test_a_folded_copy_has_a_twin_too() -> None:
    model, x = network(), torch.rand(4, 2, 8, 8, generator=fresh())
    light = folded(model, x)
    assert light is not model
    with Softened(10), torch.no_grad():
        soft, twin = model(x), light(x)
    assert torch.allclose(twin, soft, atol=1e-5) and not torch.allclose(soft, predict(model, x), atol=1e-3)


def test_maps_against_their_definitions() -> None:
    x = torch.tensor([0.5, 1.0, 0.2, 0.4]).view(1, 2, 1, 2)

    def slope(z: Tensor) -> Tensor:  # of sum z^2 - z
        return 2 * z - 1

    assert torch.allclose(saliency(slope, x, 1), (2 * x - 1).abs().sum(1))
    expected = (x * x - x).abs().sum(1)  # the integral of a linear gradient, exact at any number of midpoints
    for points in (1, 2, 7):
        assert torch.allclose(integrated_gradients(slope, x, points), expected, atol=1e-6)


@pytest.mark.parametrize(("part", "count"), [(0.01, 1), (0.1, 2), (0.5, 8)])
def test_top_pixels_are_the_largest(part: float, count: int) -> None:
    heat = torch.randperm(16, generator=fresh()).view(1, 4, 4).float()
    top = top_pixels(heat, part)
    assert top.sum() == count and heat[top].min() > heat[~top].max()


def test_a_step_defaults_to_a_tenth_of_eps_and_the_first_iterate_is_the_image() -> None:
    model, x = small_network(), torch.rand(5, 1, 4, 4, generator=fresh()) * 0.5 + 0.25
    z = Fragile(eps=0.2, steps=1)(model, x, rng=fresh())
    moved = (z - x).abs().unique()
    assert all(min(abs(value), abs(value - 0.02)) < 1e-6 for value in moved.tolist())


def test_a_model_without_a_gradient_is_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).detach()

    with pytest.raises(NoGradientError):
        Fragile(eps=0.1)(Flat(), torch.rand(2, 1, 2, 2), rng=fresh())
