"""HELP: the helper images, the frozen network that labels them, and what the loss is made of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from killing import killed_at
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses import help as help_module
from deconfound.defenses.awp import AWP, WeightPerturbation
from deconfound.defenses.help import HELP, Helped, helpers, standard_network
from deconfound.defenses.losses import craft, mart
from deconfound.defenses.standard import cross_entropy
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

CLIMB = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def frozen_network() -> Classifier:
    return small_network("standard").eval().requires_grad_(False)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_helper_image_lies_twice_as_far_as_the_attack_and_inside_the_box() -> None:
    x = torch.tensor([0.5, 0.5, 0.95, 0.1])
    x_adv = torch.tensor([0.6, 0.45, 1.0, 0.0])
    assert torch.allclose(helpers(x, x_adv), torch.tensor([0.7, 0.4, 1.0, 0.0]))


def test_the_loss_is_mart_plus_the_weighted_loss_of_helpers_with_the_label_of_the_standard_network() -> None:
    model, twin, standard = (
        small_network(dropout=0.0).train(),
        small_network(dropout=0.0).train(),
        frozen_network(),
    )
    y = 2 - Y
    climb = Ascent(threat=ThreatModel(eps=0.5), step_size=0.25, steps=3)
    objective = HELP(ascent=climb, gamma=0.1, mart_weight=3, help_weight=0.5).objective(standard)
    loss = objective(model, X, y, rng=fresh())

    x_adv = craft(climb, twin, X, y, rng=fresh())
    WeightPerturbation(0.1).perturb(twin, x_adv, y)
    adversarial, clean = twin(x_adv), twin(X)
    beyond = twin((X + 2 * (x_adv - X)).clamp(0, 1))
    seen = standard(x_adv).argmax(1)
    expected = mart(clean, adversarial, y, 3) + 0.5 * F.cross_entropy(beyond, seen)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not torch.equal(seen, y) and not torch.equal(seen, standard(X).argmax(1))
    assert same(snapshot(model), snapshot(twin))  # three forward passes in this order, at perturbed weights


def test_the_standard_network_is_the_same_after_training_and_asks_for_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[tuple[Classifier, dict[str, Any]]] = []

    def keeping(*args: Any, **options: Any) -> Classifier:
        network = standard_network(*args, **options)
        kept.append((network, snapshot(network)))
        return network

    monkeypatch.setattr(help_module, "standard_network", keeping)
    done = HELP(ascent=CLIMB)(workbench(RECIPE)[0])
    network, before = kept[0]
    assert same(snapshot(network), before)
    assert not network.training and not any(w.requires_grad for w in network.parameters())
    assert not same(dict(done.model.state_dict()), dict(network.state_dict()))


def test_the_standard_network_is_trained_in_its_own_phase_with_what_is_said_of_it() -> None:
    bench, trainer = workbench(RECIPE)
    found = standard_network(bench, epochs=3, lr=0.02)
    assert [record["epoch"] for record in trainer.history["standard"]] == [1, 2, 3]
    other, twin = workbench(Recipe(epochs=3, batch_size=8, lr=0.02))[0], small_network("standard")
    other.fit(twin, cross_entropy, phase="standard")
    assert same(dict(found.state_dict()), dict(twin.state_dict()))
    standard_network(bench, epochs=None, lr=None)
    assert len(trainer.history["standard"]) == RECIPE.epochs


def trained(defense: Any, **options: Any) -> dict[str, Tensor]:
    return dict(defense(workbench(RECIPE, **options)[0]).model.state_dict())


def test_without_helpers_the_training_is_awp_to_the_bit_and_with_them_it_is_not() -> None:
    awp = trained(AWP(ascent=CLIMB, mart_weight=1))
    assert same(trained(HELP(ascent=CLIMB, help_weight=0)), awp)
    assert not same(trained(HELP(ascent=CLIMB)), awp)


def test_the_labels_of_the_helpers_matter() -> None:
    model, right = small_network(dropout=0.0).eval(), frozen_network()
    wrong = small_network("standard", seed=3).eval().requires_grad_(False)
    x_adv = craft(CLIMB, model, X, Y, rng=fresh())
    assert not torch.equal(right(x_adv).argmax(1), wrong(x_adv).argmax(1))
    losses = [Helped(network, 1.0, 0.25)(model, X, x_adv, Y).item() for network in (right, wrong)]
    assert losses[0] != losses[1]


def test_a_killed_run_goes_on_with_the_same_standard_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = HELP(ascent=CLIMB, standard_epochs=1)
    whole = trained(defense)
    # four steps of the standard network, one epoch of the other, one step more
    batches = killed_at(10, lambda: trained(defense, scratch=tmp_path), monkeypatch)
    torch.manual_seed(99)
    assert same(trained(defense, scratch=tmp_path), whole)
    assert batches[0] == 10 + 4  # the last epoch only


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    loss = HELP(ascent=CLIMB).objective(frozen_network())(model, X, Y, rng=fresh())
    loss.backward()
    assert loss.isfinite()
    gradients: list[Tensor] = [w.grad for w in model.parameters() if w.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
