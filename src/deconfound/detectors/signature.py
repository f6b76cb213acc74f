"""Attribution signature: the explanation of an adversarial example has another shape.

Fidel, Bitton and Shabtai, "When Explainability Meets Adversarial Learning: Detecting Adversarial Examples using SHAP
Signatures", IJCNN 2020, arXiv:1909.03418: SHAP values of the penultimate layer, and a classifier. Here the
contributions of the representation to the logit of the predicted class, which are exact Shapley values of a linear
head around 0; besides them, five numbers that say how the saliency map and integrated gradients (from black, midpoint
rule) of that logit are spread; and a logistic regression, with noisy images among the negatives. The gradients are
taken here and not by the attributions for readers, because an adaptive attacker differentiates through them.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.learning import by_batches, taught
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode

LARGEST = 0.05  # share of the pixels whose part of the mass is one of the numbers
TINY = 1e-12


@hyperparameters
class Signature:
    """steps: points of the integral of integrated gradients.

    attacks: names of crafted examples to learn from, all where empty. c: inverse strength of the l2 penalty of the
    logistic regression.
    """

    needs: ClassVar[tuple[str, ...]] = ("crafted",)

    steps: Count = 10
    attacks: tuple[str, ...] = ()
    c: Positive = 1.0

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Log-odds of the logistic regression."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient. Of a network of ReLU units that of the maps is that of their factors only: the
        gradient of a piecewise linear function is constant almost everywhere.
        """

        def features(x: Tensor) -> Tensor:
            contributions, saliency, integrated = maps(evidence.model, x, self.steps)
            return torch.cat([contributions.double(), shape(saliency), shape(integrated)], 1)

        return taught(evidence, features, attacks=self.attacks, c=self.c)


def maps(model: Classifier, x: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the logit of the predicted class: contributions (n, D) of the representation, saliency and integrated
    gradients (n, C, H, W), of images (n, C, H, W) in [0, 1]; attached to their graph where gradients are enabled.
    """
    attached = torch.is_grad_enabled()
    with torch.enable_grad(), eval_mode(model):
        z = x if x.requires_grad else x.detach().requires_grad_()
        h, logits = model.both(z)
        label = logits.argmax(1)
        saliency = _slope(logits, label, z, attached)
        integrated = torch.zeros_like(z)
        for step in range(steps):
            part = z * ((step + 0.5) / steps)
            integrated = integrated + _slope(model(part), label, part, attached) / steps
        found = (h * model.head.weight[label], saliency, z * integrated)
    return found if attached else (found[0].detach(), found[1].detach(), found[2].detach())


def _slope(logits: Tensor, label: Tensor, at: Tensor, attached: bool) -> Tensor:
    chosen = logits.gather(1, label[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, at, create_graph=attached, retain_graph=True)
    return gradient


def shape(maps: Tensor) -> Tensor:
    """How maps (n, ...) are spread, (n, 5) float64: standard deviation, mean absolute value, interquartile range,
    inverse participation ratio (1 if one pixel has it all, 1 / d if all have the same), and the part of the mass that
    is in the largest 5 % of the pixels.
    """
    rows = maps.flatten(1).double()
    mass, squared = rows.abs(), rows.square()
    count = max(1, round(LARGEST * rows.shape[1]))
    columns = [
        rows.std(1, correction=0),
        mass.mean(1),
        rows.quantile(0.75, dim=1) - rows.quantile(0.25, dim=1),
        squared.square().sum(1) / (squared.sum(1).square() + TINY**2),
        mass.topk(count, dim=1).values.sum(1) / (mass.sum(1) + TINY),
    ]
    return torch.stack(columns, 1)
