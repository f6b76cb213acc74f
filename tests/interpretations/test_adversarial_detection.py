"""Detectors are judged on images that were right and were turned, beside noise, and by those who know them."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from torch import Generator, Tensor, nn

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.learning import distance
from deconfound.errors import ConfigError, UserError
from deconfound.fields import hyperparameters
from deconfound.interpretations.case import Case, Place, Readings
from deconfound.interpretations.detection import AdversarialDetection
from deconfound.interpretations.judge import Judge, Terms
from deconfound.models.classifier import Classifier, to_unit
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.threat import ThreatModel
from deconfound.types import Images

HERE = __name__
SEEN: list[Evidence] = []  # what detectors of these tests were handed


@hyperparameters
class Watch:
    """Suspects a pixel 1 that is far from 128."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        SEEN.append(evidence)
        return lambda x: self.score_of(evidence)(to_unit(x)).cpu()

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        SEEN.append(evidence)
        return lambda x: (x[:, 0, 0, 1].double() - 128 / 255).abs()


@hyperparameters
class Dice:
    """A score that has nothing to do with anything, the same for the same image."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        return lambda x: (to_unit(x).double().flatten(1).sum(1) * 1e5).frac()


@hyperparameters
class Both:
    """An attack that brings pixels 0 and 1 over the boundary, each by a tenth, of the first images of a batch only."""

    share: float = 1.0

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(norm="linf", eps=0.3)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        count = round(self.share * len(x))
        way = torch.where(y == 0, 0.15, -0.15)[:count, None]
        found = x.clone()
        found[:count, 0, 0, :2] += way
        return found


def reader() -> Classifier:
    """Class 1 where pixels 0 and 1 together are brighter than 1."""
    head = nn.Linear(4, 2)
    head.weight.data = torch.tensor([[0.0, 0, 0, 0], [20.0, 20, 0, 0]])
    head.bias.data = torch.tensor([0.0, -20.0])
    return Classifier(nn.Flatten(), head, channels=1).eval()


def rows(count: int, seed: int = 0) -> Images:
    """Images (n, 1, 1, 4): pixel 0 is 102 or 153, by class; pixel 1 is 127 to 129."""
    y = torch.arange(count) % 2
    x = torch.randint(0, 256, (count, 1, 1, 4), generator=generator(seed, "rows"))
    x[:, 0, 0, 0] = torch.where(y == 0, 102, 153)
    x[:, 0, 0, 1] = 127 + torch.arange(count) % 3
    return Images(x.to(torch.uint8), y)


def case(test: Images | None = None, val: Images | None = None, model: Classifier | None = None) -> Case:
    return Case(
        model=model or reader(),
        defense=None,
        parts={},
        train=rows(40, 1),
        test=test or rows(20),
        classes=2,
        rng=partial(generator, 0),
        val=rows(40, 2) if val is None else val,
    )


def tiny(**changes: Any) -> Case:
    known = {"test": tiny_images(24, seed=2), "val": tiny_images(40, seed=3), "train": tiny_images(40)}
    return Case(small_network().eval(), None, {}, classes=3, rng=partial(generator, 0), **(known | changes))


def spec(**changes: Any) -> AdversarialDetection:
    table = {"adversarial_detection": "deconfound.interpretations.detection:AdversarialDetection"}
    found: AdversarialDetection = build(
        table,
        {
            "kind": "adversarial_detection",
            "detectors": {"watch": {"kind": f"{HERE}:Watch"}},
            "attacks": {"both": {"kind": f"{HERE}:Both"}},
            "adaptive": {"eps": 0.15, "steps": 20},
        }
        | changes,
        at="interpretations.x",
    )
    return found


def each(found: Readings, *place: str) -> list[float]:
    return found.each[Place(*place)].tolist()


def test_what_is_right_and_turned_is_judged_and_the_rest_is_left_out() -> None:
    test = rows(8)
    test.y[0] = 1 - test.y[0]  # the network is wrong about it
    found = spec(attacks={"half": {"kind": f"{HERE}:Both", "share": 0.5}})(case(test))
    nan = np.nan
    for metric, expected in {
        "success": [nan, 1, 1, 1, 0, 0, 0, 0],
        "detected": [nan, 1, 1, 1, nan, nan, nan, nan],
        "evaded": [nan, 0, 0, 0, 0, 0, 0, 0],
    }.items():
        np.testing.assert_array_equal(each(found, "watch", "half", metric), expected)
    np.testing.assert_array_equal(each(found, "watch", "clean", "false_alarms"), [nan] + [0] * 7)
    assert found.once[Place("watch", "half", "auroc")] == 1
    scores = found.pictures["scores.watch.half"]
    assert scores.dtype == np.float32 and np.isfinite(scores).tolist() == [False] + [True] * 3 + [False] * 4
    assert scores[1] == pytest.approx(0.15, abs=0.01)
    assert found.pictures["threshold.watch"].tolist() == pytest.approx([1 / 255], rel=1e-5)
    assert np.isfinite(found.pictures["scores.watch.clean"]).sum() == 7


def test_the_adaptive_attacker_evades_what_catches_the_oblivious_one() -> None:
    found = spec()(case())
    assert each(found, "watch", "oblivious", "success") == [1] * 20
    assert each(found, "watch", "oblivious", "evaded") == [0] * 20
    assert each(found, "watch", "adaptive", "success") == [1] * 20
    assert each(found, "watch", "adaptive", "evaded") == [1] * 20
    assert any(
        "watch: the adaptive attacker climbs the gradient of its score" in said for said in found.notes
    )


def test_a_failed_adaptive_attack_is_said_to_be_no_evidence() -> None:
    found = spec(adaptive={"eps": 0.15, "steps": 1, "weights": [1e-6], "step_size": 1e-6})(case())
    assert not any(each(found, "watch", "adaptive", "evaded"))
    assert any("not evidence of robustness" in said for said in found.notes)
    assert not any("not evidence of robustness" in said for said in spec()(case()).notes)


def test_scores_of_chance_have_an_auroc_of_one_half_and_five_percent_of_alarms() -> None:
    """The noise is judged like the images of the attack."""
    dice = spec(
        detectors={"dice": {"kind": f"{HERE}:Dice"}},
        adaptive={"eps": 0.15, "steps": 1, "weights": [1.0], "queries": 1},
        examples=2000,
        held=4000,
    )
    found = dice(case(rows(2000), rows(4000, 2)))
    for metric in ("auroc", "noise_auroc", "over_noise_auroc"):
        assert found.once[Place("dice", "both", metric)] == pytest.approx(0.5, abs=0.05)
    for place in (("both", "detected"), ("both", "noise_alarms"), ("clean", "false_alarms")):
        assert np.mean(each(found, "dice", *place)) == pytest.approx(0.05, abs=0.025)


def test_noise_has_the_l2_norm_of_the_attack_on_the_same_images() -> None:
    given = case()
    judge = Judge(
        Terms(("near",), ("near",), spec().adaptive, 0.05),
        given,
        given.x,
        given.right().cpu(),
        given.test.x,
        Readings(),
    )
    judge.right[:3] = False
    x_adv = Both()(given.model, given.x, given.y, rng=generator(0))
    found = judge.beside(x_adv, "both")
    assert found.success.tolist() == [False] * 3 + [True] * 17 and found.noisy.shape == (17, 1, 1, 4)
    assert torch.allclose(
        distance(given.x[3:], found.noisy), distance(given.x[3:], x_adv[3:]), rtol=1e-3, atol=1e-5
    )


def test_detectors_see_held_out_images_alone_and_never_those_that_set_the_threshold_or_judge() -> None:
    SEEN.clear()
    given = case(val=Images(torch.cat([rows(40, 2).x, rows(20).x[:5]]), torch.arange(45) % 2))
    found = spec()(given)
    assert "5 held-out images are test images and were left out." in found.notes
    assert given.val is not None and len(SEEN) > 0
    val, test = ([row.numpy().tobytes() for row in images.x] for images in (given.val, given.test))
    for evidence in SEEN:
        seen = {row.numpy().tobytes() for row in evidence.val.x}
        assert len(seen) == 20 and seen <= set(val) and not seen & set(test)
        assert torch.equal(evidence.data.x, given.train.x)
    held = spec()._held(given.first(100), Readings())
    assert held is not None and len(held.limits) == 20
    assert not seen & {row.numpy().tobytes() for row in held.limits}


@hyperparameters
class Pupil(Watch):
    """The same, and asks for examples to learn from."""

    needs: ClassVar[tuple[str, ...]] = ("crafted",)


def test_adversarial_examples_to_learn_from_are_twins_of_held_out_images_and_of_no_test_image() -> None:
    SEEN.clear()
    given = case(val=Images(torch.cat([rows(40, 2).x, rows(20).x[:5]]), torch.arange(45) % 2))
    spec(detectors={"pupil": {"kind": f"{HERE}:Pupil"}})(given)
    judged = to_unit(given.test.x)
    assert len(SEEN) > 0
    for evidence in SEEN:
        assert evidence.crafted is not None and set(evidence.crafted) == {"both"}
        crafted, clean = evidence.crafted["both"], to_unit(evidence.val.x)
        assert torch.equal(crafted, Both()(given.model, clean, evidence.val.y, rng=generator(0)))
        untouched = (
            crafted[:, None, ..., 2:] == judged[None, ..., 2:]
        )  # the attack moves the first two pixels
        assert not untouched.flatten(2).all(2).any()


LEARNERS = {"mahalanobis": {"kind": "mahalanobis"}, "confidence": {"kind": "confidence"}}
TWO = {"pgd": {"kind": "pgd", "eps": 0.4, "steps": 5}, "fgsm": {"kind": "fgsm", "eps": 0.4}}


def test_learners_are_tried_on_what_they_did_not_learn_from_and_nothing_else_changes() -> None:
    given, judged = tiny(), spec(detectors=LEARNERS, attacks=TWO, adaptive={"eps": 0.4, "steps": 3})
    before = snapshot(given.model)
    found = judged(given)
    assert same(snapshot(given.model), before) and not given.crafted
    conditions = {place.condition for place in found.each if place.subject == "mahalanobis"}
    crossed = {f"{learnt}_on_{tested}" for learnt in TWO for tested in TWO}
    assert conditions == {"pgd", "fgsm", "oblivious", "adaptive", "clean"} | crossed
    assert not crossed & {place.condition for place in found.each if place.subject == "confidence"}
    assert all(values.shape == (24,) for values in found.each.values())
    assert "threshold.mahalanobis.fgsm" in found.pictures
    torch.manual_seed(5)
    again = judged(tiny())
    assert again.once == found.once and again.notes == found.notes
    for first, after in ((found.each, again.each), (found.pictures, again.pictures)):
        assert first.keys() == after.keys()
        for one, other in zip(first.values(), after.values(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_adaptive_attacker_never_evades_less_than_the_oblivious_one() -> None:
    found = spec(detectors=LEARNERS, attacks=TWO, learn_from=["fgsm"], adaptive={"eps": 0.4, "steps": 3})(
        tiny()
    )
    for name in LEARNERS:
        knows, plain = (np.array(each(found, name, who, "evaded")) for who in ("adaptive", "oblivious"))
        known = np.isfinite(plain)
        assert known.any() and (knows[known] >= plain[known]).all()
    assert not any("_on_" in place.condition for place in found.each)


def test_an_attack_that_turns_nobody_leaves_notes_and_no_numbers() -> None:
    found = spec(
        detectors=LEARNERS,
        attacks={"none": {"kind": "pgd", "eps": 0.0}},
        adaptive={"eps": 0.0},
    )(tiny())
    assert "none: turned no image, so nobody can be tested on it." in found.notes
    assert any(
        said.startswith("mahalanobis was not judged to the end: detector: expected crafted images")
        for said in found.notes
    )
    assert np.isnan(each(found, "confidence", "none", "detected")).all()
    assert not any(place.condition == "none" for place in found.once)
    assert set(each(found, "confidence", "none", "evaded")) - {0.0} and not np.nansum(
        each(found, "confidence", "none", "evaded")
    )


@pytest.mark.parametrize("wrong", ["everywhere", "in val", "no val"])
def test_without_images_that_are_right_nothing_is_judged_and_a_note_says_so(wrong: str) -> None:
    given = tiny()
    assert given.val is not None
    shift = {"everywhere": (1, 1), "in val": (0, 1), "no val": (0, 0)}[wrong]
    test, val = (
        images._replace(y=(given.model(images.x / 255).argmax(1) + by) % 3)
        for images, by in zip((given.test, given.val), shift, strict=True)
    )
    found = spec(detectors=LEARNERS, attacks=TWO)(tiny(test=test, val=None if wrong == "no val" else val))
    assert not found.each and "no detector could be judged" in found.notes[-1]
    if wrong == "in val":
        right = given.val._replace(y=given.model(given.val.x / 255).argmax(1))
        test = test._replace(y=(test.y + 1) % 3)
        found = spec(detectors=LEARNERS, attacks=TWO)(tiny(test=test, val=right))
        assert np.isnan(each(found, "confidence", "clean", "false_alarms")).all() and not found.once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detectors": {"a": {"kind": "neural_cleanse"}}}, "expected detectors of inputs"),
        ({"detectors": {}}, "expected names"),
        ({"detectors": {"A B": {"kind": "confidence"}}}, "expected names"),
        ({"attacks": {"adaptive": {"kind": "fgsm", "eps": 0.1}}}, "no condition by itself, got 'adaptive'"),
        ({"attacks": {"a_on_b": {"kind": "fgsm", "eps": 0.1}}}, "no condition by itself, got 'a_on_b'"),
        ({"attacks": {"far": {"kind": "transfer", "attack": "pgd"}}}, "got 'transfer' in far"),
        ({"learn_from": ["cw"]}, "expected learn_from among both, got 'cw'"),
        (
            {"detectors": {"lid": {"kind": "lid", "attacks": ["cw"]}}},
            "expected lid.attacks among both, got 'cw'",
        ),
        ({"adaptive": {}}, "required key is missing"),
    ],
)
def test_what_cannot_be_judged_is_refused_firstanything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UserError), match=message):
        spec(**changes)
