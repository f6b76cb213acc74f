"""The adaptive attack inside an evaluation: what it is told, what it costs, what it reports."""

from typing import Any

import pytest
import torch
from adaptive_cases import COUNT, X, Y, fresh, linear, style_term
from oracle_models import SIDE, small_network, tiny_images, workbench
from torch import Tensor

from deconfound.attacks import ATTACKS
from deconfound.attacks.adaptive import AdaptivePGD, Weighted
from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.defenses.causaladv import CausalAdv
from deconfound.engine import Engine
from deconfound.errors import ModelRaisedError
from deconfound.evaluation import Evaluation
from deconfound.models.classifier import Classifier
from deconfound.models.speed import Guarded, folded
from deconfound.recipe import Recipe
from deconfound.registry import build
from deconfound.threat import ThreatModel
from deconfound.types import Aim


def test_a_guarded_classifier_counts_the_images_of_both() -> None:
    model = small_network().eval()
    guarded = Guarded(model)
    x = X.clone().requires_grad_()
    features, logits = guarded.both(x)
    assert torch.equal(features, model.features(X)) and torch.equal(logits, model(X))
    assert (guarded.forward_passes, guarded.backward_passes) == (COUNT, 0)
    torch.autograd.grad(logits.sum() + features.sum(), x)
    guarded.both(X[:5])
    assert (guarded.forward_passes, guarded.backward_passes) == (COUNT + 5, COUNT)


def test_what_both_raises_is_an_error_of_the_model() -> None:
    with pytest.raises(ModelRaisedError, match="RuntimeError"):
        Guarded(small_network()).both(torch.zeros(2, 1, 3, 3))


def test_a_folded_classifier_gives_the_same_features_and_logits() -> None:
    model = small_network().eval()
    light = folded(model, X[:4])
    assert light is not model and isinstance(light, Classifier)
    for found, expected in zip(light.both(X), model.both(X), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_every_weight_costs_a_pass_per_step_and_one_for_the_clean_images(weight: float) -> None:
    model = small_network().eval()
    guarded = Guarded(model)
    Weighted(AdaptivePGD(eps=0.1, steps=5), weight, style_term(small_network()))(guarded, X, Y, rng=fresh())
    assert guarded.forward_passes == COUNT * 6 and guarded.backward_passes == COUNT * 5


def silent(remark: str = "", advance: int = 1) -> None:
    """Progress that nobody watches."""


def evaluated(model: Classifier, term: Any, **block: Any) -> Evaluation:
    found = Evaluation(Engine(model, tiny_images(60, seed=2), 0), term=term)
    found.robust(
        {"adaptive": {"kind": "adaptive", "eps": 0.12, "steps": 5, **block}}, silent, alone=["adaptive"]
    )
    return found


def test_an_evaluation_that_is_told_the_term_sweeps_and_never_reports_more_than_pgd() -> None:
    defense = CausalAdv(ascent=Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=3))
    done = defense(workbench(Recipe(epochs=6, batch_size=8))[0])
    term = defense.term(done.model, done.parts)
    told = evaluated(done.model, term)
    alone = evaluated(done.model, term, weights=(0.0,))

    assert [cost.member for cost in told.costs] == ["w=0", "w=0.25", "w=0.5", "w=0.75", "w=1"]
    assert told.costs[0] == alone.costs[0]
    for before, after in zip(told.costs, told.costs[1:], strict=False):
        assert after.attacked == before.attacked - before.broken and not after.fault
    hits, base = (found.entries[0].hits for found in (told, alone))
    assert not (hits & ~base).any() and 0 < hits.sum() <= base.sum() < 60
    assert [entry.attack for entry in told.entries] == ["adaptive", "worst_case"]

    engine = Engine(
        done.model, tiny_images(60, seed=2), 0
    )  # PGD by itself, with the draws of the first member
    pgd, _ = engine.standing(PGD(eps=0.12, steps=5), "adaptive/w=0", alone.right())
    assert base.nonzero()[0].tolist() == pgd.tolist()


@pytest.mark.parametrize(("axis", "value"), [("eps", 0.12), ("steps", 5)])
def test_a_curve_of_the_adaptive_attack_is_told_the_term_as_well(axis: str, value: float) -> None:
    model = small_network().eval()
    found = Evaluation(Engine(model, tiny_images(60, seed=2), 0), term=style_term(small_network("other")))
    block = {"kind": "adaptive", "eps": 0.12, "steps": 5, "weights": [0, 1]}
    found.curve("adaptive", block, axis, [value], silent)
    assert [cost.member for cost in found.costs] == ["w=0", "w=1"]


def test_an_evaluation_without_a_term_runs_the_attack_as_one() -> None:
    found = evaluated(small_network().eval(), None)
    assert [(cost.attack, cost.member) for cost in found.costs] == [("adaptive", "")]
    assert isinstance(build(ATTACKS, {"kind": "adaptive", "eps": 0.1}, at="a"), AdaptivePGD)


def test_a_term_that_reads_what_the_logits_hide_breaks_more_than_the_score_alone() -> None:
    """Saturated logits have no gradient; the term points to the boundary, as knowledge of a defense does."""
    model = linear()
    model.head.weight.data *= 5e4  # the cross-entropy of an image that is right is exactly 0
    images = tiny_images(60, seed=2)
    towards = model.head.weight[1] - model.head.weight[0]
    images = images._replace(y=model(images.x.float() / 255).argmax(1))

    class Boundary:
        def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
            return lambda z, features, logits, rows: (features @ towards.detach()) * (1 - 2 * y[rows])

    found = Evaluation(Engine(model, images, 0), term=Boundary())
    block = {"kind": "adaptive", "eps": 0.15, "steps": 5}
    found.robust({"adaptive": block}, silent, alone=["adaptive"])
    broken = {cost.member: cost.broken for cost in found.costs}
    x = images.x.float() / 255
    sign = (1 - 2 * images.y).view(-1, 1, 1, 1) * towards.detach().sign().view(1, 1, SIDE, SIDE)
    with torch.no_grad():
        worst = model((x + 0.15 * sign).clamp(0, 1)).argmax(1) == images.y
    assert broken["w=0"] < broken["w=0.25"] and found.entries[0].hits.tolist() == worst.tolist()
