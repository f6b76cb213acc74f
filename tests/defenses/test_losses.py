"""Robust losses as functions of logits: closed forms, limits, and what may carry no gradient."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.losses import (
    attacked,
    balancing,
    base_loss,
    contrast,
    craft,
    mart,
    outcome,
    perturbation_term,
    trades,
)
from deconfound.defenses.mart import MART
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

CLIMB = Ascent(threat=ThreatModel(eps=0.2), step_size=0.1, steps=3)
SETTINGS: list[dict[str, Any]] = [
    {"tau": tau, "floor": floor, "parts": parts, "reduce": reduce}
    for tau in ("balancing", "one")
    for floor in (0.0, 1e-3)
    for parts in ("both", "true", "fooled")
    for reduce in ("attacked", "half")
]


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(count: int = 40, classes: int = 5, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits (count, classes) in double precision, of which some are right and some wrong."""
    z = 2 * torch.randn(count, classes, generator=fresh(seed), dtype=torch.float64)
    y = torch.where(torch.arange(count) % 3 == 0, z.argmax(1), torch.arange(count) % classes)
    assert 0 < int((z.argmax(1) == y).sum()) < count
    return z.requires_grad_(), y


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, z)
    return found


# MART and TRADES


def test_mart_of_two_classes_is_its_closed_form() -> None:
    p, q, weight = 0.7, 0.4, 3.0  # true class: clean and adversarial probability
    clean = torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
    adversarial = torch.tensor([[q, 1 - q]], dtype=torch.float64).log() + 5  # logits have no origin
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected = -math.log(q) - math.log(1.0001 - (1 - q)) + weight * divergence * (1.0000001 - p)
    assert mart(clean, adversarial, torch.tensor([0]), weight).item() == pytest.approx(expected, rel=1e-9)


def test_mart_is_a_mean_over_images_of_its_definition() -> None:
    clean, y = logits(seed=1)
    adversarial, _ = logits(seed=2)
    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    expected = 0.0
    for i, label in enumerate(y.tolist()):
        wrong = max(float(q[i, k]) for k in range(5) if k != label)
        divergence = sum(float(p[i, k] * (p[i, k] / q[i, k]).log()) for k in range(5))
        boosted = -math.log(q[i, label]) - math.log(1.0001 - wrong + 1e-12)
        expected += (boosted + 2 * divergence * (1.0000001 - float(p[i, label]))) / len(y)
    assert mart(clean, adversarial, y, 2).item() == pytest.approx(expected, rel=1e-9)
    assert gradient(mart(clean, adversarial, y, 2), clean).norm() > 1e-3  # the clean side is not detached


def test_mart_without_a_perturbation_is_its_boosted_cross_entropy() -> None:
    z, y = logits()
    same_class = F.cross_entropy(z, y)
    wrong = z.softmax(1).scatter(1, y[:, None], 0).amax(1)
    expected = same_class - (1.0001 - wrong).log().mean()
    assert mart(z, z, y, 7).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_mart_and_trades_are_finite_with_finite_gradients(scale: float) -> None:
    z, y = logits()
    clean = (scale * z.detach()).float().requires_grad_()
    adversarial = (-scale * z.detach()).float().requires_grad_()
    for loss in (mart(clean, adversarial, y, 2), trades(clean, adversarial, y, 2)):
        assert loss.isfinite()
        assert gradient(loss, clean).isfinite().all()
    assert gradient(mart(clean, adversarial, y, 2), adversarial).isfinite().all()


def test_trades_with_beta_zero_is_the_clean_cross_entropy_to_the_bit() -> None:
    clean, y = logits(seed=1)
    adversarial, _ = logits(seed=2)
    assert torch.equal(trades(clean, adversarial, y, 0), F.cross_entropy(clean, y))
    divergence = F.kl_div(
        adversarial.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean"
    )
    expected = F.cross_entropy(clean, y) + 2 * divergence
    assert trades(clean, adversarial, y, 2).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_base_loss_of_a_network_is_the_formula_of_its_logits() -> None:
    model, (x, y) = small_network(dropout=0.0).eval(), (tiny_images(12).x.float() / 255, tiny_images(12).y)
    x_adv = craft(CLIMB, model, x, y, rng=fresh())
    clean, adversarial = model(x), model(x_adv)
    wanted = {
        "adversarial": F.cross_entropy(adversarial, y),
        "trades": trades(clean, adversarial, y, 3),
        "mart": mart(clean, adversarial, y, 4),
    }
    for base, expected in wanted.items():
        found = base_loss(model, x, x_adv, y, base=base, trades_beta=3, mart_weight=4)  # type: ignore[arg-type]
        assert torch.equal(found, expected), base
    assert len({value.item() for value in wanted.values()}) == 3


def test_the_objective_of_mart_attacks_in_evaluation_mode_and_trains_in_training_mode() -> None:
    model, (x, y) = small_network(dropout=0.0).train(), tiny_images(12)
    x, twin = x.float() / 255, small_network(dropout=0.0)
    loss = MART(ascent=CLIMB, weight=3).objective(model, x, y, rng=fresh())
    adversarial = twin.train()(craft(CLIMB, twin, x, y, rng=fresh()))
    assert torch.equal(loss, mart(twin(x), adversarial, y, 3))
    assert same(
        dict(model.state_dict()), dict(twin.state_dict())
    )  # two forward passes, no step of the ascent


def test_mart_trains_on_the_bench() -> None:
    def trained(**changes: Any) -> dict[str, Tensor]:
        state = MART(ascent=CLIMB, **changes)(workbench(Recipe(epochs=1, batch_size=8))[0]).model.state_dict()
        return dict(state)

    assert same(trained(), trained(weight=2)) and not same(trained(), trained(weight=0))


def test_crafted_images_climb_the_cross_entropy_and_leave_the_model_alone() -> None:
    model, (x, y) = small_network().train(), tiny_images(12)
    x, before = x.float() / 255, snapshot(model)
    x_adv = craft(CLIMB, model, x, y, rng=fresh())
    assert same(snapshot(model), before) and not x_adv.requires_grad
    model.eval()
    assert F.cross_entropy(model(x_adv), y) > F.cross_entropy(model(x), y)


# The balancing ratio


def test_tau_of_two_classes_is_the_ratio_of_their_probabilities() -> None:
    for delta in (0.0, 0.1, 0.25, 0.49):
        p = torch.tensor([[0.5 + delta, 0.5 - delta]], dtype=torch.float64)
        assert balancing(p.log()).item() == pytest.approx((0.5 - delta) / (0.5 + delta), abs=1e-12)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=7))
def test_tau_lies_between_zero_and_the_number_of_other_classes(row: list[float]) -> None:
    tau = balancing(torch.tensor([row])).item()
    assert 0 <= tau <= (len(row) - 1) * (1 + 1e-5)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_tau_of_a_uniform_prediction_is_the_number_of_other_classes(classes: int) -> None:
    assert balancing(torch.zeros(1, classes)).item() == pytest.approx(classes - 1, rel=1e-5)


def test_tau_carries_no_gradient() -> None:
    z, y = logits()
    assert not balancing(z).requires_grad
    weight = balancing(z.detach())  # a constant by construction
    mask = attacked(z, y)
    by_hand = (weight * outcome(z, y, floor=1e-3, parts="fooled"))[mask].mean()
    assert torch.allclose(gradient(perturbation_term(z, y, parts="fooled"), z), gradient(by_hand, z))


# The effect of the perturbation


def test_the_term_is_the_loss_as_published_on_the_attacked_images() -> None:
    z, y = logits()
    p = z.detach().softmax(1)
    wrong = [i for i in range(len(y)) if int(p[i].argmax()) != int(y[i])]
    tau = [1 / float(p[i].max()) - 1 for i in wrong]
    true = [-math.log(float(p[i, y[i]]) + 1e-3) for i in wrong]
    fooled = [math.log(float(p[i].max()) + 1e-3) for i in wrong]
    both = sum(t * (a + b) for t, a, b in zip(tau, true, fooled, strict=True)) / len(wrong)
    assert perturbation_term(z, y).item() == pytest.approx(both, rel=1e-9)
    one = (sum(true) + sum(fooled)) / len(wrong)
    assert perturbation_term(z, y, tau="one").item() == pytest.approx(one, rel=1e-9)
    only = sum(t * a for t, a in zip(tau, true, strict=True)) / len(wrong)
    assert perturbation_term(z, y, parts="true").item() == pytest.approx(only, rel=1e-9)


def test_without_a_floor_the_term_of_an_image_is_its_weighted_margin() -> None:
    z, y = logits()
    for row, label in zip(z.detach(), y, strict=True):
        term = perturbation_term(row[None], label[None], floor=0)
        margin = balancing(row[None]) * (row.max() - row[label])
        assert term.item() == pytest.approx(margin.item(), abs=1e-6)


@pytest.mark.parametrize("tau", ["balancing", "one"])
def test_without_a_floor_the_gradient_of_an_attacked_image_is_tau_on_two_logits(tau: Any) -> None:
    z, y = logits()
    mask = attacked(z, y)
    weight = balancing(z) if tau == "balancing" else torch.ones(len(y), dtype=z.dtype)
    ends = F.one_hot(z.argmax(1), 5) - F.one_hot(y, 5)
    found = gradient(perturbation_term(z, y, tau=tau, floor=0), z)
    assert torch.allclose(found, ends * (weight * mask / mask.sum())[:, None], atol=1e-12)
    assert torch.allclose(found.sum(1), torch.zeros(len(y), dtype=z.dtype), atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_an_image_that_is_classified_right_has_no_gradient_at_all(setting: dict[str, Any]) -> None:
    z, y = logits()
    found = gradient(perturbation_term(z, y, **setting), z)
    mask = attacked(z, y)
    assert not found[~mask].any() and found[mask].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["ordinary", "saturated"])
def test_without_attacked_images_the_term_and_its_gradient_are_zero(
    setting: dict[str, Any], scale: float
) -> None:
    z = (scale * torch.randn(9, 4, generator=fresh())).requires_grad_()
    term = perturbation_term(z, z.argmax(1), **setting)
    assert term.item() == 0 and torch.equal(gradient(term, z), torch.zeros_like(z))
    nobody = z[:0]
    assert perturbation_term(nobody, z.argmax(1)[:0], **setting).item() == 0


@pytest.mark.parametrize("floor", [0.0, 1e-3, 0.1])
@given(rows=st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_term_of_an_image_is_never_negative_and_the_floor_bounds_it(
    floor: float, rows: list[list[float]]
) -> None:
    z = torch.tensor(rows)
    y = torch.arange(len(rows)) % 3
    for row, label in zip(z, y, strict=True):
        term = perturbation_term(row[None], label[None], floor=floor).item()
        assert term >= 0
        if floor:
            p = row.softmax(0).max().item()
            assert term <= balancing(row[None]).item() * math.log((p + floor) / floor) + 1e-4


def test_the_parts_add_up_and_a_mean_over_the_half_counts_the_robust_images_too() -> None:
    z, y = logits()
    for floor in (0.0, 1e-3):
        parts = [perturbation_term(z, y, floor=floor, parts=part).item() for part in ("true", "fooled")]
        assert sum(parts) == pytest.approx(perturbation_term(z, y, floor=floor).item(), rel=1e-9)
    share = attacked(z, y).double().mean()
    half = perturbation_term(z, y, reduce="half").item()
    assert half == pytest.approx((share * perturbation_term(z, y)).item(), rel=1e-9)
    assert share < 1


# The contrast


def test_the_contrast_of_known_groups_is_its_closed_form() -> None:
    value, treated = torch.tensor([3.0, 1.0, 2.0, 6.0]), torch.tensor([True, False, False, False])
    assert contrast(value, treated).item() == pytest.approx((4 / 1 - 1) * 3 - (4 / 3 - 1) * 3)


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=1, max_size=12))
def test_the_contrast_changes_its_sign_when_the_groups_are_exchanged(pairs: list[tuple[float, bool]]) -> None:
    value, treated = torch.tensor([v for v, _ in pairs]), torch.tensor([t for _, t in pairs])
    assert contrast(value, treated).item() == pytest.approx(-contrast(value, ~treated).item(), abs=1e-4)


@pytest.mark.parametrize("everybody", [True, False])
def test_the_contrast_with_an_empty_group_is_zero_with_a_zero_gradient(everybody: bool) -> None:
    value = torch.randn(6, generator=fresh()).requires_grad_()
    found = contrast(value, torch.full((6,), everybody))
    assert found.item() == 0 and torch.equal(gradient(found.abs(), value), torch.zeros(6))


def test_the_outcome_of_a_robust_image_is_about_its_likeliest_wrong_class() -> None:
    z = torch.tensor([[4.0, 1.0, 2.0]])
    assert outcome(z, torch.tensor([0]), floor=0, parts="both").item() == pytest.approx(2 - 4)
    assert outcome(z, torch.tensor([1]), floor=0, parts="both").item() == pytest.approx(4 - 1)
