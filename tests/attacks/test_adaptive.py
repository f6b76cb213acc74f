"""The adaptive attack: PGD where the term does not count, the exact optimum where everything is linear."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from adaptive_cases import COUNT, Distant, Slope, X, Y, fresh, linear, sharp, style_term
from oracle_models import CLASSES, DUAL, SIDE, same, small_network, snapshot, tiny_images
from torch import Tensor

from deconfound.attacks.adaptive import AdaptivePGD, Sweep, Weighted
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import margin
from deconfound.estimators import Estimators, EstimatorSpec
from deconfound.models.classifier import Classifier
from deconfound.rng import global_seed
from deconfound.threat import Norm, ThreatModel

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


A = torch.randn(SIDE * SIDE, generator=fresh(5))


# At weight 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "l2", "eps": 0.4, "score": "margin"},
        {"restarts": 3, "score": "dlr"},
        {"early_stop": True, "restarts": 2, "step_size": 0.03},
    ],
)
def test_at_weight_zero_it_is_pgd_of_the_same_parameters_to_the_bit(options: dict[str, Any]) -> None:
    parameters = {"eps": 0.1, "steps": 6} | options
    model = small_network()
    attack = AdaptivePGD(**parameters)
    expected = PGD(**parameters)(model, X, Y, rng=fresh())
    assert torch.equal(Weighted(attack, 0.0, Distant())(model, X, Y, rng=fresh()), expected)
    assert torch.equal(attack(model, X, Y, rng=fresh()), expected)  # without a term
    assert not torch.equal(Weighted(attack, 0.5, Distant())(model, X, Y, rng=fresh()), expected)


def test_at_weight_zero_a_term_that_overflows_does_no_harm() -> None:
    model, attack = small_network(), AdaptivePGD(eps=0.1, steps=4)
    overflow = Slope(torch.full((8,), torch.inf))
    expected = PGD(eps=0.1, steps=4)(model, X, Y, rng=fresh())
    assert torch.equal(Weighted(attack, 0.0, overflow)(model, X, Y, rng=fresh()), expected)


def test_knowing_nothing_it_is_itself_and_knowing_a_term_it_is_the_sweep() -> None:
    attack, term = AdaptivePGD(eps=0.1), Distant()
    assert attack.knowing(None) is attack
    told = attack.knowing(term)
    assert isinstance(told, Sweep) and told.term is term and told.threat == attack.threat


# The optimum


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_where_score_and_term_are_linear_the_optimum_of_their_mixture_is_reached(
    norm: Norm, weight: float
) -> None:
    model = linear()
    eps, w = 0.1, model.head.weight.detach()
    attack = AdaptivePGD(eps=eps, norm=norm, steps=30, step_size=eps, score="margin")
    x_adv = Weighted(attack, weight, Slope(A))(model, X, Y % 2, rng=fresh())
    towards = (w[1] - w[0])[None] * (1 - 2 * (Y % 2))[:, None]  # the gradient of the margin
    slope = (1 - weight) * towards + weight * A
    gained = ((x_adv - X).flatten(1) * slope).sum(1)
    assert torch.allclose(gained, eps * slope.norm(p=DUAL[norm], dim=1), rtol=1e-4)


def test_at_weight_one_the_term_gains_all_that_it_can_and_the_score_does_not_count() -> None:
    model = linear()
    found = [
        Weighted(AdaptivePGD(eps=0.1, steps=30), 1.0, Slope(A))(model, X, y, rng=fresh())
        for y in (Y % 2, 1 - Y % 2)
    ]
    corner = (X + 0.1 * A.sign().view(1, 1, SIDE, SIDE)).clamp(0, 1)
    for x_adv in found:
        assert torch.allclose(x_adv, corner, atol=1e-6)


# Budget, inputs, model


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_it_stays_in_its_budget_and_in_the_box(norm: Norm, weight: float) -> None:
    attack = AdaptivePGD(eps=0.3, norm=norm, steps=5, step_size=0.2)
    x = torch.rand(COUNT, 1, SIDE, SIDE, generator=fresh(8)).round()
    for found in (Weighted(attack, weight, Distant()), attack.knowing(Distant())):
        x_adv = found(small_network(), x, Y, rng=fresh())
        assert found.threat == ThreatModel(norm=norm, eps=0.3)
        assert found.threat.contains(x, x_adv).all() and not torch.equal(x, x_adv)


@pytest.mark.parametrize("training", [True, False])
def test_model_and_inputs_are_as_they_were(training: bool) -> None:
    model = small_network().train(training)
    model.body[2].eval()
    x, y = X.clone(), Y.clone()
    before = snapshot(model)
    x_adv = AdaptivePGD(eps=0.1, steps=3).knowing(Distant())(model, x, y, rng=fresh())
    assert same(snapshot(model), before) and same((x, y), (X, Y))
    assert not x_adv.requires_grad and x_adv.data_ptr() != x.data_ptr()


def test_a_radius_of_zero_and_an_empty_batch_come_back() -> None:
    model, told = small_network(), AdaptivePGD(eps=0.0).knowing(Distant())
    assert torch.equal(told(model, X, Y, rng=fresh()), X)
    assert told.at(eps=0.1)(model, X[:0], Y[:0], rng=fresh()).shape == X[:0].shape


# The sweep


def test_members_are_the_weights_in_order_and_take_other_parameters() -> None:
    told = AdaptivePGD(eps=0.1, weights=(1.0, 0.25, 0.0)).knowing(Distant())
    assert list(told.members()) == ["w=1", "w=0.25", "w=0"]
    assert [member.weight for member in told.members().values()] == [1.0, 0.25, 0.0]
    for changed in (told.at(steps=7), *(m.at(steps=7) for m in told.members().values())):
        assert changed.spec == AdaptivePGD(eps=0.1, weights=(1.0, 0.25, 0.0), steps=7)
        assert changed.term is told.term
    assert [m.at(steps=7).weight for m in told.members().values()] == [1.0, 0.25, 0.0]
    assert list(AdaptivePGD(eps=0.1).knowing(Distant()).members()) == [
        "w=0", "w=0.25", "w=0.5", "w=0.75", "w=1",
    ]  # fmt: skip


def test_the_sweep_returns_the_first_weight_that_fools_and_otherwise_the_last() -> None:
    model, x = small_network().eval(), tiny_images(30).x.float() / 510 + 0.25
    with torch.no_grad():
        y = model(x).argmax(1)
    attack = AdaptivePGD(eps=0.04, steps=4, weights=(1.0, 0.5, 0.0))
    told, rng = attack.knowing(Distant()), fresh()
    expected, left = x.clone(), torch.arange(30)
    fooled_by = []
    for weight in (1.0, 0.5, 0.0):
        found = Weighted(attack, weight, Distant())(model, x[left], y[left], rng=rng)
        expected[left] = found
        with torch.no_grad():
            stands = model(found).argmax(1) == y[left]
        fooled_by.append(int((~stands).sum()))
        left = left[stands]
    assert torch.equal(told(model, x, y, rng=fresh()), expected)
    assert all(fooled_by) and len(left)


# Early stop and restarts


class Asked(Classifier):
    """Remembers the iterates whose gradient somebody wants."""

    asked: list[Tensor]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.requires_grad:
            self.asked.append(x.detach().clone())
        return super().both(x)


def asked(model: Classifier) -> Asked:
    model.__class__ = Asked
    model.asked = []  # type: ignore[attr-defined]
    return model  # type: ignore[return-value]


def test_with_early_stop_an_image_stays_where_the_model_first_errs() -> None:
    model = asked(sharp(small_network()))
    with torch.no_grad():
        y = model.eval()(X).argmax(1)
    attack = AdaptivePGD(eps=0.1, steps=12, step_size=0.02)
    last = Weighted(attack, 0.5, Distant())(model, X, y, rng=fresh())
    path = torch.stack(model.asked)  # (steps, N, ...)
    with torch.no_grad():
        errs = torch.stack([model(z).argmax(1) != y for z in path])
    first = errs.float().argmax(0)
    expected = torch.where(errs.any(0).view(-1, 1, 1, 1), path[first, torch.arange(COUNT)], last)
    model.asked = []
    stopping = Weighted(attack, 0.5, Distant()).at(early_stop=True)
    assert torch.allclose(stopping(model, X, y, rng=fresh()), expected, atol=1e-6)
    assert errs.any(0).sum() not in (0, COUNT) and (first[errs.any(0)] > 0).any()
    assert sum(map(len, model.asked)) < path.shape[0] * COUNT


def test_restarts_keep_the_largest_margin_of_independent_runs() -> None:
    model, rng = small_network().eval(), fresh()
    attack = AdaptivePGD(eps=0.3, steps=2)
    runs = [Weighted(attack, 0.5, Distant())(model, X, Y, rng=rng) for _ in range(3)]
    together = Weighted(attack, 0.5, Distant()).at(restarts=3)(model, X, Y, rng=fresh())
    with torch.no_grad():
        margins = torch.stack([margin(model(z), Y) for z in runs])
        assert torch.equal(margin(model(together), Y), margins.amax(0))
    assert len(margins.argmax(0).unique()) > 1


# Images of a batch


def information_term(model: Classifier) -> Any:
    """The term of NAMID with estimators as they are initialised."""
    namid = pytest.importorskip("deconfound.defenses.namid")
    with global_seed(fresh(3)):
        estimators = Estimators(EstimatorSpec(hidden=8, widths=(4, 4)), (1, SIDE, SIDE), CLASSES)
    bank = tiny_images(6, seed=4).x.float() / 255
    return namid.InformationTerm(namid.Learnt(estimators, bank, 0.1 * bank), "donsker_varadhan")


TERMS: list[Callable[[Classifier], Any]] = [style_term, information_term]


@pytest.mark.parametrize("make", TERMS)
def test_the_term_of_a_batch_is_that_of_its_parts_in_any_order(make: Callable[[Classifier], Any]) -> None:
    model = small_network()
    term = make(model)
    model.eval().requires_grad_(False)
    z = X + 0.1 * torch.rand(X.shape, generator=fresh(7))
    everyone = torch.arange(COUNT)
    whole = term(X, Y, *model.both(X))
    expected = whole(z, *model.both(z), everyone)
    assert expected.std() > 1e-3
    for part in (*everyone.split(COUNT // 2), torch.tensor([7, 2, 9])):
        few = z[part].requires_grad_()
        value = whole(few, *model.both(few), part)  # rows of a batch whose other images have left
        assert torch.allclose(value, expected[part], atol=1e-5)
        alone = term(X[part], Y[part], *model.both(X[part]))
        assert torch.allclose(
            alone(few, *model.both(few), torch.arange(len(part))), expected[part], atol=1e-5
        )
        (slope,) = torch.autograd.grad(value.sum(), few)
        assert slope.flatten(1).abs().amax(1).min() > 0


@pytest.mark.parametrize("make", TERMS)
def test_an_attack_on_a_batch_is_the_attack_on_its_halves(make: Callable[[Classifier], Any]) -> None:
    model = small_network()
    attack = Weighted(AdaptivePGD(eps=0.05, norm="linf", steps=5, early_stop=True), 0.5, make(model))
    whole, rng = attack(model, X, Y, rng=fresh()), fresh()
    halves = [
        attack(model, x, y, rng=rng) for x, y in zip(X.split(6), Y.split(6), strict=True)
    ]  # uniform draws of two halves are those of the whole
    assert torch.allclose(whole, torch.cat(halves), atol=1e-5)
