"""FAB: steps to the linearised boundary of a class, drawn towards the image itself.

Croce & Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020,
arXiv:1907.02044, algorithm 1; targeted as in Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an
Ensemble of Diverse Parameter-free Attacks", ICML 2020, section 6. Defaults: those of the latter.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.boundary import length, nearest_gap, to_plane
from deconfound.attacks.minimal import Closest, closest, within
from deconfound.attacks.scores import TINY, likeliest_wrong, margin
from deconfound.fields import Count, Eps, Fraction01, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel, per_image

SEARCHES = 3  # forward passes of the final search of section 3.4


@dataclass(frozen=True)
class Approach:
    """The rule: from the iterate and from the image, eta times the way to the plane, and a mean of both ends.

    An adversarial iterate is first drawn back to beta times its distance. The plane stays that of the last look: the
    paper looks again where the iterate was drawn to, which buys no closer images for the second pass.
    """

    found: Closest
    rows: Tensor
    alpha_max: float
    eta: float
    beta: float
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, in the box."""
        drawn = 1 - (1 - self.beta) * self.found.wrong[self.rows[at.rows]].to(at.z.dtype)
        z, w = at.x + per_image(drawn, at.z) * (at.z - at.x), at.gradient.flatten(1)
        ends = torch.stack([z, at.x]).flatten(2)
        value = at.value + ((ends - at.z.flatten(1)) * w).sum(-1)
        way = to_plane(ends, w, value, self.found.norm)
        far, near = length(way, self.found.norm)
        alpha = (far / (far + near).clamp_min(TINY)).clamp_max(self.alpha_max)
        ends = ends + self.eta * way
        ahead = torch.lerp(ends[0], ends[1], alpha[:, None])
        return ahead.clamp(0.0, 1.0).view_as(at.z)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@hyperparameters
class FAB:
    """eps in pixel units of `norm`; steps: linearisations per target and restart. targeted: go for one wrong class at a
    time, of the `targets` likeliest of the untouched image; otherwise for whichever of them is nearest, at the cost of
    a backward pass each. restarts: after the first, from random points within half of eps or of the distance reached.
    alpha_max: largest weight of the way that starts at the image; eta: overshoot, as a multiple of the way to the
    boundary; beta: part of its distance to which an adversarial iterate is drawn back. early_stop: leave an image as
    soon as an adversarial one within eps is known, which is all that an evaluation asks.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 100
    restarts: Count = 1
    targeted: bool = True
    targets: Count = 9
    alpha_max: Fraction01 = 0.1
    eta: Positive = 1.05
    beta: Fraction01 = 0.9
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found where they are within eps, x elsewhere."""
        reach = self.eps if self.early_stop else 0.0
        return within(
            lambda found, clean: self._hunt(found, clean, rng), model, x, y, threat=self.threat, reach=reach
        )

    def minimal(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found, without a budget; x where none was found."""
        return closest(lambda found, clean: self._hunt(found, clean, rng), model, x, y, norm=self.norm).best

    def _hunt(self, found: Closest, clean: Tensor, rng: Generator) -> None:
        y = found.victim.y
        classes = likeliest_wrong(clean, y, self.targets)
        for group in torch.split(classes, 1 if self.targeted else classes.shape[1], dim=1):
            goal = nearest_gap(y, group, self.norm)
            for restart in range(self.restarts):
                start = self._start(found, rng) if restart else found.x
                rows = found.standing()
                if not len(rows):
                    return
                move = Approach(found, rows, self.alpha_max, self.eta, self.beta)
                climb(
                    found.look(goal, rows),
                    found.x[rows],
                    start[rows],
                    move,
                    steps=self.steps,
                    early_stop=True,
                )
        found.tighten(margin(clean, y), tries=SEARCHES)

    def _start(self, found: Closest, rng: Generator) -> Tensor:
        """Random points; drawn for all images, so that what one draws does not depend on the fate of the others."""
        ball = self.threat.random_start(found.x, rng=rng) - found.x
        part = (found.distance / self.eps).clamp_max(1.0) / 2
        return (found.x + per_image(part, ball) * ball).clamp(0.0, 1.0)
