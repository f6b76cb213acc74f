"""Judges detectors of adversarial examples one by one, each with the attacker who knows it; see `detection`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from deconfound.detection import threshold
from deconfound.detectors.evidence import Differentiable, Evidence
from deconfound.detectors.learning import by_batches, distance, with_noise
from deconfound.errors import UserError
from deconfound.interpretations.case import Case, Floats, Place, Readings, selected
from deconfound.interpretations.evasion import WORDS, Evasion
from deconfound.interpretations.undetected import Known
from deconfound.measures import auroc
from deconfound.types import Images

BATCH = 128  # images attacked at a time
CLEAN, OBLIVIOUS, ADAPTIVE = "clean", "oblivious", "adaptive"  # conditions that are no name of an attack


class Terms(NamedTuple):
    """On what terms detectors are judged: names of the attacks that are learnt from and tested on, the attacker who
    knows the detector, and the share of clean held-out images above the threshold.
    """

    lessons: tuple[str, ...]
    tested: tuple[str, ...]
    adaptive: Evasion
    false_alarms: float


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

    terms: Terms
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
        clean, rng = self.x[chosen], rng_of(self.case)(f"noise beside {name}")
        return Suspects(x_adv, success, with_noise(clean, distance(clean, x_adv[chosen]), rng=rng))

    def examine(self, name: str, detector: Any, evidence: Evidence) -> None:
        """All readings of a detector; a note where it cannot be used."""
        try:
            self._examined(name, detector, evidence)
        except UserError as error:
            self.readings.notes.append(f"{name} was not judged to the end: {error}.")
        if learns(detector) and len(self.terms.lessons) > 1:
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
        for learnt in self.terms.lessons:
            alone = replace(evidence, crafted={learnt: crafted[learnt]})
            try:
                fit = self._fitted(replace(detector, attacks=()), alone)
            except UserError as error:
                self.readings.notes.append(f"{name} could not learn from {learnt}: {error}.")
                continue
            self._draw(f"threshold.{name}.{learnt}", np.array([fit.known.limit]))
            for attack in self.terms.tested:
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
        limit = threshold(held.numpy(), self.terms.false_alarms)
        known = Known(detector, suspicion, score, limit, unit if unit > 0 else 1.0)
        return Fitted(known, suspicion(self.case.test.x[self.right]))

    def _evaded(self, name: str, fit: "Fitted") -> Suspects:
        """What the attacker who knows the detector makes of the test images, beginning with what he has without."""
        attack, case = self.terms.adaptive, self.case
        rows = self.right.nonzero().flatten().to(case.device)
        begun, rng = self.suspects[OBLIVIOUS], rng_of(case)(f"evasion of {name}")
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


def rng_of(case: Case) -> Callable[[str], Generator]:
    """Generators of this measurement, by purpose."""
    return lambda purpose: case.rng(f"detection {purpose}")


def learns(detector: object) -> bool:
    """Is the detector shown adversarial examples?"""
    return "crafted" in getattr(detector, "needs", ())
