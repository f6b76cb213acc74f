"""Adversarial training and TRADES: exact losses, their limits, and what the attack inside leaves alone."""

import pytest
import torch
from oracle_models import DUAL, Linear, linear_problem, same, small_network, tiny_images, workbench
from torch import nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import kl
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.standard import Standard
from deconfound.defenses.trades import TRADES
from deconfound.defenses.workbench import Defense
from deconfound.models.classifier import eval_mode
from deconfound.recipe import Recipe
from deconfound.threat import Norm, ThreatModel

RECIPE = Recipe(epochs=2, batch_size=8)


def ascent(eps: float = 0.05, norm: Norm = "linf", steps: int = 4) -> Ascent:
    return Ascent(threat=ThreatModel(norm=norm, eps=eps), step_size=max(eps / 2, 1e-6), steps=steps)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(defense: Defense) -> dict[str, torch.Tensor]:
    return defense(workbench(RECIPE)[0]).model.state_dict()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("clean", [0.0, 0.25])
def test_the_adversarial_loss_of_a_linear_model_is_that_of_its_exact_worst_case(
    norm: Norm, clean: float
) -> None:
    model, x, _ = linear_problem()
    y = torch.arange(64) % 2  # also images that the model gets wrong
    defense = AdversarialTraining(ascent=ascent(0.05, norm, steps=30), clean=clean)
    signed = model.margin(x) * (2 * y - 1)
    worst = F.softplus(-2 * (signed - 0.05 * model.w.norm(p=DUAL[norm]))).mean()
    expected = (1 - clean) * worst + clean * F.softplus(-2 * signed).mean()
    assert defense.objective(model, x, y, rng=fresh()).item() == pytest.approx(expected.item(), abs=1e-4)


def test_trades_adds_beta_times_the_divergence_from_the_clean_prediction_to_the_clean_loss() -> None:
    model, x, y = small_network(dropout=0.0).eval(), tiny_images(12).x.float() / 255, tiny_images(12).y
    climb = ascent(0.2)
    with eval_mode(model):
        clean = model(x)
        x_adv = climb(lambda z: kl(clean, model(z)), x, rng=fresh())
        extra = F.kl_div(
            model(x_adv).log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean"
        )
    expected = F.cross_entropy(clean, y) + 3 * extra
    found = TRADES(ascent=climb, beta=3).objective(model, x, y, rng=fresh())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert extra > 1e-3


def test_the_ascent_of_trades_climbs_away_from_the_clean_prediction_not_from_the_label() -> None:
    """On a linear model both classes are pushed over the boundary, whatever the label says."""
    model, x, _ = linear_problem()
    climb = ascent(0.03, steps=30)
    shift = 0.03 * model.w.norm(p=1)
    with torch.no_grad():
        both = torch.stack([kl(model(x), model(x) + torch.tensor([-s, s])) for s in (shift, -shift)])
        expected = both.amax(0).mean()
        zero = torch.zeros(64).long()
        loss = TRADES(ascent=climb, beta=1).objective(model, x, zero, rng=fresh())
        divergence = loss - F.cross_entropy(model(x), zero)
    assert divergence.item() == pytest.approx(expected.item(), rel=0.05)


def test_the_divergence_is_that_of_torch() -> None:
    p, q = torch.randn(2, 9, 5, generator=fresh(), dtype=torch.float64) * 3
    expected = F.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(kl(p, q), expected)
    assert torch.equal(kl(p, p), torch.zeros(9, dtype=torch.float64))
    assert (kl(p, q) > 0).all() and not torch.allclose(kl(p, q), kl(q, p))


@pytest.mark.parametrize(
    "defense",
    [TRADES(beta=0), AdversarialTraining(ascent=ascent(0.0))],
    ids=["trades without divergence", "adversarial training without a ball"],
)
def test_without_its_own_term_a_defense_is_standard_training_to_the_bit(defense: Defense) -> None:
    assert same(trained(defense), trained(Standard()))


@pytest.mark.parametrize("defense", [TRADES(ascent=ascent(0.2)), AdversarialTraining(ascent=ascent(0.2))])
def test_with_its_own_term_a_defense_is_not_standard_training(defense: Defense) -> None:
    assert not same(trained(defense), trained(Standard()))


@pytest.mark.parametrize(
    "defense", [TRADES(ascent=ascent()), AdversarialTraining(ascent=ascent(), clean=0.5)]
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["no gradient", "ordinary", "saturated"])
@pytest.mark.parametrize("fooled", ["nobody", "everybody"])
def test_loss_and_gradient_are_finite_when_nobody_or_everybody_is_fooled(
    defense: TRADES | AdversarialTraining, scale: float, fooled: str
) -> None:
    model, x, y = linear_problem()
    steep = Linear(scale * model.w.detach())
    labels = (steep.margin(x) > 0).long()
    loss = defense.objective(steep, x, labels if fooled == "nobody" else 1 - labels, rng=fresh())
    loss.backward()
    assert loss.isfinite() and steep.w.grad is not None and steep.w.grad.isfinite().all()


@pytest.mark.parametrize(
    ("defense", "passes"),
    [
        (AdversarialTraining(ascent=ascent()), 1),
        (AdversarialTraining(ascent=ascent(), clean=0.5), 2),
        (TRADES(ascent=ascent()), 2),
    ],
)
def test_the_attack_inside_leaves_buffers_gradients_and_modes_alone(
    defense: TRADES | AdversarialTraining, passes: int
) -> None:
    model = small_network().train()
    images = tiny_images(12)
    defense.objective(model, images.x.float() / 255, images.y, rng=fresh()).backward()
    norm: nn.BatchNorm1d = model.body[2]  # type: ignore[assignment, index]
    assert (
        int(norm.num_batches_tracked) == passes
    )  # the passes that the loss itself needs, no step of the ascent
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())


def test_the_objective_and_the_attack_of_the_same_name_climb_alike() -> None:
    model, x, y = small_network(dropout=0.0).eval(), tiny_images(12).x.float() / 255, tiny_images(12).y
    attack = PGD(eps=0.05, step_size=0.025, steps=4)
    on_attacked = F.cross_entropy(model(attack(model, x, y, rng=fresh())), y)
    assert AdversarialTraining(ascent=ascent()).objective(model, x, y, rng=fresh()).item() == pytest.approx(
        on_attacked.item()
    )
