"""IG-NORM: the attribution of the change of the loss shall stay small wherever in the ball an image is moved.

Chen, Wu, Rastogi, Liang and Jha, "Robust Attribution Regularization", NeurIPS 2019, arXiv:1905.09957, objectives
IG-NORM and IG-SUM-NORM. IG(x, x') are the integrated gradients of the cross-entropy along the segment from image to
perturbed image, by right ends, as in the authors' code; they sum to the change of the loss, so that their l1 norm
bounds it from above.

Unlike there, the ascent sees the network in evaluation mode, as every ascent here. In the loss, passes along the
segment are in training mode, with the statistics of their batch, and leave the running statistics alone: these follow
the pass of the cross-entropy.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy as per_image_loss
from deconfound.defenses.input_gradient import FLATTENED, pixel_gradient
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Validation, Workbench
from deconfound.fields import Count, NonNegative, hyperparameters
from deconfound.models.classifier import eval_mode
from deconfound.threat import ThreatModel

FLOWER = Ascent(threat=ThreatModel(eps=8 / 255), step_size=2 / 255, steps=7)
"""The ascent of the release on colour images (Flower)."""

Call = Callable[[Tensor], Tensor]
"""Logits (N, K) of images (N, C, H, W)."""


@hyperparameters
class IGNorm:
    """variant: `norm`, CE(x) + weight * max |IG(x, x')|_1, or `sum_norm`, max of CE(x') + weight * |IG(x, x')|_1.
    weight: of the l1 norm, nats, the mean over images; 0 is standard training and, in `sum_norm`, adversarial training.
    The release has 1 (`norm`) and 0.1 (`sum_norm`) on MNIST, 0.1 on Flower.

    ascent: the inner maximisation, of the penalty or of the sum. points: gradients along the segment in the loss;
    attack_points: in each step of the ascent. The release has 50 and 10 (MNIST) or 5 (Flower); a training step costs
    points + steps * attack_points gradients with gradients of their own, so that the defaults are fewer.
    validation: robust accuracy on `val` after each epoch, under the ascent on the cross-entropy, is left out (`none`),
    recorded (`track`), or chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = FLATTENED

    variant: Literal["norm", "sum_norm"] = "norm"
    weight: NonNegative = 0.1
    ascent: Ascent = FLOWER
    points: Count = 10
    attack_points: Count = 5
    validation: Validation = "none"

    def __post_init__(self) -> None:
        if self.variant == "norm" and self.ascent.start == "image":
            raise ValueError(
                "ascent.start: expected uniform or gaussian, since the penalty has no slope at the image, got image"
            )

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the composed loss."""
        return train_robustly(bench, bench.begin(), self.objective, self.ascent, self.validation)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The loss of IG-NORM or IG-SUM-NORM, mean over the batch; scalar, nats."""
        if not self.weight and self.variant == "norm":
            return cross_entropy(model, x, y, rng=rng)
        with eval_mode(model):
            x_adv = self.ascent(partial(self._score, model, x, y), x, rng=rng)
        loss = cross_entropy(model, x if self.variant == "norm" else x_adv, y, rng=rng)
        if self.weight:
            change = path_attribution(aside(model), x, x_adv, y, self.points)
            loss = loss + self.weight * sizes(change).mean()
        return loss

    def _score(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """What the ascent climbs, (N,)."""
        if not self.weight:
            return per_image_loss(model(z), y)
        size = sizes(path_attribution(model, x, z, y, self.attack_points))
        return size if self.variant == "norm" else per_image_loss(model(z), y) + self.weight * size


def path_attribution(call: Call, x: Tensor, z: Tensor, y: Tensor, points: int) -> Tensor:
    """Integrated gradients, like z, of the cross-entropy from images x to images z (N, C, H, W), labels y (N,):
    (z - x) times the mean gradient at the right ends of `points` equal parts. Attached to the graphs of z and weights.
    """
    total = torch.zeros_like(x)
    for k in range(1, points + 1):
        at = x + (z - x) * (k / points)
        at = at if at.requires_grad else at.requires_grad_(True)
        total = total + pixel_gradient(F.cross_entropy(call(at), y, reduction="none"), at)
    return (z - x) * total / points


def sizes(maps: Tensor) -> Tensor:
    """l1 norm of each map (N, C, H, W), as (N,)."""
    return maps.flatten(1).abs().sum(1)


def aside(model: nn.Module) -> Call:
    """The model with its weights and in its mode, on copies of its buffers: statistics of batch norms do not move."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return lambda z: functional_call(model, buffers, (z,))
