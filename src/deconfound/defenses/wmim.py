"""WMIM as NAMID's negative baseline: adversarial training that raises the standard mutual information of adversarials.

Zhu, Zhang and Evans, "Learning Adversarially Robust Representations via Worst-Case Mutual Information Maximization",
ICML 2020, as compared in Zhou et al., ICML 2022, table 1 (namid.md section 10, row 5).
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.losses import craft
from deconfound.defenses.namid import CIFAR, Learnt, learn
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import Adaptive, Defended, Validation, Workbench
from deconfound.estimators import Bound, Estimators, EstimatorSpec
from deconfound.fields import NonNegative, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.types import Aim


@hyperparameters
class WMIM:
    """ascent: the inner maximisation, of the cross-entropy. weight: of the estimate of I(x_adv; h(x_adv)), which is
    subtracted from the loss; the paper's value is not known. estimator: networks and training of the estimator, of
    which the natural pair is read, with the adversarial image as its pattern; bound: what is read. validation: robust
    accuracy on `val` after each epoch is left out (`none`), recorded (`track`), or chooses the epoch whose weights are
    kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "its loss reads outputs through a fixed network: climb the cross-entropy and what it reads, in all proportions",
        attacks=("adaptive",),
    )
    needs: ClassVar[tuple[str, ...]] = ("starts_from", "crafted_by")

    ascent: Ascent = CIFAR
    weight: NonNegative = 0.1
    estimator: EstimatorSpec = EstimatorSpec(training="max_only")
    bound: Bound = "released"
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train the estimator on the run that the bench starts from, then a fresh network with it."""
        learnt = learn(bench, self.estimator)
        objective = MaximisedInformation(self, learnt.estimators)
        return train_robustly(
            bench, bench.network("model"), objective, self.ascent, self.validation, parts=learnt.tensors
        )

    def term(self, model: Classifier, parts: Mapping[str, Tensor]) -> "LostInformation":
        """-I(x'; h(x')), with the estimator of the training: what the loss lowers, and an attacker raises."""
        return LostInformation(Learnt.load(self.estimator, model.head.out_features, parts), self.bound)


class MaximisedInformation:
    """CE(h(x_adv), y) - weight * mean I(x_adv; h(x_adv)); the estimator is frozen, in evaluation mode."""

    def __init__(self, spec: WMIM, estimators: Estimators) -> None:
        self.spec, self.estimators = spec, estimators

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Loss of a batch; scalar."""
        x_adv = craft(self.spec.ascent, model, x, y, rng=rng)
        logits = model(x_adv)
        loss = F.cross_entropy(logits, y)
        if not self.spec.weight:
            return loss
        return (
            loss
            - self.spec.weight * self.estimators.natural.estimate(logits, x_adv, bound=self.spec.bound).mean()
        )


class LostInformation:
    """-I(x'; h(x')) per image, against a bank of clean patterns, so that images do not influence each other."""

    def __init__(self, learnt: Learnt, bound: Bound) -> None:
        self.learnt, self.bound = learnt, bound
        self.bank = learnt.banks().natural

    def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
        """The term for a batch; the gradient reaches the images through the logits."""
        pair = self.learnt.estimators.natural

        def aim(z: Tensor, features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
            return -pair.estimate(logits, z, bound=self.bound, bank=self.bank)

        return aim
