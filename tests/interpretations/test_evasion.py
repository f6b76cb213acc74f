"""The attacker who knows the detector: evades where that is known to be possible, and never leaves his budget."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from torch import Tensor, nn

from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import margin
from deconfound.attacks.victim import attacking
from deconfound.detectors import DETECTORS
from deconfound.detectors.confidence import Confidence
from deconfound.detectors.evidence import Differentiable, Evidence, InputDetector
from deconfound.detectors.feature_squeezing import FeatureSqueezing
from deconfound.detectors.learning import by_batches
from deconfound.detectors.lid import LID
from deconfound.detectors.ml_loo import LeaveOneOut
from deconfound.interpretations.evasion import WORDS, Evasion, Hunt
from deconfound.interpretations.undetected import Best, Known
from deconfound.models.classifier import Classifier
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.threat import Norm

SIDES = {"linf": 0.3, "l2": 1.0, "l1": 3.0}
FLOOD = 1e6  # logits: a wanted margin that nothing reaches


def reader() -> Classifier:
    """Class 1 where pixels 0 and 1 together are brighter than 1; pixel 1 is read more loudly; two further pixels."""
    head = nn.Linear(4, 2)
    head.weight.data = torch.tensor([[0.0, 0, 0, 0], [10.0, 12, 0, 0]])
    head.bias.data = torch.tensor([0.0, -11.0])
    return Classifier(nn.Flatten(), head, channels=1).eval()


def rows(count: int = 16) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 1, 4): pixel 0 is 0.4 or 0.6, by class; pixel 1 is 0.5, as in all clean images."""
    y = torch.arange(count) % 2
    x = torch.rand(count, 1, 1, 4, generator=generator(0, "rows"))
    x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.where(y == 0, 0.4, 0.6), 0.5
    return x, y


def strays(x: Tensor) -> Tensor:
    """How far pixel 1 is from where it always is."""
    return (x[:, 0, 0, 1].double() - 0.5).abs()


class Watch:
    """Suspects an unusual pixel 1."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        return lambda x: strays(x).cpu()

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        return strays


class Blind:
    """The same without a gradient."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        return lambda x: strays(x.detach()).cpu()


def watched(detector: Any = None, limit: float = 0.05) -> Known:
    detector = detector or Watch()
    score = strays if isinstance(detector, Watch) else None
    return Known(detector, lambda x: strays(x.detach()).cpu(), score, limit, 0.05)


def known(detector: Any, model: Classifier, *, limit: float = 0.1) -> Known:
    """A real detector, ready to be attacked; one that learns is taken for another, which does not."""
    scorer = Confidence() if hasattr(detector, "needs") else detector
    evidence = Evidence(model, tiny_images(40), tiny_images(30, seed=3), partial(generator, 0))
    score = scorer.score_of(evidence) if isinstance(scorer, Differentiable) else None
    look = scorer.suspicion(evidence) if score is None else by_batches(model, score)
    return Known(detector, look, score, limit, 1.0)


def hunt(spec: Evasion, model: Classifier, of: Known, x: Tensor, y: Tensor) -> Hunt:
    with attacking(model, x, y) as victim:
        return Hunt(spec, model, of, victim, x, generator(0, "hunt"))


@pytest.mark.parametrize("detector", [Watch(), Blind()], ids=["with a gradient", "without"])
def test_the_adaptive_attacker_evades_where_the_oblivious_one_is_caught(detector: Any) -> None:
    model, (x, y), spec = reader(), rows(), Evasion(eps=0.15)
    of = watched(detector)

    oblivious = spec.oblivious(model, x, y, rng=generator(0))
    assert (model(oblivious).argmax(1) != y).all() and (strays(oblivious) > of.limit).all()

    z = spec(model, of, x, y, rng=generator(0))
    assert (model(z).argmax(1) != y).all() and (strays(z) <= of.limit).all()


@pytest.mark.parametrize(("eps", "possible"), [(0.15, False), (0.25, True)])
def test_nobody_evades_who_cannot_get_from_one_class_to_the_other(eps: float, possible: bool) -> None:
    """Pixel 1 alone is read, and watched: in clean images it is 0.4 or 0.6, and the error begins at 0.5."""
    model, (x, y) = reader(), rows()
    model.head.weight.data[1, 0], model.head.bias.data[1] = 0.0, -6.0
    x[:, 0, 0, 1] = torch.where(y == 0, 0.4, 0.6)

    def score(z: Tensor) -> Tensor:
        return (strays(z) - 0.1).abs()

    of = Known(Watch(), lambda z: score(z.detach()), score, 0.04, 0.05)
    z = Evasion(eps=eps)(model, of, x, y, rng=generator(0))
    evaded = (model(z).argmax(1) != y) & (score(z) <= of.limit)
    assert evaded.all() if possible else not evaded.any()


@pytest.mark.parametrize("norm", SIDES)
@pytest.mark.parametrize(
    "detector",
    [
        build(DETECTORS, block, at="x")
        for block in (
            {"kind": "confidence"},
            {"kind": "feature_squeezing", "bits": 2, "search": 3},
            {"kind": "leave_one_out"},
            {"kind": "lid", "reference": 20, "neighbours": 5},
            {"kind": "scale_up"},
        )
    ],
    ids=["score", "squeezed", "masked", "guide", "estimated"],
)
def test_it_stays_in_its_budget_and_leaves_everything_as_it_was(detector: Any, norm: Norm) -> None:
    model = small_network().train()
    images = tiny_images(12, seed=4)
    x, y = images.x / 255, images.y
    of = known(detector, model, limit=-1e9)  # everything is flagged, so that nothing is left out
    spec = Evasion(eps=SIDES[norm], norm=norm, steps=3, queries=1, weights=(1.0,), restarts=2)
    before, clean = snapshot(model), x.clone()

    z = spec(model, of, x, y, rng=generator(1))

    assert spec.threat.contains(x, z).all() and not torch.equal(z, x) and not z.requires_grad
    assert same(snapshot(model), before) and torch.equal(x, clean)
    assert torch.equal(spec(model, of, x, y, rng=generator(1)), z)


@pytest.mark.parametrize("flags", [True, False], ids=["flags all", "flags nothing"])
def test_without_weight_it_is_the_plain_attack_on_the_margin(flags: bool) -> None:
    """Where nothing is flagged it stops at the first error, as PGD with early stop does."""
    model, images = small_network().eval(), tiny_images(30, seed=4)
    x, y = images.x / 255, model(images.x / 255).argmax(1)
    of = known(Confidence(), model, limit=-1.0 if flags else 2.0)
    spec = Evasion(eps=0.3, steps=10, weights=(0.0,), selective=False, kappa=FLOOD, last=1.0)
    plain = PGD(eps=0.3, steps=10, score="margin", early_stop=not flags)(model, x, y, rng=generator(1))
    fooled = model(plain).argmax(1) != y
    assert fooled.sum() > 10
    z = spec(model, of, x, y, rng=generator(1))
    assert torch.equal(z[fooled], plain[fooled]) and torch.equal(z[~fooled], x[~fooled])
    assert spec.oblivious == PGD(eps=0.3, steps=10, score="margin")


def test_the_objective_is_margin_and_excess_over_the_threshold() -> None:
    model, (x, y), of = reader(), rows(4), watched()
    spec = Evasion(eps=0.1, kappa=2.0, slack=0.5)
    z = x.clone()
    z[1, 0, 0, 1], z[2, 0, 0, 0] = 0.6, 0.7  # 2 sigma of 0.05 from 0.5, and an error with margin 2
    start = x.clone()  # turned by far, and one sigma above the threshold
    start[:, 0, 0, 0], start[:, 0, 0, 1] = (1 - y).float(), 0.5 + 0.1 * (1 - 2 * y)
    with attacking(model, x, y):
        attacker, places = hunt(spec, model, of, x, y), torch.arange(4)
        value, done = attacker.aware(strays, 3.0)(z, places)
        in_turn, also = attacker.aware(strays, None)(z, places)
        far, _ = attacker.aware(strays, None)(start, places)
    m = margin(model(z), y)
    # image 1: 0.1 is one sigma above the threshold of 0.05, and half a sigma is wanted below it
    expected = torch.stack([m[0] - 2, m[1] - 2 - 3 * (1 + 0.5), torch.zeros(()), m[3] - 2])
    assert m.tolist() == pytest.approx([-1, -2.2, 2, -1], abs=1e-4)
    assert torch.allclose(value, expected, atol=1e-4) and done.tolist() == [False, False, True, False]
    # one at a time: the margin where it is missing, the score where it is there
    assert torch.allclose(in_turn, (m - 2).clamp_max(0), atol=1e-4) and torch.equal(also, done)
    assert torch.allclose(far, torch.tensor([-1.5]).expand(4), atol=1e-4)


def test_what_evades_already_is_left_alone_and_nothing_gets_worse() -> None:
    model, (x, y), of = reader(), rows(6), watched()
    start = x.clone()
    start[:3, 0, 0, 0] = torch.where(y[:3] == 0, 0.55, 0.45)  # turned through the pixel that nobody watches
    start[3:, 0, 0, 1] = torch.where(y[3:] == 0, 0.65, 0.35)  # turned, and flagged
    z = Evasion(eps=0.15)(model, of, x, y, rng=generator(0), start=start)
    assert torch.equal(z[:3], start[:3]) and not torch.equal(z[3:], start[3:])

    with attacking(model, x, y) as victim:
        best = Best(victim, of, x)
        assert best.rank.tolist() == [0] * 6
        best.offer(start, torch.arange(6))
        assert best.rank.tolist() == [2, 2, 2, 1, 1, 1] and best.left().tolist() == [3, 4, 5]
        best.offer(x, torch.arange(6))  # no error at all: nobody falls back
        assert torch.equal(best.z, start)
        less = start.clone()
        less[3:, 0, 0, 1] = torch.where(y[3:] == 0, 0.6, 0.4)  # still flagged, with a lower score
        best.offer(less[3:], torch.arange(3, 6))
        assert torch.equal(best.z[3:], less[3:]) and best.rank.tolist() == [2, 2, 2, 1, 1, 1]


def test_copies_of_an_image_are_scored_by_the_margin_of_their_mean_logits() -> None:
    model, images = small_network().eval(), tiny_images(6, seed=4)
    x, y = images.x / 255, images.y
    detector = FeatureSqueezing(bits=1, median=2, search=None)
    attacker = hunt(Evasion(eps=0.1), model, known(detector, model), x, y)
    with attacking(model, x, y):
        (look, *_) = attacker.looks()
        value, done = look(x[:4], torch.arange(4))
        logits = torch.stack([model(z) for z in (x[:4], *detector.squeezed(x[:4]))]).mean(0)
    assert torch.allclose(value, margin(logits, y[:4]), atol=1e-5) and done is None


def test_masked_copies_lack_one_part_each_as_the_detector_leaves_it_out() -> None:
    model, images = small_network().eval(), tiny_images(5, seed=4)
    x, y = images.x / 255, images.y
    detector, spec = LeaveOneOut(block=1, reference="half"), Evasion(eps=0.1, masks=6)
    attacker = hunt(spec, model, known(detector, model), x, y)
    copies = torch.stack(attacker._masked(x))
    changed = copies != x
    assert copies.shape == (6, 5, 1, 4, 4) and (changed.flatten(2).sum(2) == 1).all()
    assert (copies[changed] == 0.5).all() and len(torch.unique(changed[:, 0].flatten(1), dim=0)) == 6
    assert spec.aims(detector, x) == ("masked",)  # 16 parts are more than 6
    assert replace(spec, masks=16).aims(detector, x) == ("masked", "score")


def test_the_guide_is_a_clean_image_of_another_class_and_is_reached() -> None:
    model, (x, y) = reader(), rows(8)
    detector = LID(reference=20, neighbours=5)
    of = Known(detector, lambda z: torch.zeros(len(z)), None, -1.0, 1.0)
    spec = Evasion(eps=1.0, steps=40, weights=(0.0,), selective=False)
    with attacking(model, x, y):
        *_, look = hunt(spec, model, of, x, y).looks()
        goal = torch.cdist(x.flatten(1), x.flatten(1)).masked_fill(y[:, None] == y[None], torch.inf).argmin(1)
        at_guide, _ = look(x[goal], torch.arange(8))
        elsewhere, _ = look(x, torch.arange(8))
    assert torch.allclose(at_guide, torch.zeros(8), atol=1e-6) and (elsewhere < -0.1).all()
    z = spec(model, of, x, y, rng=generator(0))
    assert (model(z).argmax(1) == y[goal]).all()


def test_every_detector_of_inputs_meets_an_attacker_that_fits_it() -> None:
    x = torch.rand(2, 1, 8, 8)
    for kind in DETECTORS:
        detector = build(DETECTORS, {"kind": kind}, at="x")
        if isinstance(detector, InputDetector):
            aims = Evasion(eps=0.1).aims(detector, x)
            assert aims and set(aims) <= WORDS.keys()
            assert ("estimated" in aims) == (not hasattr(detector, "score_of"))


def test_no_images_and_no_budget_are_answered() -> None:
    model, (x, y), of = reader(), rows(), watched()
    assert Evasion(eps=0.1)(model, of, x[:0], y[:0], rng=generator(0)).shape == (0, 1, 1, 4)
    assert torch.equal(Evasion(eps=0.0)(model, of, x, y, rng=generator(0)), x)
