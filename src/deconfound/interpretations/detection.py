"""Adversarial detection: who notices an adversarial example, and who still does when the attacker knows of it.

The protocol of Carlini and Wagner, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection Methods",
AISec 2017, arXiv:1705.07263, and of Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses", NeurIPS 2020,
arXiv:2002.08347. Only test images that the network classifies right take part, and of adversarial images those that it
misclassifies. Beside every attack stands Gaussian noise of the same l2 norm on the same images: who fires on it tells
noisy from clean. What a detector learns, it learns from one half of the held-out images; the other half sets its
threshold; a held-out image that is also a test image is left out. The adaptive attacker is that of `evasion`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import field_validator, model_validator

from deconfound.attacks import ATTACKS
from deconfound.attacks.transfer import Transfer
from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Evidence, InputDetector
from deconfound.detectors.learning import refuse_twins
from deconfound.fields import Count, OpenFraction, hyperparameters
from deconfound.interpretations.case import WORD, Case, Readings
from deconfound.interpretations.evasion import Evasion
from deconfound.interpretations.judge import ADAPTIVE, CLEAN, OBLIVIOUS, Held, Judge, Terms, learns, rng_of
from deconfound.models.classifier import predict
from deconfound.registry import build
from deconfound.types import Images


@hyperparameters
class AdversarialDetection:
    """detectors: blocks of detectors of inputs, by name; attacks: blocks of attacks, by name. learn_from: attacks that
    the detectors which learn are shown, crafted on held-out images; all where empty. They learn from the mixture; with
    several names also from each alone, which gives the matrix of learnt and tested attacks. examples: test images, at
    most; held: held-out images, at most. false_alarms: share of clean held-out images above the threshold. adaptive:
    the attacker who knows the detector, {eps: ...}.

    Readings of a detector, under the condition `pgd` (the name of an attack), `pgd_on_fgsm` (learnt from one, tested on
    the other), `adaptive`, or `oblivious` (the budget of the adaptive attacker on the margin alone). Per image:
    `success` of the attack and `evaded`, success without an alarm, of images that are classified right; `detected` and
    `noise_alarms` (on the noise) of those on which the attack succeeds. Of the run: `auroc` of adversarial against
    clean images, `noise_auroc` of the noise against clean images, which should be one half, and `over_noise_auroc` of
    adversarial images against the noise. Under `clean`, per image: `false_alarms`. The headline is
    `adaptive.evaded`; the attacker stops just below the threshold, so that `adaptive.auroc` says less.

    Pictures, for curves and histograms: `scores.{detector}.{condition}` and `scores.{detector}.noise_{condition}`,
    (N,) float32, NaN for images that take no part; `threshold.{detector}` and, of the matrix,
    `threshold.{detector}.{learnt}`, (1,) float32.
    """

    detectors: dict[str, dict[str, Any]]
    attacks: dict[str, dict[str, Any]]
    adaptive: Evasion
    learn_from: tuple[str, ...] = ()
    examples: Count = 100
    held: Count = 400
    false_alarms: OpenFraction = 0.05

    @field_validator("detectors")
    @classmethod
    def _look_at_inputs(cls, blocks: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for name, block in _words(blocks).items():
            if not isinstance(_detector(block), InputDetector):
                raise ValueError(
                    f"expected detectors of inputs, such as mahalanobis, got {block.get('kind')!r} in {name}"
                )
        return blocks

    @field_validator("attacks")
    @classmethod
    def _craft(cls, blocks: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for name, block in _words(blocks).items():
            if name in (CLEAN, OBLIVIOUS, ADAPTIVE) or "_on_" in name:
                raise ValueError(f"expected a name that is no condition by itself, got {name!r}")
            if isinstance(_attack(block), Transfer):
                raise ValueError(f"expected attacks that craft their images, got 'transfer' in {name}")
        return blocks

    @model_validator(mode="after")
    def _learnt(self) -> Self:
        asked = [("learn_from", self.learn_from, tuple(self.attacks))]
        asked += [
            (f"{name}.attacks", b.get("attacks", ()), self.lessons) for name, b in self.detectors.items()
        ]
        for what, names, known in asked:
            if unknown := sorted(set(names) - set(known)):
                raise ValueError(f"expected {what} among {', '.join(known)}, got {unknown[0]!r}")
        return self

    @property
    def lessons(self) -> tuple[str, ...]:
        """Names of the attacks that are learnt from."""
        return tuple(dict.fromkeys(self.learn_from)) or tuple(self.attacks)

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        readings, case = Readings(), case.first(self.examples)
        held = self._held(case, readings)
        if held is None:
            return readings
        attacks = {name: _attack(block) for name, block in self.attacks.items()}
        detectors = {name: _detector(block) for name, block in self.detectors.items()}
        terms = Terms(self.lessons, tuple(self.attacks), self.adaptive, self.false_alarms)
        judge = Judge(terms, case, case.x, case.right().cpu(), held.limits, readings)
        for name, attack in (*attacks.items(), (OBLIVIOUS, self.adaptive.oblivious)):
            judge.meet(attack, name)
        crafted = None
        if any(learns(one) for one in detectors.values()):
            school = replace(case, val=held.learnt, crafted={})
            crafted = {name: school.adversarial(attacks[name], "val") for name in self.lessons}
        evidence = Evidence(case.model, case.train, held.learnt, rng_of(case), crafted)
        for name, detector in detectors.items():
            judge.examine(name, detector, evidence)
        return readings

    def _held(self, case: Case, readings: Readings) -> Held | None:
        """The two halves of the held-out images; None, and a note, without any."""
        images = case.val or Images(case.test.x[:0], case.test.y[:0])
        tested = {image.numpy().tobytes() for image in case.test.x.cpu().contiguous()}
        alone = [
            row for row, x in enumerate(images.x.cpu().contiguous()) if x.numpy().tobytes() not in tested
        ]
        if twins := len(images.y) - len(alone):
            readings.notes.append(f"{twins} held-out images are test images and were left out.")
        rows = torch.tensor(alone, dtype=torch.int64)
        rows = rows[torch.randperm(len(rows), generator=rng_of(case)("halves"))[: self.held]]
        learnt, other = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        if len(rows):
            other = other[(predict(case.model, images.x[other]).argmax(1) == images.y[other].cpu()).cpu()]
        if not len(learnt) or not len(other):
            readings.notes.append(
                "no detector could be judged: thresholds need held-out images that the network classifies right."
            )
            return None
        refuse_twins(images.x[rows], case.test.x)
        return Held(Images(images.x[learnt], images.y[learnt]), images.x[other])


def _words(blocks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuses no blocks at all, and names that no reading could have."""
    if not blocks or not all(re.fullmatch(WORD, name) for name in blocks):
        raise ValueError(f"expected names of lower-case letters, digits and '_', got {sorted(blocks)}")
    return blocks


def _attack(block: Mapping[str, Any]) -> Any:
    return build(ATTACKS, block, at="attacks")


def _detector(block: Mapping[str, Any]) -> Any:
    return build(DETECTORS, block, at="detectors")
