"""What detectors learn from: noise of the right size, the right images, and no twins."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lessons import WIDTH, evidence, images, turned

from deconfound.detectors.confidence import Confidence
from deconfound.detectors.evidence import Differentiable, InputDetector
from deconfound.detectors.feature_squeezing import FeatureSqueezing
from deconfound.detectors.learning import distance, lesson, logistic, refuse_twins, taught, with_noise
from deconfound.detectors.lid import LID
from deconfound.detectors.mahalanobis import Mahalanobis
from deconfound.detectors.ml_loo import MLLOO, LeaveOneOut
from deconfound.detectors.signature import Signature
from deconfound.detectors.witnesses import Witnesses
from deconfound.errors import UserError
from deconfound.measures import auroc
from deconfound.rng import generator

LEARNERS: list[Any] = [
    Mahalanobis(),
    LID(reference=60, neighbours=10),
    MLLOO(block=1, spread="std"),
    Signature(),
]
OTHERS: list[Any] = [
    Confidence(),
    FeatureSqueezing(search=3),
    LeaveOneOut(block=1, spread="std"),
    Witnesses(),
]


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.5, 2.0])
def test_noise_has_the_l2_norm_of_the_attack_after_clipping(radius: float) -> None:
    x = torch.rand(20, 3, 6, 6, generator=generator(0, "x"))
    x[:5] = 0.0  # half of every direction is cut off
    noisy = with_noise(x, torch.full((20,), radius), rng=generator(0, "noise"))
    assert noisy.min() >= 0 and noisy.max() <= 1
    assert torch.allclose(distance(x, noisy), torch.full((20,), radius), rtol=1e-4, atol=1e-6)


def test_noise_that_no_scale_can_reach_stays_finite() -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    noisy = with_noise(x, torch.full((3,), 5.0), rng=generator(0, "noise"))
    assert noisy.isfinite().all() and set(noisy.flatten().tolist()) <= {0.0, 1.0}


def test_a_lesson_has_the_images_that_were_right_and_are_fooled() -> None:
    given = evidence()
    wrong = given.val.y.clone()
    wrong[:4] = 1 - wrong[:4]  # the network was wrong about these from the start
    crafted = turned(images(40, 1))
    crafted[:2] = given.val.x[:2] / 255  # still wrong, but nobody has fooled it
    crafted[4:10] = given.val.x[4:10] / 255  # the attack failed on these
    found = lesson(
        replace(given, val=given.val._replace(y=wrong), crafted={"turn": crafted, "few": crafted[:12]})
    )
    rest = given.val.x / 255
    assert torch.equal(found.clean, torch.cat([rest[10:12], rest[10:40]]))  # by name: few, turn
    assert torch.equal(found.adversarial, torch.cat([crafted[10:12], crafted[10:40]]))
    size = distance(found.clean, found.adversarial)
    assert torch.allclose(distance(found.clean, found.noisy), size, rtol=1e-4)
    assert len(lesson(replace(given, crafted={"turn": crafted, "few": crafted[:12]}), ("few",)).clean) == 4


def test_what_cannot_be_learnt_from_is_refused() -> None:
    given = evidence()
    clean = given.val.x / 255
    with pytest.raises(UserError, match="fool the network where it was right, got none"):
        lesson(replace(given, crafted={"nothing": clean}))
    with pytest.raises(UserError, match="expected attacks among turn, got 'pgd'"):
        lesson(given, ("pgd",))
    with pytest.raises(UserError, match="expected crafted images of long like the first of"):
        lesson(replace(given, crafted={"long": torch.cat([clean, clean])}))
    for nothing in (None, {}):
        with pytest.raises(UserError, match="expected crafted adversarial examples"):
            lesson(replace(given, crafted=nothing))


@pytest.mark.parametrize("detector", LEARNERS, ids=lambda one: type(one).__name__)
def test_a_learner_declares_what_it_needs_and_refuses_to_go_without(detector: Any) -> None:
    assert detector.needs == ("crafted",)
    with pytest.raises(UserError, match="expected crafted adversarial examples"):
        detector.suspicion(evidence(crafted=False))
    with pytest.raises(UserError, match="expected attacks among turn, got 'pgd'"):
        replace(detector, attacks=("pgd",)).suspicion(evidence())


@pytest.mark.parametrize("detector", LEARNERS, ids=lambda one: type(one).__name__)
def test_a_learner_tells_adversarial_examples_from_clean_images_and_from_noise(detector: Any) -> None:
    score, fresh = detector.suspicion(evidence()), images(60, 2)
    clean, adversarial = fresh.x / 255, turned(fresh)
    noisy = with_noise(clean, distance(clean, adversarial), rng=generator(7, "noise"))
    found = score(adversarial)
    for negative in (clean, noisy):
        scores = torch.cat([score(negative), found]).double().numpy()
        assert auroc(scores, np.arange(120) >= 60) > (0.7 if isinstance(detector, LID) else 0.95)


@pytest.mark.parametrize("detector", LEARNERS + OTHERS, ids=lambda one: type(one).__name__)
def test_the_score_for_attackers_is_that_of_the_detector_and_has_its_slope(detector: Any) -> None:
    given = evidence(val=20)
    assert isinstance(detector, InputDetector) and isinstance(detector, Differentiable)
    score, fresh = detector.score_of(given), images(8, 2)
    x = (turned(fresh) + 0.01 * torch.rand(fresh.x.shape, generator=generator(0, "x"))).requires_grad_()
    value = score(x)
    assert torch.allclose(
        value.detach().cpu().double(), detector.suspicion(given)(x.detach()).double(), atol=1e-4
    )
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "detector", [Mahalanobis(), LID(reference=60), Confidence(), Witnesses(), Signature()]
)
def test_a_gradient_is_that_of_finite_differences(detector: Any) -> None:
    given = evidence(val=20)
    score, fresh = detector.score_of(replace(given, model=given.model.double())), images(4, 2)
    x = fresh.x / 255.0 + 0.001 * torch.rand(fresh.x.shape, generator=generator(0, "x"))
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x)
    for pixel in range(2):
        step = torch.zeros_like(x)
        step[..., pixel] = 1e-6
        with torch.no_grad():
            slope = (score(x + step) - score(x - step)) / 2e-6
        assert torch.allclose(slope, gradient[:, 0, 0, pixel], rtol=1e-3, atol=1e-5)


def test_a_logistic_regression_returns_the_log_odds_of_shifted_normals() -> None:
    rng = generator(0, "normal")
    negative, positive = torch.randn(4000, 2, generator=rng), torch.randn(1000, 2, generator=rng)
    positive[:, 0] += 2  # balanced log-odds: 2 x - 2
    rule = logistic(negative, positive, c=1e3, rng=generator(0, "fit"))
    points = torch.tensor([[0.0, 0.0], [1.0, 5.0], [2.0, -3.0]])
    assert rule(points).tolist() == pytest.approx([-2, 0, 2], abs=0.5)


def test_a_feature_that_never_varies_has_no_say() -> None:
    negative, positive = torch.zeros(5, 2), torch.ones(5, 2)
    negative[:, 1] = positive[:, 1] = 3.0
    rule = logistic(negative, positive, c=1.0, rng=generator(0, "fit"))
    assert rule.weight[1] == 0 and rule(positive).min() > 0 > rule(negative).max()


def test_random_scores_of_the_harness_are_worth_one_half() -> None:
    rng = generator(0, "features")
    given = evidence()
    score = taught(
        given, lambda x: torch.randn(len(x), 3, generator=rng), attacks=(), c=1.0
    )  # features that know nothing
    scores = score(torch.zeros(4000, 1, 1, WIDTH)).numpy()
    assert auroc(scores, np.arange(4000) % 2 == 0) == pytest.approx(0.5, abs=0.05)


def test_an_image_on_both_sides_is_refused() -> None:
    learnt, judged = images(10, 1).x, images(10, 2).x
    refuse_twins(learnt, judged)
    judged[3] = learnt[7]
    with pytest.raises(UserError, match="got 1 of both"):
        refuse_twins(learnt, judged)
