"""WMIM: what it subtracts from the loss of adversarial training, what it leaves alone, and what an attacker is told."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.adaptive import AdaptivePGD
from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.losses import craft
from deconfound.defenses.namid import Learnt, learn
from deconfound.defenses.standard import Standard
from deconfound.defenses.wmim import WMIM, LostInformation, MaximisedInformation
from deconfound.defenses.workbench import Workbench
from deconfound.errors import UserError
from deconfound.estimators import Estimators, EstimatorSpec
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.rng import global_seed
from deconfound.storage import read_weights, write_weights
from deconfound.threat import ThreatModel

BOUNDS: list[Any] = ["released", "donsker_varadhan"]
CLIMB = Ascent(threat=ThreatModel(eps=0.2), step_size=0.1, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
TINY = EstimatorSpec(hidden=8, widths=(2, 3), epochs=2, batch_size=16, lr=1e-2, training="max_only")
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def _start() -> tuple[Classifier, Tensor]:
    bench, _ = workbench(Recipe(epochs=12, batch_size=8))
    model = Standard()(bench).model
    return model, PGD(eps=0.2, steps=3)(model, bench.data.x / 255, bench.data.y, rng=fresh())


def started() -> Workbench:
    """A bench with a network that has learnt, and the training set attacked on it."""
    bench, _ = workbench(RECIPE)
    return replace(bench, start=copy.deepcopy(_start()[0]), crafted=_start()[1].clone())


@cache
def learnt_once() -> Learnt:
    return learn(started(), TINY)


def estimators() -> Estimators:
    return copy.deepcopy(learnt_once().estimators)


def objective(made: Estimators | None = None, **settings: Any) -> MaximisedInformation:
    return MaximisedInformation(WMIM(**{"ascent": CLIMB} | settings), made or estimators())


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_information_of_perturbed_images_and_their_outputs_is_subtracted(bound: Any) -> None:
    model, made = small_network(dropout=0.0).eval(), estimators()
    found = objective(made, weight=0.7, bound=bound)(model, X, Y, rng=fresh())
    x_adv = craft(CLIMB, model, X, Y, rng=fresh())
    logits = model(x_adv)
    own, of_clean, of_noise = (
        made.natural.estimate(logits, pattern, bound=bound).mean() for pattern in (x_adv, X, x_adv - X)
    )
    assert found.item() == pytest.approx((F.cross_entropy(logits, Y) - 0.7 * own).item(), rel=1e-5)
    assert min(abs(own), abs(own - of_clean), abs(own - of_noise)) > 1e-3


def test_the_network_climbs_the_estimate() -> None:
    """The gradients of two weights differ by minus the difference times the gradient of the estimate."""
    slopes = []
    for weight in (0.5, 0.0):
        model = small_network(dropout=0.0).eval()
        objective(weight=weight)(model, X, Y, rng=fresh()).backward()
        slopes.append(model.head.weight.grad)
    model = small_network(dropout=0.0).eval()
    x_adv = craft(CLIMB, model, X, Y, rng=fresh())
    estimators().natural.estimate(model(x_adv), x_adv).mean().backward()
    slope = model.head.weight.grad
    assert slope is not None and slope.abs().max() > 1e-2
    assert torch.allclose(slopes[0] - slopes[1], -0.5 * slope, atol=1e-6)  # type: ignore[operator]


def test_the_adversarial_pair_is_not_read() -> None:
    made, other = estimators(), estimators()
    for parameter in other.adversarial.parameters():
        parameter.add_(1.0)
    losses = [objective(e)(small_network().eval(), X, Y, rng=fresh()) for e in (made, other)]
    assert torch.equal(*losses)


def test_without_weight_a_step_is_adversarial_training_to_the_bit() -> None:
    model, twin = small_network().train(), small_network().train()
    with global_seed(fresh(1)):  # dropout
        found = objective(weight=0)(model, X, Y, rng=fresh())
    with global_seed(fresh(1)):
        expected = AdversarialTraining(ascent=CLIMB).objective(twin, X, Y, rng=fresh())
    found.backward(), expected.backward()
    assert torch.equal(found, expected) and same(snapshot(model), snapshot(twin))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_run_is_adversarial_training_to_the_bit_exactly_when_it_has_no_weight(weight: float) -> None:
    done = WMIM(ascent=CLIMB, weight=weight, estimator=TINY)(started())
    plain = AdversarialTraining(ascent=CLIMB)(workbench(RECIPE)[0])
    assert same(dict(done.model.state_dict()), dict(plain.model.state_dict())) == (weight == 0)


def test_a_step_leaves_the_estimator_alone_and_the_estimator_leaves_the_start_alone() -> None:
    bench = started()
    bench.start.train()  # type: ignore[union-attr]
    before = snapshot(bench.start)  # type: ignore[arg-type]
    done = WMIM(ascent=CLIMB, weight=0.5, estimator=TINY)(bench)
    assert same(snapshot(bench.start), before)  # type: ignore[arg-type]
    assert same(dict(done.parts), learnt_once().tensors())  # as they were before the first step
    made, model = estimators(), small_network()
    before = snapshot(made)
    objective(made)(model, X, Y, rng=fresh()).backward()
    assert same(snapshot(made), before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("missing", ["start", "crafted"])
def test_a_run_without_start_or_crafted_set_is_told_what_to_ask_for(missing: str) -> None:
    with pytest.raises(UserError, match="starts_from, crafted_by"):
        WMIM(ascent=CLIMB, estimator=TINY)(replace(started(), **{missing: None}))
    assert set(WMIM.needs) == {"starts_from", "crafted_by"}


def test_the_estimator_is_trained_by_plain_maximisation_unless_told_otherwise() -> None:
    assert WMIM().estimator.training == "max_only"


# What an attacker is told


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_term_is_the_information_that_the_loss_raises_with_the_sign_of_an_attacker(
    bound: Any, tmp_path: Path
) -> None:
    learnt, model = learnt_once(), _start()[0]
    write_weights(tmp_path / "parts.safetensors", learnt.tensors())
    term = WMIM(estimator=TINY, bound=bound).term(model, read_weights(tmp_path / "parts.safetensors"))
    rows, z = torch.tensor([4, 0, 7]), (X[[4, 0, 7]] + 0.05).clamp(0, 1)
    logits = model(z).detach()
    found = term(X, Y, *model.both(X))(z, model.features(z), logits, rows)
    expected = -learnt.estimators.natural.estimate(logits, z, bound=bound, bank=learnt.banks().natural)
    assert torch.allclose(found, expected, atol=1e-6) and expected.std() > 0.01


def test_the_term_of_an_image_does_not_depend_on_its_batch() -> None:
    model, term = _start()[0], LostInformation(learnt_once(), "released")
    logits = model(X).detach()
    whole = term(X, Y, *model.both(X))(X, logits, logits, torch.arange(12))
    for i in range(12):
        one = slice(i, i + 1)
        alone = term(X[one], Y[one], *model.both(X[one]))(X[one], logits[one], logits[one], torch.tensor([0]))
        assert alone.item() == pytest.approx(whole[i].item(), abs=1e-5)
    assert whole.std() > 0.01


def test_an_attack_that_climbs_the_term_alone_lowers_the_information() -> None:
    model, learnt = copy.deepcopy(_start()[0]), learnt_once()
    sweep = AdaptivePGD(eps=0.1, steps=8, step_size=0.02, weights=(1.0,)).knowing(
        LostInformation(learnt, "released")
    )

    def information(z: Tensor) -> float:
        with torch.no_grad():
            return float(learnt.estimators.natural.estimate(model(z), z, bank=learnt.banks().natural).mean())

    start = sweep.threat.random_start(X, rng=fresh(1))
    assert information(sweep(model, X, Y, rng=fresh(1))) < information(start) - 0.05
