"""AWP: minimise the adversarial loss at the weights of a small ball that make it worst.

Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, in the form of the
experiments of ADML (arXiv:2307.07250): the perturbation climbs the adversarial cross-entropy whatever the loss is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.losses import CIFAR, Base, base_loss, craft
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Validation, Workbench
from deconfound.fields import NonNegative, hyperparameters

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Scalar loss of a model on images, their perturbed copies and labels (x, x_adv, y)."""


@dataclass
class WeightPerturbation:
    """Moves every tensor of weights by gamma times its own norm up the adversarial cross-entropy, and takes that back.

    Tensors of one dimension (biases, affine parameters of normalisations) stay as they are. The direction is that of
    one gradient step of a copy of the network: its length cancels in the scaling, so that there is neither a copy nor a
    rate of its own here. The forward pass works on copies of the buffers: statistics of batch norms do not move.
    """

    gamma: float
    held: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def perturb(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> None:
        """w <- w + gamma |w| g / |g|, per tensor, with the gradient g of the cross-entropy on x_adv (N, C, H, W) and
        labels (N,), in the mode the model is in. Raises RuntimeError if the last perturbation was never taken back.
        """
        if self.held:
            raise RuntimeError("weights: expected a restored network, got one that is still perturbed")
        weights = {name: w for name, w in model.named_parameters() if w.dim() > 1 and w.requires_grad}
        if not (weights and self.gamma):
            return
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.enable_grad():
            loss = F.cross_entropy(functional_call(model, buffers, (x_adv,)), y)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        with torch.no_grad():
            for (name, w), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    original = w.clone()
                    w.add_(self.gamma * w.norm() * gradient / (gradient.norm() + 1e-20))
                    self.held[name] = original, w.clone()

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Take the perturbation back; what an optimiser did to the weights since then stays. Nothing without one.

        w <- original + (w - perturbed), which is w - gamma Delta, and the original to the bit if no step was taken.
        """
        for name, w in model.named_parameters():
            if name in self.held:
                original, perturbed = self.held[name]
                w.copy_(original + (w - perturbed))
        self.held.clear()


@dataclass
class Perturbed:
    """Objective: images crafted on the network as it is, the loss at the perturbed weights."""

    ascent: Ascent
    loss: Loss
    perturbation: WeightPerturbation

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The loss on a batch; leaves the weights perturbed, for the backward pass."""
        x_adv = craft(self.ascent, model, x, y, rng=rng)
        self.perturbation.perturb(model, x_adv, y)
        return self.loss(model, x, x_adv, y)

    def after_step(self, model: nn.Module) -> None:
        """Take the perturbation back."""
        self.perturbation.restore(model)


@hyperparameters
class AWP:
    """ascent: the inner maximisation, of the cross-entropy. base: the loss at the perturbed weights; trades_beta,
    mart_weight: weight of the divergence in two of them, 2 in the experiments of ADML. gamma: size of the perturbation
    of a tensor of weights, relative to its norm; 0 is the base loss by itself. validation: robust accuracy on `val`
    after each epoch is left out (`none`), recorded (`track`), or chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    ascent: Ascent = CIFAR
    base: Base = "mart"
    trades_beta: NonNegative = 2.0
    mart_weight: NonNegative = 2.0
    gamma: NonNegative = 0.01
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the base loss at perturbed weights."""
        return train_robustly(bench, bench.begin(), self.objective(), self.ascent, self.validation)

    def objective(self) -> Perturbed:
        """The loss, with what takes the perturbation back after a step."""
        loss = partial(base_loss, base=self.base, trades_beta=self.trades_beta, mart_weight=self.mart_weight)
        return Perturbed(self.ascent, loss, WeightPerturbation(self.gamma))
