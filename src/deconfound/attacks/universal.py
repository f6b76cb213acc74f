"""A universal perturbation: one image added to all others, learnt on the first images of a batch.

Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR 2017, arXiv:1610.08401 (the idea);
Shafahi, Najibi, Xu, Dickerson, Davis & Goldstein, "Universal Adversarial Training", AAAI 2020, arXiv:1811.11304 (the
gradient form and its clipped loss). They go through a training set in small batches; here each step sees all images
that are learnt from, and sums are clipped to the pixel box before the model sees them, as the result is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.scores import cross_entropy
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.threat import ThreatModel


@dataclass(frozen=True)
class Signed:
    """Signed steps of a perturbation, each value within eps; the pixel box is not its own."""

    eps: float
    step_size: float
    looks_back: bool = False

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next perturbation."""
        return (at.z + self.step_size * at.gradient.sign()).clamp(-self.eps, self.eps)

    def result(self, at: Point) -> Tensor:
        """The last perturbation."""
        return at.z


@hyperparameters
class Universal:
    """eps and step_size in pixel units (linf); step_size defaults to eps / 15. images: so many of a batch, the first
    ones, are learnt from, and the rest is held out; a smaller batch is learnt from as a whole. steps: gradients of the
    summed loss. cap: nats at which the cross-entropy of one image is cut off, so that an image already lost pulls no
    more.

    One perturbation serves a whole batch: what an image becomes depends on the others, and a batch that earlier attacks
    have thinned out teaches less. A rate over a batch mixes images learnt from with held-out ones.
    """

    together: ClassVar[bool] = True  # images of a batch influence each other

    eps: Eps
    images: Count = 128
    steps: Count = 100
    step_size: Positive | None = None
    cap: Positive = 9.0

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm="linf", eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """All images of x plus one perturbation, clipped to the box. Draws nothing."""
        return (x.detach() + self.perturbation(model, x, y)).clamp(0.0, 1.0)

    def perturbation(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What is added, (1, C, H, W) within [-eps, eps]; zero where eps is or where there is no image."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            start = x.new_zeros(1, *x.shape[1:])
            if self.eps == 0 or not len(x):
                return start
            rows = torch.arange(min(self.images, len(x)), device=x.device)
            part = victim.part(rows)
            move = Signed(self.eps, self.step_size or self.eps / 15)
            return climb(
                lambda v, _: (self._loss(part, x[rows], v), None), start, start, move, steps=self.steps
            )

    def _loss(self, victim: Victim, x: Tensor, v: Tensor) -> Tensor:
        """(1,): clipped cross-entropy in nats, summed over the images learnt from."""
        logits = victim((x + v).clamp(0.0, 1.0))
        return cross_entropy(logits, victim.y).clamp_max(self.cap).sum().view(1)
