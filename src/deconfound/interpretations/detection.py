"""Adversarial detection: who notices an adversarial example, and who still does when the attacker knows of it.

The protocol of Carlini and Wagner, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection Methods",
AISec 2017, arXiv:1705.07263, and of Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses", NeurIPS 2020,
arXiv:2002.08347. Only test images that the network classifies right take part, and of adversarial images those that it
misclassifies. Beside every attack stands Gaussian noise of the same l2 norm on the same images: who fires on it tells
noisy from clean. What a detector learns, it learns from one half of the held-out images; the other half sets its
threshold; a held-out image that is also a test image is left out. The adaptive attacker is that of `evasion`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import field_validator, model_validator
from torch import Generator, Tensor

from deconfound.attacks import ATTACKS
from deconfound.attacks.transfer import Transfer
from deconfound.detection import threshold
from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Differentiable, Evidence, InputDetector
from deconfound.detectors.learning import by_batches, distance, refuse_twins, with_noise
from deconfound.errors import UserError
from deconfound.fields import Count, OpenFraction, hyperparameters
from deconfound.interpretations.case import WORD, Case, Floats, Place, Readings, selected
from deconfound.interpretations.evasion import WORDS, Evasion, Known
from deconfound.measures import auroc
from deconfound.models.classifier import predict
from deconfound.registry import build
from deconfound.types import Images

BATCH = 128  # images attacked at a time
CLEAN, OBLIVIOUS, ADAPTIVE = "clean", "oblivious", "adaptive"  # conditions that are no name of an attack


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
        judge = Judge(self, case, case.x, case.right().cpu(), held.limits, readings)
        for name, attack in (*attacks.items(), (OBLIVIOUS, self.adaptive.oblivious)):
            judge.meet(attack, name)
        crafted = None
        if any(_learns(one) for one in detectors.values()):
            school = replace(case, val=held.learnt, crafted={})
            crafted = {name: school.adversarial(attacks[name], "val") for name in self.lessons}
        evidence = Evidence(case.model, case.train, held.learnt, _rng(case), crafted)
        for name, detector in detectors.items():
            judge.examine(name, detector, evidence)
        return readings

    def _held(self, case: Case, readings: Readings) -> "Held | None":
        """The two halves of the held-out images; None, and a note, without any."""
        images = case.val or Images(case.test.x[:0], case.test.y[:0])
        tested = {image.numpy().tobytes() for image in case.test.x.cpu().contiguous()}
        alone = [
            row for row, x in enumerate(images.x.cpu().contiguous()) if x.numpy().tobytes() not in tested
        ]
        if twins := len(images.y) - len(alone):
            readings.notes.append(f"{twins} held-out images are test images and were left out.")
        rows = torch.tensor(alone, dtype=torch.int64)
        rows = rows[torch.randperm(len(rows), generator=_rng(case)("halves"))[: self.held]]
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


class Held(NamedTuple):
    """Held-out images to learn from, and others (n, C, H, W), classified right, that set thresholds."""

    learnt: Images
    limits: Tensor


class Suspects(NamedTuple):
    """What an attack made of the test images. x (N, C, H, W); success (N,) bool on the CPU: of images classified right,
    those that it turned; noisy (n, C, H, W): these images with noise of the same l2 norm.
    """

    x: Tensor
    success: Tensor
    noisy: Tensor


@dataclass(frozen=True)
class Judge:
    """Judges detectors one by one and writes down what comes out. x (N, C, H, W): test images in [0, 1]; right (N,)
    bool, on the CPU: classified right; limits: see `Held`; suspects: by condition, filled by `meet`.
    """

    spec: AdversarialDetection
    case: Case
    x: Tensor
    right: Tensor
    limits: Tensor
    readings: Readings
    suspects: dict[str, Suspects] = field(default_factory=dict)

    def meet(self, attack: Any, name: str) -> None:
        """Craft the images of an attack that knows no detector."""
        self.suspects[name] = found = self.beside(self.case.adversarial(attack), name)
        if not bool(found.success.any()):
            self.readings.notes.append(f"{name}: turned no image, so nobody can be tested on it.")

    def beside(self, x_adv: Tensor, name: str) -> Suspects:
        """Adversarial versions of all test images, and the noise that stands beside them."""
        success = self.right & ~self.case.right(x_adv).cpu()
        chosen = success.to(x_adv.device)
        clean, rng = self.x[chosen], _rng(self.case)(f"noise beside {name}")
        return Suspects(x_adv, success, with_noise(clean, distance(clean, x_adv[chosen]), rng=rng))

    def examine(self, name: str, detector: Any, evidence: Evidence) -> None:
        """All readings of a detector; a note where it cannot be used."""
        try:
            self._examined(name, detector, evidence)
        except UserError as error:
            self.readings.notes.append(f"{name} was not judged to the end: {error}.")
        if _learns(detector) and len(self.spec.lessons) > 1:
            self._matrix(name, detector, evidence)

    def _examined(self, name: str, detector: Any, evidence: Evidence) -> None:
        fit, count = self._fitted(detector, evidence), len(self.right)
        alarms = selected((fit.clean > fit.known.limit).double(), self.right, count)
        self.readings.add(name, CLEAN, "false_alarms", alarms)
        self._draw(f"scores.{name}.{CLEAN}", selected(fit.clean, self.right, count))
        self._draw(f"threshold.{name}", np.array([fit.known.limit]))
        for condition, found in self.suspects.items():
            self._row(name, condition, fit, found)
        self._row(name, ADAPTIVE, fit, self._evaded(name, fit))
        evaded = {who: self.readings.each[Place(name, who, "evaded")] for who in (ADAPTIVE, OBLIVIOUS)}
        caught = self.readings.each[Place(name, OBLIVIOUS, "detected")]
        if np.nansum(caught) and np.nansum(evaded[ADAPTIVE]) <= np.nansum(evaded[OBLIVIOUS]):
            self.readings.notes.append(
                f"{name}: the adaptive attacker evades it no more often than the oblivious one; a failed attack is a"
                " reason to inspect the detector (vanishing gradients, exact zeros), not evidence of robustness."
            )

    def _matrix(self, name: str, detector: Any, evidence: Evidence) -> None:
        """One fit per attack that is learnt from, tested on all."""
        crafted = evidence.crafted or {}
        for learnt in self.spec.lessons:
            alone = replace(evidence, crafted={learnt: crafted[learnt]})
            try:
                fit = self._fitted(replace(detector, attacks=()), alone)
            except UserError as error:
                self.readings.notes.append(f"{name} could not learn from {learnt}: {error}.")
                continue
            self._draw(f"threshold.{name}.{learnt}", np.array([fit.known.limit]))
            for attack in self.spec.attacks:
                self._row(name, f"{learnt}_on_{attack}", fit, self.suspects[attack])

    def _fitted(self, detector: Any, evidence: Evidence) -> "Fitted":
        """A detector after learning, with a threshold and its scores of the clean test images."""
        score = detector.score_of(evidence) if isinstance(detector, Differentiable) else None
        look = detector.suspicion(evidence) if score is None else by_batches(evidence.model, score)

        def suspicion(x: Tensor) -> Tensor:
            scores: Tensor = look(x).double().cpu()
            if not bool(scores.isfinite().all()):
                raise UserError("expected finite scores of a detector, got NaN or infinity")
            return scores

        held = suspicion(self.limits)
        unit = float(held.std(correction=0))
        limit = threshold(held.numpy(), self.spec.false_alarms)
        known = Known(detector, suspicion, score, limit, unit if unit > 0 else 1.0)
        return Fitted(known, suspicion(self.case.test.x[self.right]))

    def _evaded(self, name: str, fit: "Fitted") -> Suspects:
        """What the attacker who knows the detector makes of the test images, beginning with what he has without."""
        attack, case = self.spec.adaptive, self.case
        rows = self.right.nonzero().flatten().to(case.device)
        begun, rng = self.suspects[OBLIVIOUS], _rng(case)(f"evasion of {name}")
        x_adv = self.x.clone()
        for part in rows.split(BATCH):  # type: ignore[no-untyped-call]
            x, y, start = self.x[part], case.y[part], begun.x[part]
            x_adv[part] = attack(case.model, fit.known, x, y, rng=rng, start=start)
        words = [WORDS[aim] for aim in attack.aims(fit.known.detector, self.x)]
        self.readings.notes.append(f"{name}: the adaptive attacker climbs {', then '.join(words)}.")
        return self.beside(x_adv, f"evasion of {name}")

    def _row(self, name: str, condition: str, fit: "Fitted", found: Suspects) -> None:
        """Readings of one detector in one condition."""
        limit, count, add = fit.known.limit, len(self.right), self.readings.add
        scores = fit.known.suspicion(found.x[found.success.to(found.x.device)])
        noisy = fit.known.suspicion(found.noisy)
        caught = selected((scores > limit).double(), found.success, count)
        right = self.right.numpy()
        success = np.where(right, found.success.numpy().astype(float), np.nan)
        add(name, condition, "detected", caught)
        add(name, condition, "success", success)
        add(name, condition, "evaded", np.where(caught == 1, 0.0, success))
        add(name, condition, "noise_alarms", selected((noisy > limit).double(), found.success, count))
        note = self.readings.note
        note(name, condition, "auroc", _auroc(fit.clean, scores))
        note(name, condition, "noise_auroc", _auroc(fit.clean, noisy))
        note(name, condition, "over_noise_auroc", _auroc(noisy, scores))
        self._draw(f"scores.{name}.{condition}", selected(scores, found.success, count))
        self._draw(f"scores.{name}.noise_{condition}", selected(noisy, found.success, count))

    def _draw(self, name: str, values: Floats) -> None:
        self.readings.pictures[name] = values.astype(np.float32)


class Fitted(NamedTuple):
    """A detector with its threshold, and its scores (n,) of the test images that are classified right."""

    known: Known
    clean: Tensor


def _auroc(negative: Tensor, positive: Tensor) -> float:
    """Of scores (n,) and (m,); NaN where a side is empty."""
    scores, count = torch.cat([negative, positive]).numpy(), len(negative)
    return auroc(scores, np.arange(len(scores)) >= count) if 0 < count < len(scores) else float("nan")


def _rng(case: Case) -> Callable[[str], Generator]:
    """Generators of this measurement, by purpose."""
    return lambda purpose: case.rng(f"detection {purpose}")


def _learns(detector: object) -> bool:
    return "crafted" in getattr(detector, "needs", ())


def _words(blocks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuses no blocks at all, and names that no reading could have."""
    if not blocks or not all(re.fullmatch(WORD, name) for name in blocks):
        raise ValueError(f"expected names of lower-case letters, digits and '_', got {sorted(blocks)}")
    return blocks


def _attack(block: Mapping[str, Any]) -> Any:
    return build(ATTACKS, block, at="attacks")


def _detector(block: Mapping[str, Any]) -> Any:
    return build(DETECTORS, block, at="detectors")
