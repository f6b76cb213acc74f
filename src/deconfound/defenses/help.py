"""HELP: MART at perturbed weights, and helper images beyond the attack with the label that a standard network sees.

The helper images are those of Rade and Moosavi-Dezfooli, "Reducing Excessive Margin to Achieve a Better Accuracy vs.
Robustness Trade-off", ICLR 2022; the composition is the baseline HELP in the development history of the code of ADML
(arXiv:2307.07250). How the standard network was trained there is not known: here it is a phase of the run.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.awp import Perturbed, WeightPerturbation
from deconfound.defenses.losses import CIFAR, base_loss
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Validation, Workbench
from deconfound.fields import Count, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier


@dataclass(frozen=True)
class Helped:
    """The loss of MART plus help_weight times the cross-entropy of the helper images; `standard` is frozen."""

    standard: Classifier
    mart_weight: float
    help_weight: float

    def __call__(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        """Loss of images (N, C, H, W) and their perturbed copies; the helper images are the last forward pass."""
        loss = base_loss(model, x, x_adv, y, base="mart", trades_beta=0.0, mart_weight=self.mart_weight)
        if not self.help_weight:
            return loss
        with torch.no_grad():
            seen = self.standard(x_adv).argmax(1)
        return loss + self.help_weight * F.cross_entropy(model(helpers(x, x_adv)), seen)


def helpers(x: Tensor, x_adv: Tensor) -> Tensor:
    """x + 2 t with t = x_adv - x, clipped to the pixel box; like x."""
    return (2 * x_adv - x).clamp(0.0, 1.0)


def standard_network(bench: Workbench, *, epochs: int | None, lr: float | None) -> Classifier:
    """A fresh network of the run, trained in a phase `standard` of its own, then frozen in evaluation mode.

    epochs and lr replace those of the run's recipe where given.
    """
    recipe = bench.recipe
    recipe = replace(recipe, epochs=epochs or recipe.epochs, lr=lr or recipe.lr)
    network = bench.network("standard")
    bench.fit(network, cross_entropy, phase="standard", recipe=recipe)
    return network.eval().requires_grad_(False)


@hyperparameters
class HELP:
    """ascent: the inner maximisation, of the cross-entropy. mart_weight: of the divergence of MART; help_weight: of the
    cross-entropy on helper images, 0 is AWP. gamma: size of the perturbation of a tensor of weights, relative to its
    norm. standard_epochs, standard_lr: training of the standard network, by default as the run's recipe has it; say
    more where the run itself only fine-tunes. validation: robust accuracy on `val` after each epoch is left out
    (`none`), recorded (`track`), or chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    ascent: Ascent = CIFAR
    mart_weight: NonNegative = 1.0
    help_weight: NonNegative = 0.25
    gamma: NonNegative = 0.01
    standard_epochs: Count | None = None
    standard_lr: Positive | None = None
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train the standard network, then the one that it helps."""
        standard = standard_network(bench, epochs=self.standard_epochs, lr=self.standard_lr)
        return train_robustly(bench, bench.begin(), self.objective(standard), self.ascent, self.validation)

    def objective(self, standard: Classifier) -> Perturbed:
        """The loss, with what takes the perturbation back after a step; standard: frozen, in evaluation mode."""
        loss = Helped(standard, self.mart_weight, self.help_weight)
        return Perturbed(self.ascent, loss, WeightPerturbation(self.gamma))
