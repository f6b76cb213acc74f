"""Jacobian regularisation: all logits shall change little when the pixels do.

Hoffman, Roberts and Yaida, "Robust Learning with Jacobian Regularization", 2019, arXiv:1908.02729: the squared
Frobenius norm of the Jacobian of the logits, estimated by random projections. Exact, and for other layers: Jakubovitz
and Giryes, "Improving DNN Robustness to Adversarial Attacks using Jacobian Regularization", ECCV 2018,
arXiv:1803.08680.

The release takes the Jacobian by normalised pixels, here it is by pixels in [0, 1]: with the same weight the penalty
here is larger by one over the variance of the pixels. Cross-entropy and penalty come from one forward pass in training
mode: where batch norms look at the batch, the Jacobian is that of all its logits by all its pixels.
"""

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.input_gradient import FLATTENED, pixel_gradient, squares
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import Natural, NonNegative, hyperparameters


@hyperparameters
class Jacobian:
    """weight: of half the squared Frobenius norm of the Jacobian of the logits by the pixels (in [0, 1]), the mean over
    images; 0 is standard training. projections: random directions of logits per image and step that estimate it;
    0 takes every logit in turn, which is exact and costs a backward pass for each class.
    """

    adaptive: ClassVar[Adaptive] = FLATTENED

    weight: NonNegative = 0.01
    projections: Natural = 1

    def __call__(self, bench: Workbench) -> Defended:
        """Train on cross-entropy and penalty."""
        model = bench.begin()
        bench.fit(model, self.objective)
        return Defended(model)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE + weight / 2 * |Jacobian|^2, means over the batch; scalar."""
        if not self.weight:
            return cross_entropy(model, x, y, rng=rng)
        x = x.detach().requires_grad_(True)
        logits = model(x)
        norms = frobenius(logits, x, directions(logits, self.projections, rng=rng))
        return F.cross_entropy(logits, y) + self.weight / 2 * norms.mean()


def directions(logits: Tensor, count: int, *, rng: Generator) -> Tensor:
    """`count` directions (count, N, K), each uniform on the unit sphere of the K logits (N, K); drawn on the CPU. With
    a count of 0 the K axes.
    """
    images, classes = logits.shape
    if not count:
        return torch.eye(classes).to(logits)[:, None].expand(classes, images, classes)
    return F.normalize(torch.randn(count, images, classes, generator=rng), dim=2).to(logits)


def frobenius(logits: Tensor, x: Tensor, along: Tensor) -> Tensor:
    """Squared Frobenius norm (N,) of the Jacobian of logits (N, K) by images x (N, C, H, W): K times the mean squared
    norm of the gradients along directions (P, N, K); attached to the graph of the weights.

    Unbiased for directions that are uniform on the sphere, exact for the K axes.
    """
    norms = [squares(pixel_gradient((logits * direction).sum(1), x)) for direction in along]
    return logits.shape[1] * torch.stack(norms).mean(0)
