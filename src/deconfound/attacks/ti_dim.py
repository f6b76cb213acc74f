"""TI-DIM: momentum ascent on randomly shrunk and shifted inputs, along smoothed gradients, to transfer between models.

Dong et al., "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks", CVPR 2019
(the smoothing); Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", CVPR
2019 (the inputs); momentum as in `mim`.
"""

from dataclasses import dataclass

import torch
from pydantic import field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Move, Point, Steepest, climb
from deconfound.attacks.scores import ScoreName
from deconfound.attacks.victim import attacking
from deconfound.fields import Count, Eps, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel


def gaussian(length: int, sigma: float) -> Tensor:
    """Weights (length,) of a Gaussian of sigma pixels around the middle, with sum 1; length is odd."""
    place = torch.arange(length, dtype=torch.float64) - length // 2
    weights = (-(place**2) / (2 * sigma**2)).exp()
    return weights / weights.sum()


def smooth(images: Tensor, weights: Tensor) -> Tensor:
    """Images (N, C, H, W), each channel convolved with weights in both directions, zeros outside."""
    count, channels, height, width = images.shape
    flat = images.reshape(count * channels, 1, height, width)
    weights, pad = weights.to(images), len(weights) // 2
    flat = F.conv2d(flat, weights.view(1, 1, -1, 1), padding=(pad, 0))
    return F.conv2d(flat, weights.view(1, 1, 1, -1), padding=(0, pad)).reshape_as(images)


def shrunk_and_shifted(x: Tensor, least: float, *, rng: Generator) -> Tensor:
    """Images (N, C, H, W) resized by one factor from [least, 1] and put somewhere in a black image of the old size.

    One draw for the batch, as in the paper; bilinear, so that every pixel keeps a gradient and the range stays.
    """
    height, width = x.shape[2:]
    factor, down, right = torch.rand(3, generator=rng).tolist()
    factor = least + (1 - least) * factor
    inner = max(1, round(factor * height)), max(1, round(factor * width))
    top, left = int(down * (height - inner[0] + 1)), int(right * (width - inner[1] + 1))
    small = F.interpolate(x, size=inner, mode="bilinear", align_corners=False)
    return F.pad(small, (left, width - inner[1] - left, top, height - inner[0] - top))


@dataclass(frozen=True)
class Smoothed:
    """A rule of ascent that is handed smoothed gradients; weights (k,): the kernel in one direction."""

    move: Move
    weights: Tensor

    @property
    def looks_back(self) -> bool:
        """As the rule does."""
        return self.move.looks_back

    def __call__(self, step: int, at: Point) -> Tensor:
        """The rule's step."""
        at.gradient = smooth(at.gradient, self.weights)
        return self.move(step, at)

    def result(self, at: Point) -> Tensor:
        """The rule's result."""
        return self.move.result(at)


@hyperparameters
class TIDIM:
    """eps and step_size in pixel units of `norm`; step_size defaults to eps / steps. momentum: decay of the accumulated
    gradient. probability: with which a gradient is taken at a shrunk and shifted input; resize: the least factor by
    which it shrinks. The paper enlarges 299 pixels to 330; here the image shrinks by at most that much and keeps its
    outer size, since our models take no other. kernel: odd length in pixels of the Gaussian that smooths the gradient,
    at most the shorter side of the image; sigma: its standard deviation in pixels, by default a third of half its
    length. 15 is the paper's kernel, for 299 pixels; published comparisons on 32 pixels mostly keep it, 5 or 7 is
    milder. score and samples (evaluations whose mean gradient is taken, each on an input of its own) as in PGD.

    There is no early stop: the model is only looked at through the random inputs, where an error says nothing about the
    image, and images crafted for another model should not stop where they barely fool this one.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 10
    step_size: Positive | None = None
    momentum: NonNegative = 1.0
    probability: Fraction01 = 0.7
    resize: Fraction01 = 0.9
    kernel: Count = 15
    sigma: Positive | None = None
    score: ScoreName = "cross_entropy"
    samples: Count = 1

    @field_validator("kernel")
    @classmethod
    def _odd(cls, length: int) -> int:
        if length % 2 == 0:
            raise ValueError(f"expected an odd number of pixels, got {length}")
        return length

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate, like x."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            goal = victim.goal(self.score, x)

            def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
                if torch.rand(1, generator=rng).item() < self.probability:
                    z = shrunk_and_shifted(z, self.resize, rng=rng)
                return goal(victim(z), rows), None

            return climb(look, x, x, self._move(x), steps=self.steps, samples=self.samples)

    def _move(self, x: Tensor) -> Move:
        step = Steepest(self.threat, self.step_size or self.eps / self.steps, self.momentum)
        length = min(self.kernel, min(x.shape[2:]) - 1 + min(x.shape[2:]) % 2)
        if length == 1:
            return step
        return Smoothed(step, gaussian(length, self.sigma or length // 2 / 3))
