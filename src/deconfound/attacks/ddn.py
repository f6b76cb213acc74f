"""DDN: the gradient says where to go, and whether the model errs says how far.

Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses", CVPR
2019, algorithm 1, without its rounding to 8 bits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.minimal import Closest, closest, within
from deconfound.attacks.scores import TINY
from deconfound.fields import Count, Eps, OpenFraction, Positive, hyperparameters
from deconfound.threat import ThreatModel, per_image, size

LAST = 0.01  # part of step_size at the last step


@dataclass(frozen=True)
class Decoupled:
    """The rule: a step along the unit gradient, then back to the sphere, which shrinks by a part gamma where the last
    iterate was adversarial and grows by it elsewhere.
    """

    found: Closest
    rows: Tensor
    steps: int
    step_size: float
    radius: float
    gamma: float
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, in the box."""
        wrong = self.found.wrong[self.rows[at.rows]]
        radius = at.memory.get("radius", torch.full_like(at.value, self.radius))
        radius = at.memory["radius"] = radius * torch.where(wrong, 1 - self.gamma, 1 + self.gamma)
        d = at.z - at.x + self._size(step) * _unit(at.gradient)
        return (at.x + per_image(radius, d) * _unit(d)).clamp(0.0, 1.0)

    def _size(self, step: int) -> float:
        """Falls from step_size to a part LAST of it, along half a cosine."""
        return self.step_size * (LAST + (1 - LAST) * (1 + math.cos(math.pi * step / self.steps)) / 2)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log of (1 - p) / p, (N,), with p the probability of the true class.

    Its gradient points where that of the cross-entropy does, which is all that a unit step asks, and is still there
    where p rounds to 1 and the cross-entropy to a constant.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


def _unit(d: Tensor) -> Tensor:
    """Divided by its l2 norm; zero stays zero."""
    d = d / per_image(d.flatten(1).abs().amax(1).clamp_min(torch.finfo(d.dtype).tiny), d)
    return d / per_image(size(d, "l2").clamp_min(TINY), d)


@hyperparameters
class DDN:
    """eps: l2, pixel units; steps; radius: of the first sphere, and step_size: of the first step, both l2 in pixel
    units; gamma: part by which the sphere grows or shrinks. early_stop: leave an image as soon as an adversarial one
    within eps is known, which is all that an evaluation asks.
    """

    eps: Eps
    steps: Count = 100
    radius: Positive = 1.0
    step_size: Positive = 1.0
    gamma: OpenFraction = 0.05
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm="l2", eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found where they are within eps, x elsewhere; nothing is drawn."""
        reach = self.eps if self.early_stop else 0.0
        return within(self._hunt, model, x, y, threat=self.threat, reach=reach)

    def minimal(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found, without a budget; x where none was found."""
        return closest(self._hunt, model, x, y, norm="l2").best

    def _hunt(self, found: Closest, clean: Tensor) -> None:
        rows = found.standing()
        move = Decoupled(found, rows, self.steps, self.step_size, self.radius, self.gamma)
        look = found.look(lambda z, logits, rows: log_odds(logits, found.victim.y[rows]), rows)
        climb(look, found.x[rows], found.x[rows], move, steps=self.steps, early_stop=True)
