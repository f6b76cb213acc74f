"""APGD, auto-PGD: projected ascent that finds its step sizes by itself.

Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML
2020, section 3 and algorithm 1. For l1: Croce & Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image
Classifiers", ICML 2021, sections 3 and 4.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Look, Move, Point, climb
from deconfound.attacks.restarts import restarted
from deconfound.attacks.scores import ScoreName
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, OpenFraction, hyperparameters
from deconfound.threat import Norm, ThreatModel, per_image

MOMENTUM = 0.75  # weight of the new step against the one before (alpha of algorithm 1)
FIRST, SHRINK, LEAST = (
    0.22,
    0.03,
    0.06,
)  # parts of all steps: first period between checks, by how much it shrinks, least
ENLARGED = (
    (3.0, 0.3),
    (2.0, 0.3),
    (1.0, 0.4),
)  # l1: radius as a multiple of eps, and part of the steps spent there


def checkpoints(steps: int) -> frozenset[int]:
    """Steps at which the step sizes are checked: w_j = ceil(p_j steps), p = 0, 0.22, 0.41, ... (section 3.2)."""
    period, least, shrink = (max(1, int(part * steps)) for part in (FIRST, LEAST, SHRINK))
    found, at = set(), 0
    while (at := at + period) < steps:
        found.add(at)
        period = max(period - shrink, least)
    return frozenset(found)


@dataclass(frozen=True)
class Halving:
    """The rule for linf and l2: a step with momentum; at each checkpoint an image whose score has not risen in a part
    rho of the steps, or not at all since the last check, goes back to its best point with half the step.
    """

    threat: ThreatModel
    steps: int
    rho: float
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate; the first step has size 2 eps."""
        seen = at.memory
        if step == 0:
            zero = torch.zeros_like(at.value)
            seen |= {"previous": at.z, "size": zero + 2 * self.threat.eps, "rises": zero, "halved": zero + 1}
            seen |= {
                "best": at.z,
                "top": at.value,
                "slope": at.gradient,
                "last": at.value,
                "checked": at.value,
            }
        seen["rises"] = seen["rises"] + (at.value > seen["last"])
        seen["last"] = at.value
        remember_best(at)
        if step in self._checks:
            self._check(step, at)
        scale = per_image(seen["size"], at.z)
        ahead = self.threat.project(at.x, at.z + scale * self.threat.steepest(at.gradient))
        if step > 0:
            carried = at.z + MOMENTUM * (ahead - at.z) + (1 - MOMENTUM) * (at.z - seen["previous"])
            ahead = self.threat.project(at.x, carried)
        seen["previous"] = at.z
        return ahead

    @property
    def _checks(self) -> frozenset[int]:
        return checkpoints(self.steps)

    def _check(self, step: int, at: Point) -> None:
        seen = at.memory
        period = step - max((earlier for earlier in self._checks if earlier < step), default=0)
        stale = (seen["halved"] == 0) & (seen["checked"] >= seen["top"])
        reduce = (seen["rises"] <= self.rho * period) | stale
        seen["size"] = torch.where(reduce, seen["size"] / 2, seen["size"])
        seen["halved"], seen["checked"] = reduce.float(), seen["top"]
        seen["rises"] = torch.zeros_like(seen["rises"])
        back_to_best(at, reduce)

    def result(self, at: Point) -> Tensor:
        """The iterate with the highest score."""
        remember_best(at)
        return at.memory["best"]


@dataclass(frozen=True)
class Sparse:
    """The rule for l1: the steepest step over as many pixels as the best perturbation suggests; where that number no
    longer falls, the step shrinks.
    """

    threat: ThreatModel
    steps: int
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate; the first step has size eps and moves a fifth of the pixels."""
        seen, pixels = at.memory, at.x[0].numel()
        if step == 0:
            zero = torch.zeros_like(at.value)
            seen |= {"best": at.z, "top": at.value, "slope": at.gradient}
            seen |= {"share": zero + 0.2, "count": zero + pixels, "size": zero + self.threat.eps}
        remember_best(at)
        if step and step % max(1, int(0.04 * self.steps)) == 0:
            count = ((seen["best"] - at.x) != 0).flatten(1).sum(1).to(at.value.dtype)
            sparser = count < 0.95 * seen["count"]
            smaller = (seen["size"] / 1.5).clamp_min(self.threat.eps / 10)
            seen["size"] = torch.where(sparser, torch.full_like(smaller, self.threat.eps), smaller)
            seen["share"], seen["count"] = count / pixels / 1.5, count
            back_to_best(at, sparser)
        flat = at.gradient.flatten(1)
        order = flat.abs().argsort(1, descending=True).argsort(1)
        chosen = order < (seen["share"] * pixels).floor().clamp_min(1)[:, None]
        sign = flat.sign() * chosen
        sign = sign / sign.abs().sum(1, keepdim=True).clamp_min(1)
        return self.threat.project(at.x, at.z + per_image(seen["size"], at.z) * sign.view_as(at.z))

    def result(self, at: Point) -> Tensor:
        """The iterate with the highest score."""
        remember_best(at)
        return at.memory["best"]


def remember_best(at: Point) -> None:
    """Keep the iterate, its score and its gradient where the score is the highest so far."""
    seen = at.memory
    better = at.value > seen["top"]
    seen["top"] = torch.where(better, at.value, seen["top"])
    seen["best"] = torch.where(per_image(better, at.z), at.z, seen["best"])
    seen["slope"] = torch.where(per_image(better, at.z), at.gradient, seen["slope"])


def back_to_best(at: Point, chosen: Tensor) -> None:
    """Put the chosen images (n,) bool back to their best iterates."""
    mask = per_image(chosen, at.z)
    at.z = torch.where(mask, at.memory["best"], at.z)
    at.gradient = torch.where(mask, at.memory["slope"], at.gradient)


@hyperparameters
class APGD:
    """eps in pixel units of `norm`; steps, restarts and score: what a user may choose. rho: part of the steps that must
    raise the score if the step size is to stay. samples: evaluations whose mean gradient is taken. early_stop: leave an
    image as soon as the model errs on it.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 100
    restarts: Count = 1
    score: ScoreName = "cross_entropy"
    rho: OpenFraction = 0.75
    samples: Count = 1
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Per image the iterate with the highest score; of several restarts that with the largest margin."""

        def once(victim: Victim, x: Tensor) -> Tensor:
            look = victim.look(victim.goal(self.score, x))
            return self.ascend(look, x, rng=rng)

        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            return restarted(once, victim, x, count=self.restarts, early_stop=self.early_stop)

    def ascend(self, look: Look, x: Tensor, *, rng: Generator) -> Tensor:
        """One ascent from a random start of any score of images like x."""
        z = self.threat.random_start(x, rng=rng)
        if self.norm != "l1":
            move = Halving(self.threat, self.steps, self.rho)
            return climb(look, x, z, move, steps=self.steps, samples=self.samples, early_stop=self.early_stop)
        for times, part in ENLARGED:
            threat = ThreatModel(norm=self.norm, eps=times * self.eps)
            steps = max(1, round(part * self.steps))
            sparse: Move = Sparse(threat, steps)
            stop = self.early_stop and times == 1
            z = climb(
                look, x, threat.project(x, z), sparse, steps=steps, samples=self.samples, early_stop=stop
            )
        return z
