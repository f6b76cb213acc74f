"""ADML: a robust loss on one half of a batch, an estimate of the effect of the perturbation on the other half.

Lee, Kim and Ro, "Mitigating Adversarial Vulnerability through Causal Parameter Estimation by Adversarial Double Machine
Learning", ICCV 2023, arXiv:2307.07250, as its released code has it. Defaults are that code's; it fine-tunes a network
that was trained adversarially, whatever the base, for 10 epochs with a peak learning rate of 0.001.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.awp import Loss, WeightPerturbation
from deconfound.defenses.help import Helped, standard_network
from deconfound.defenses.losses import (
    CIFAR,
    Base,
    Parts,
    Reduce,
    Tau,
    attacked,
    balancing,
    base_loss,
    contrast,
    craft,
    outcome,
    perturbation_term,
)
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import Adaptive, Defended, Pace, Validation, Workbench
from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier

ROBUST: Mapping[str, Base] = {"adversarial": "adversarial", "trades": "trades", "mart": "mart", "awp": "mart"}


@hyperparameters
class ADML:
    """Loss: base on half D1 + clean cross-entropy on D2 + weight times the effect of the perturbation on D2.

    ascent: the inner maximisation, of the cross-entropy for every base. base: `awp` is MART at perturbed weights, where
    the terms on D2 are then taken as well; so is `help`, a reconstruction (the paper's own was never released). split:
    D1 is the first half of the batch, D2 the last; the middle image of an odd batch is in neither, and fewer than four
    images are not split; false takes the whole batch for both. clean: the cross-entropy of clean D2.

    form: `margin`, the mean of tau (log p_a - log p_y) over the attacked images of D2; `contrast`, the absolute
    contrast of attacked and robust images of October 2022, which had no clean term and takes neither tau nor reduce;
    only its part of the true class is known, the other one is ours. tau: `balancing` is 1 / p_a - 1, `one` weighs all
    alike. floor: added to probabilities inside the logarithms; 0 gives the margin of the logits. parts: `true` keeps
    -log p_y, `fooled` keeps log p_a. reduce: mean over the `attacked` images, or over all of the `half`.

    trades_beta, mart_weight: weight of the divergence in those bases (mart_weight also for awp; help_mart_weight for
    help). awp_gamma: size of the weight perturbation relative to the norm of a tensor (awp and help). help_weight: of
    the cross-entropy on helper images; standard_epochs, standard_lr: training of help's standard network, by default as
    the run's recipe has it. validation: robust accuracy on `val` after each epoch is left out (`none`), recorded
    (`track`), or chooses the epoch whose weights are kept (`best`).

    Controls are settings. The same extra epochs of the base: weight 0, clean false, split false. With a clean
    cross-entropy beside it: weight 0. Without the balancing: tau `one`. Without the splitting: split false.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "its loss acts on fooled examples only, and hardest on those that barely are: the network may learn to let an"
        " ascent on the cross-entropy end just short of the boundary; the margin and the targeted scores do not flatten"
        " where the cross-entropy does, and several starts leave the place it was trained for",
        attacks=("apgd_targeted", "autoattack", "pgd"),
    )

    ascent: Ascent = CIFAR
    base: Literal["adversarial", "trades", "mart", "awp", "help"] = "adversarial"
    weight: NonNegative = 1.0
    split: bool = True
    clean: bool = True
    form: Literal["margin", "contrast"] = "margin"
    tau: Tau = "balancing"
    floor: Annotated[Fraction01, Field(lt=1)] = 1e-3
    parts: Parts = "both"
    reduce: Reduce = "attacked"
    trades_beta: NonNegative = 2.0
    mart_weight: NonNegative = 2.0
    awp_gamma: NonNegative = 0.01
    help_mart_weight: NonNegative = 1.0
    help_weight: NonNegative = 0.25
    standard_epochs: Count | None = None
    standard_lr: Positive | None = None
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the composed loss; notes: how many images of D2 were attacked in the last epoch, and how surely."""
        standard = None
        if self.base == "help":
            standard = standard_network(bench, epochs=self.standard_epochs, lr=self.standard_lr)
        objective = self.objective(standard)
        return train_robustly(
            bench, bench.begin(), objective, self.ascent, self.validation, notes=objective.notes
        )

    def objective(self, standard: Classifier | None = None) -> "DoubleLearning":
        """The loss of a training; standard: the frozen network that the base `help` needs."""
        loss: Loss
        if self.base == "help":
            if standard is None:
                raise ValueError("standard: expected a network for the base `help`, got none")
            loss = Helped(standard, self.help_mart_weight, self.help_weight)
        else:
            base = ROBUST[self.base]
            loss = partial(base_loss, base=base, trades_beta=self.trades_beta, mart_weight=self.mart_weight)
        return DoubleLearning(self, loss)


class DoubleLearning:
    """Objective of ADML; counts what the effect is estimated from, over an epoch."""

    def __init__(self, spec: ADML, base: Loss) -> None:
        self.spec = spec
        self.base = base
        self.perturbation = WeightPerturbation(spec.awp_gamma)
        self.epoch = -1
        self.sums = torch.zeros(
            5
        )  # of D2: images, attacked images, their tau; batches, batches without any attacked

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Loss of a batch, scalar in nats. Forward passes: base on D1, perturbed D2, clean D2; an absent term has none.

        The weights stay perturbed for the backward pass where the base perturbs them.
        """
        spec = self.spec
        x_adv = craft(spec.ascent, model, x, y, rng=rng)
        if spec.base in ("awp", "help"):
            self.perturbation.perturb(model, x_adv, y)
        first, last = halves(len(y)) if spec.split else (slice(None), slice(None))
        loss = self.base(model, x[first], x_adv[first], y[first])
        if spec.weight:
            loss = loss + spec.weight * self._effect(model(x_adv[last]), y[last])
        if spec.clean:
            loss = loss + F.cross_entropy(model(x[last]), y[last])
        return loss

    def _effect(self, adversarial: Tensor, y: Tensor) -> Tensor:
        spec = self.spec
        mask = attacked(adversarial, y)
        count = mask.sum()
        taus = (balancing(adversarial) * mask).sum()
        new = [torch.full_like(taus, len(y)), count, taus, torch.ones_like(taus), count == 0]
        self.sums = self.sums.to(taus.device) + torch.stack([value.float() for value in new])
        if spec.form == "contrast":
            return contrast(outcome(adversarial, y, floor=spec.floor, parts=spec.parts), mask).abs()
        return perturbation_term(
            adversarial, y, tau=spec.tau, floor=spec.floor, parts=spec.parts, reduce=spec.reduce
        )

    def after_step(self, model: nn.Module) -> None:
        """Take the weight perturbation back."""
        self.perturbation.restore(model)

    def pace(self, at: Pace) -> None:
        """Count anew in every epoch."""
        if at.epoch != self.epoch:
            self.epoch = at.epoch
            self.sums = torch.zeros_like(self.sums)

    def notes(self) -> dict[str, float]:
        """Of the last epoch: images of D2, the share of them that was attacked, mean tau of those; batches, and the
        share of batches without any. Empty if the effect has no weight, since then nobody looks.
        """
        images, fooled, taus, batches, empty = self.sums.tolist()
        if not batches:
            return {}
        found = {"d2_images": images, "attacked_share": fooled / images}
        found |= {"d2_batches": batches, "empty_share": empty / batches}
        return found | ({"mean_tau": taus / fooled} if fooled else {})

    def state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"sums": self.sums}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.sums = state["sums"]


def halves(count: int) -> tuple[slice, slice]:
    """D1 and D2: the first and the last half of a batch, without the middle image of an odd one.

    Fewer than four images are both: a half of one image has no statistics for batch norm.
    """
    if count < 4:
        return slice(0, count), slice(0, count)
    return slice(0, count // 2), slice(count - count // 2, count)
