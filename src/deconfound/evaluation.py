"""Hits and totals of one trained model: clean, under each attack, under the trigger.

The evaluation, not the attack, judges success and holds each attack to its budget. Robust accuracy counts an
image as a hit when it is classified right both as it is and as the attack returned it, so only images that
the model gets right are attacked; and each attack sees only what the attacks before it left standing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconfound.attacks import ATTACKS
from deconfound.attacks.transfer import Transfer
from deconfound.engine import Cost, Engine, Rows
from deconfound.entries import Entry
from deconfound.models.classifier import predict
from deconfound.progress import Tick
from deconfound.registry import build
from deconfound.types import Array, Images, Term

WORST = "worst_case"


@dataclass
class Evaluation:
    """Collects entries for one model, and what its attacks cost.

    examples: attack only the first so many images (their subset is then called `attacked`).
    term: what the defense trained against besides the model's own loss, which the adaptive attack is told. standing:
    per threat model (norm, eps) the images that no attack has broken; threats: these models.
    """

    engine: Engine
    examples: int | None = None
    term: Term | None = None
    entries: list[Entry] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    standing: dict[tuple[str, float], Rows] = field(default_factory=dict)
    threats: dict[tuple[str, float], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.subset = "test" if self.examples is None else "attacked"
        self.count = len(self.engine.clean[: self.examples])

    def clean_accuracy(self) -> None:
        """Untouched test images classified right."""
        self.entries.append(Entry("clean_accuracy", "none", "test", self.engine.clean))

    def moved(self, name: str, x: Array) -> None:
        """The same labels on other pictures (N, C, H, W) uint8, such as the scenes under do(style)."""
        hits = predict(self.engine.judged, torch.from_numpy(x)).argmax(1) == self.engine.images.y
        self.entries.append(Entry("clean_accuracy", name, "test", hits.numpy()))

    def robust(
        self, attacks: Mapping[str, Mapping[str, Any]], tick: Tick, *, alone: Collection[str] = ()
    ) -> None:
        """Per threat model the worst case per example over its attacks, in the order given.

        alone: attacks that are also measured by themselves, on every image that the model gets right; the others see
        only what is left, and have no accuracy of their own.
        """
        for name, block in attacks.items():
            attack = build(ATTACKS, block, at=f"attacks.{name}")
            attack = self._told(attack)
            threat = budget(attack, block, name)
            key = (threat.norm, threat.eps)
            before = self.standing.get(key, self.right())
            rows = self.right() if name in alone else before
            left, costs = self.engine.standing(attack, name, rows, threat=threat)
            self.costs += costs
            self.threats[key] = threat
            self.standing[key] = np.intersect1d(before, left, assume_unique=True)
            if name in alone:
                self._add(name, left, threat.norm, threat.eps)
            tick(f"{name}: {len(left)} of {len(rows)} stand")
        for (norm, eps), left in self.standing.items():
            self._add(WORST, left, norm, eps)

    def _told(self, attack: Any) -> Any:
        """The attack, told the defense's further term if it is one that can make use of it."""
        return attack.knowing(self.term) if hasattr(attack, "knowing") else attack

    def right(self) -> Rows:
        """Places of the images to attack: those that the model gets right."""
        return np.flatnonzero(self.engine.clean[: self.examples])

    def curve(
        self, name: str, block: Mapping[str, Any], axis: str, values: Sequence[float], tick: Tick
    ) -> None:
        """Robust accuracy of one attack over a list of `eps` or of `steps`; an explicit step size keeps its ratio to
        eps (over eps), and is left to the attack (over steps).
        """
        base = build(ATTACKS, block, at=f"attacks.{name}")
        for value in values:
            attack = self._told(at_eps(base, float(value)) if axis == "eps" else at_steps(base, int(value)))
            threat = attack.threat
            steps = int(value) if axis == "steps" else 0
            left = self.right()
            if threat.eps:
                left, costs = self.engine.standing(attack, f"{name}@{axis}={value:g}", left)
                self.costs += costs
            self._add(name, left, threat.norm, threat.eps, curve=axis, steps=steps)
            tick(f"{name} {axis} {value:g}: {len(left)} stand")

    def backdoor(
        self, poison: str, triggered: Images, cross: Tensor | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """ASR and triggered accuracy on images whose hoped-for label is not the true one; recall of the
        target class.

        triggered: every test image stamped, in the order of the test split, with the label hoped for; cross: the test
        images with a look-alike of the trigger that should change nothing. Returns the labels of the new subsets.
        """
        true = self.engine.images.y
        hoped = triggered.y
        victims = hoped != true
        if cross is not None:
            right = predict(self.engine.judged, cross).argmax(1) == true
            self.entries.append(Entry("cross_accuracy", poison, "test", right.numpy()))
        guess = predict(self.engine.judged, triggered.x[victims]).argmax(1)
        self.entries.append(Entry("asr", poison, "triggered", (guess == hoped[victims]).numpy()))
        self.entries.append(
            Entry("triggered_accuracy", poison, "triggered", (guess == true[victims]).numpy())
        )
        subsets = {"triggered": true[victims].numpy()}
        if (target := target_of(true, hoped)) is not None:
            own = (true == target).numpy()
            self.entries.append(Entry("target_recall", "none", "target", self.engine.clean[own]))
            subsets["target"] = true.numpy()[own]
        return subsets

    def _add(
        self, attack: str, left: Rows, norm: str, eps: float, *, curve: str = "", steps: int = 0
    ) -> None:
        hits = np.zeros(self.count, bool)
        hits[left] = True
        self.entries.append(Entry("robust_accuracy", attack, self.subset, hits, norm, eps, curve, steps))


def target_of(true: Tensor, hoped: Tensor) -> int | None:
    """The one class that an attacker hopes for, from true labels (N,) and those hoped for (N,), which are the true ones
    of images that are no victims; None where there are several, or none.
    """
    wanted = torch.unique(hoped[hoped != true])
    return int(wanted) if len(wanted) == 1 else None


def budget(attack: Any, block: Mapping[str, Any], name: str) -> Any:
    """The threat model of an attack; of a transfer, that of the attack which crafted the images."""
    if isinstance(attack, Transfer):
        attack = build(ATTACKS, block["crafted_by"], at=f"attacks.{name}.attack")
    return attack.threat


def at_eps(attack: Any, eps: float) -> Any:
    """The attack with another radius; an explicit step size grows in proportion."""
    if hasattr(attack, "at"):
        return attack.at(eps=eps)
    step = getattr(attack, "step_size", None)
    changes = {"step_size": step * eps / attack.eps} if step and eps and attack.eps else {}
    return replace(attack, eps=eps, **changes)


def at_steps(attack: Any, steps: int) -> Any:
    """The attack with another number of steps and the step size that it takes by default."""
    if hasattr(attack, "at"):
        return attack.at(steps=steps)
    changes = {"step_size": None} if hasattr(attack, "step_size") else {}
    return replace(attack, steps=steps, **changes)
