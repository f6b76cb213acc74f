"""DeepFool: from plane to plane, each the nearest linearised boundary, until the model errs.

Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks", CVPR 2016, algorithm 2
and section 3.3. The paper leaves the pixel box out of account; here the iterates are clipped to it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.boundary import FAR, nearest_gap
from deconfound.attacks.minimal import Closest, closest, within
from deconfound.attacks.scores import likeliest_wrong
from deconfound.fields import Count, Eps, NonNegative, hyperparameters
from deconfound.threat import TINY, ThreatModel, per_image, size

# Pixel units beyond each plane: where the box cuts ways short, their sum would else stall before it.
NUDGE = 1e-4


@dataclass(frozen=True)
class Crossing:
    """The rule: the ways to the planes of all looks, added up, and a part overshoot of the sum beyond; into the box."""

    norm: Literal["linf", "l2"]
    overshoot: float
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, in the box."""
        dual = size(at.gradient, "l1" if self.norm == "linf" else "l2").clamp_min(TINY)
        way = ThreatModel(norm=self.norm, eps=1.0).steepest(at.gradient)
        total = (
            at.memory.get("total", torch.zeros_like(at.z)) + per_image(NUDGE - at.value / dual, at.z) * way
        )
        at.memory["total"] = total
        return (at.x + (1 + self.overshoot) * total).clamp(0.0, 1.0)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@hyperparameters
class DeepFool:
    """eps in pixel units of `norm`; steps: linearisations at most; overshoot: part of its length by which every step
    goes beyond the plane; candidates: number of wrong classes whose boundaries are compared, the likeliest of the
    untouched image, each at the cost of a backward pass per step.
    """

    eps: Eps
    norm: Literal["linf", "l2"] = "l2"
    steps: Count = 50
    overshoot: NonNegative = 0.02
    candidates: Count = 9

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The first adversarial images found where they are within eps, x elsewhere; nothing is drawn."""
        return within(self._hunt, model, x, y, threat=self.threat, reach=FAR)

    def minimal(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The first adversarial images found, without a budget; x where none was found."""
        return closest(self._hunt, model, x, y, norm=self.norm, reach=FAR).best

    def _hunt(self, found: Closest, clean: Tensor) -> None:
        rows, y = found.standing(), found.victim.y
        goal = nearest_gap(y, likeliest_wrong(clean, y, self.candidates), self.norm)
        move = Crossing(self.norm, self.overshoot)
        climb(found.look(goal, rows), found.x[rows], found.x[rows], move, steps=self.steps, early_stop=True)
