"""Input-gradient regularisation: the cross-entropy shall change little when the pixels do.

Ross and Doshi-Velez, "Improving the Adversarial Robustness and Interpretability of Deep Neural Networks by Regularizing
their Input Gradients", AAAI 2018, arXiv:1711.09404; the penalty is the double backpropagation of Drucker and Le Cun,
"Improving Generalization Performance Using Double Backpropagation", IEEE Transactions on Neural Networks, 1992.

Here pixels are in [0, 1], which sets the scale of the weight. Cross-entropy and penalty come from one forward pass in
training mode: where batch norms look at the batch, the gradient of an image's pixels contains what they do to the
losses of the other images.
"""

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import NonNegative, hyperparameters

UNSATURATED = ("apgd_targeted", "autoattack", "cw_l2", "fab", "square")
"""Kinds of attacks that do not climb the cross-entropy alone."""

FLATTENED = Adaptive(
    "its penalty flattens a slope at the images, which can hide a gradient without moving a boundary: scores that do"
    " not saturate where the cross-entropy does, or an attack that needs no gradient",
    attacks=UNSATURATED,
)


@hyperparameters
class InputGradient:
    """weight: of the squared l2 norm of the gradient of an image's cross-entropy by its pixels, (nats per pixel unit)
    squared, the mean over images; 0 is standard training.

    On small networks and MNIST weights of 0.1 to 1 traded one or two points of clean accuracy for robustness. The
    gradient of the cross-entropy is no measure of success: a standard network that is sure of its answers has a
    smaller one. Look at the gradient of the logits.
    """

    adaptive: ClassVar[Adaptive] = FLATTENED

    weight: NonNegative = 1.0

    def __call__(self, bench: Workbench) -> Defended:
        """Train on cross-entropy and penalty."""
        model = bench.begin()
        bench.fit(model, self.objective)
        return Defended(model)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE + weight * |gradient of CE by x|^2, means over the batch; scalar."""
        if not self.weight:
            return cross_entropy(model, x, y, rng=rng)
        x = x.detach().requires_grad_(True)
        losses = F.cross_entropy(model(x), y, reduction="none")
        return losses.mean() + self.weight * squares(pixel_gradient(losses, x)).mean()


def pixel_gradient(values: Tensor, x: Tensor) -> Tensor:
    """Gradient, like images x (N, C, H, W), of the sum of values (N,); itself attached to the graph of the weights."""
    (found,) = torch.autograd.grad(values.sum(), x, create_graph=True, materialize_grads=True)
    return found


def squares(maps: Tensor) -> Tensor:
    """Squared l2 norm of each map (N, C, H, W), as (N,)."""
    return maps.flatten(1).square().sum(1)
