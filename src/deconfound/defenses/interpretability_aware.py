"""INT: what speaks for a class shall be the same wherever in the ball an image is moved; no adversarial loss.

Boopathy, Liu, Zhang, Liu, Chen, Chang and Daniel, "Proper Network Interpretability Helps Adversarial Robustness in
Classification", ICML 2020, arXiv:2006.14748: the cross-entropy of the untouched image plus the worst change of its
interpretation, in l1, for the label and for the class of the attacker. The paper's point is that this change cannot be
small where the prediction changes: it is at least half of what the margin loses.

The paper takes class activation maps, which need a network that ends in global average pooling. Here the map of a
class is what each feature adds to its logit (weight of the head times feature), which every network has, and for which
the bound holds as well. Where the paper weighs all wrong classes, the attacker's class here is the likeliest wrong one
of the untouched image, so that it stays the same during the ascent.
"""

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import likeliest_wrong
from deconfound.defenses.losses import CIFAR
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Validation, Workbench
from deconfound.fields import NonNegative, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode


@hyperparameters
class InterpretabilityAware:
    """weight: of the change of the maps, units of logits, the mean over images; 0 is standard training. classes: whose
    maps are compared, of label and likeliest wrong class (`pair`, half of the sum) or of the label alone (`label`, half
    of it). ascent: the inner maximisation of that change; it cannot start at the image, where nothing has changed.
    validation: robust accuracy on `val` after each epoch, under the ascent on the cross-entropy, is left out (`none`),
    recorded (`track`), or chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "its ascent never looks at the loss of the label: ascent on the cross-entropy or on a margin goes where it was"
        " not trained",
        attacks=GRADIENT,
    )

    weight: NonNegative = 0.01
    classes: Literal["pair", "label"] = "pair"
    ascent: Ascent = CIFAR
    validation: Validation = "none"

    def __post_init__(self) -> None:
        if self.ascent.start == "image":
            raise ValueError(
                "ascent.start: expected uniform or gaussian, since the change has no slope at the image, got image"
            )

    def __call__(self, bench: Workbench) -> Defended:
        """Train on cross-entropy and change of the maps."""
        return train_robustly(bench, bench.begin(), self.objective, self.ascent, self.validation)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE(x) + weight * max of the change, means over the batch; scalar."""
        if not self.weight:
            return cross_entropy(model, x, y, rng=rng)
        assert isinstance(model, Classifier)
        with eval_mode(model):
            with torch.no_grad():
                clean, logits = model.both(x)
            weights = self.of_classes(model.head.weight, logits, y)
            x_adv = self.ascent(lambda z: change(weights, clean, model.features(z)), x, rng=rng)
        features, logits = model.both(x)
        weights = self.of_classes(model.head.weight, logits, y)
        worst = change(weights, features, model.features(x_adv))
        return F.cross_entropy(logits, y) + self.weight * worst.mean()

    def of_classes(self, head: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Rows of the head's weights (K, D) whose maps are compared: (N, 2, D) or (N, 1, D)."""
        chosen = y[:, None]
        if self.classes == "pair":
            chosen = torch.cat([chosen, likeliest_wrong(logits, y, 1)], 1)
        return head[chosen]


def change(weights: Tensor, features: Tensor, moved: Tensor) -> Tensor:
    """Half the l1 norm (N,) of the change of what features (N, D) add to the logits with weights (N, M, D), summed over
    the M classes; `moved` are the features of the perturbed images.
    """
    found: Tensor = (weights * (features - moved)[:, None]).abs().sum((1, 2)) / 2
    return found
