"""The weight perturbation: its size and direction, that it goes away, and what it leaves alone."""

from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.awp import AWP, Perturbed, WeightPerturbation
from deconfound.defenses.losses import craft
from deconfound.defenses.mart import MART
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

CLIMB = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_the_perturbation_of_a_linear_layer_is_its_closed_form() -> None:
    model = nn.Linear(4, 3)
    x, y = torch.randn(7, 4, generator=fresh()), torch.arange(7) % 3
    before = weights(model)
    with torch.no_grad():
        residual = model(x).softmax(1) - F.one_hot(y, 3)
        gradient = residual.T @ x / 7
        expected = before["weight"] + 0.3 * before["weight"].norm() * gradient / gradient.norm()
    WeightPerturbation(0.3).perturb(model, x, y)
    assert torch.allclose(model.weight, expected, atol=1e-6) and torch.equal(model.bias, before["bias"])


@pytest.mark.parametrize("gamma", [0.01, 0.5])
def test_every_matrix_moves_by_gamma_of_its_norm_and_no_vector_moves(gamma: float) -> None:
    model = small_network().train()
    before = weights(model)
    WeightPerturbation(gamma).perturb(model, X, Y)
    dimensions = set()
    for name, w in model.named_parameters():
        moved = (w.detach() - before[name]).norm()
        expected = gamma * before[name].norm() if w.dim() > 1 else torch.tensor(0.0)
        assert moved.item() == pytest.approx(expected.item(), rel=1e-4), name
        dimensions.add(min(w.dim(), 2))
    assert dimensions == {1, 2}


def test_the_perturbation_raises_the_loss_that_it_climbs() -> None:
    model = small_network(dropout=0.0).train()
    before = F.cross_entropy(model(X), Y)
    WeightPerturbation(0.05).perturb(model, X, Y)
    assert F.cross_entropy(model(X), Y) > before + 1e-3


def test_the_perturbation_is_found_in_the_mode_of_the_model() -> None:
    def found(training: bool) -> dict[str, Tensor]:
        model = small_network(dropout=0.0).train(training)
        WeightPerturbation(0.1).perturb(model, X, Y)
        return weights(model)

    assert not same(found(True), found(False))


def test_buffers_gradients_and_modes_stay_and_restored_weights_are_the_same_bits() -> None:
    model = small_network().train()
    model.body[4].eval()
    F.cross_entropy(model(X), Y).backward()
    before = snapshot(model)
    perturbation = WeightPerturbation(0.01)
    perturbation.perturb(model, X, Y)
    now = snapshot(model)
    assert {name for name in now if not same(now[name], before[name])} == {
        "tensor body.1.weight",
        "tensor head.weight",
    }
    perturbation.restore(model)
    assert same(snapshot(model), before)
    perturbation.restore(model)  # nothing is held: nothing happens
    assert same(snapshot(model), before)


def test_a_step_between_perturbing_and_restoring_stays() -> None:
    model = small_network().train()
    before, perturbation = weights(model), WeightPerturbation(0.2)
    perturbation.perturb(model, X, Y)
    with torch.no_grad():
        for w in model.parameters():
            w += 0.125
    perturbation.restore(model)
    assert all(torch.allclose(w, before[name] + 0.125, atol=1e-6) for name, w in model.named_parameters())


def test_a_perturbation_that_was_not_taken_back_is_no_ground_for_the_next() -> None:
    model, perturbation = small_network().train(), WeightPerturbation(0.1)
    perturbation.perturb(model, X, Y)
    with pytest.raises(RuntimeError, match="expected a restored network, got one that is still perturbed"):
        perturbation.perturb(model, X, Y)


def test_without_a_gradient_or_without_weights_nothing_moves() -> None:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    WeightPerturbation(0.1).perturb(model, torch.randn(6, 4, generator=fresh()), torch.arange(6) % 3)
    assert torch.equal(model.weight, torch.zeros(3, 4))  # a norm of zero
    other = nn.Linear(4, 3)
    before = weights(other)
    WeightPerturbation(0.1).perturb(other, torch.zeros(6, 4), torch.arange(6) % 3)
    assert same(weights(other), before)  # a gradient of zero
    WeightPerturbation(0.1).perturb(
        nn.BatchNorm1d(4), torch.randn(6, 4, generator=fresh()), torch.arange(6) % 3
    )


def test_the_images_are_crafted_on_the_network_as_it_is_and_the_loss_sees_it_perturbed() -> None:
    model, seen = small_network(dropout=0.0).train(), {}

    def loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        seen.update({"x_adv": x_adv, "weight": model.head.weight.detach().clone()})  # type: ignore[union-attr, operator]
        return F.cross_entropy(model(x_adv), y)

    expected = craft(CLIMB, model, X, Y, rng=fresh())
    before = weights(model)["head.weight"]
    objective = Perturbed(CLIMB, loss, WeightPerturbation(0.3))
    objective(model, X, Y, rng=fresh()).backward()
    assert torch.equal(seen["x_adv"], expected)
    assert (seen["weight"] - before).norm().item() == pytest.approx(0.3 * before.norm().item(), rel=1e-4)
    norm: nn.BatchNorm1d = model.body[2]  # type: ignore[assignment, index]
    assert int(norm.num_batches_tracked) == 1  # the pass of the loss, neither the ascent nor the perturbation
    objective.after_step(model)
    assert torch.equal(model.head.weight, before)


def test_a_step_is_that_of_the_gradient_at_the_perturbed_weights() -> None:
    recipe = Recipe(epochs=1, batch_size=30, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    bench, _ = workbench(recipe, network=lambda purpose: small_network(dropout=0.0))
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(Ascent):  # type: ignore[misc]
        def __call__(self, score: Any, x: Tensor, **options: Any) -> Tensor:
            x_adv = super().__call__(score, x, **options)
            seen.append((x, x_adv))
            return x_adv

    watched = Watched(threat=CLIMB.threat, step_size=0.05, steps=2)
    done = AWP(ascent=watched, base="adversarial", gamma=0.2)(bench).model
    (_, x_adv) = seen[0]
    order = torch.cdist(seen[0][0].flatten(1), (bench.data.x.float() / 255).flatten(1)).argmin(1)
    y = bench.data.y[order]
    twin = small_network(dropout=0.0).train()
    before = weights(twin)
    WeightPerturbation(0.2).perturb(twin, x_adv, y)
    F.cross_entropy(twin(x_adv), y).backward()
    for (name, found), w in zip(done.named_parameters(), twin.parameters(), strict=True):
        assert w.grad is not None
        assert torch.allclose(found, before[name] - 0.1 * w.grad, atol=1e-6), name


def trained(defense: Any) -> dict[str, Tensor]:
    return dict(defense(workbench(RECIPE)[0]).model.state_dict())


def test_without_a_perturbation_the_training_is_that_of_its_base_to_the_bit() -> None:
    assert same(trained(AWP(ascent=CLIMB, gamma=0)), trained(MART(ascent=CLIMB)))
    plain = trained(AWP(ascent=CLIMB, gamma=0, base="adversarial"))
    assert same(plain, trained(AdversarialTraining(ascent=CLIMB)))


@pytest.mark.parametrize("base", ["adversarial", "trades", "mart"])
def test_with_a_perturbation_the_training_is_another_one_and_stays_finite(base: Any) -> None:
    found = trained(AWP(ascent=CLIMB, gamma=0.05, base=base))
    assert not same(found, trained(AWP(ascent=CLIMB, gamma=0, base=base)))
    assert all(value.isfinite().all() for value in found.values())
