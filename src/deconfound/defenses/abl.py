"""ABL: isolate the examples that are learnt fastest, train on the others, and unlearn the isolated.

Li, Lyu, Koren, Lyu, Li and Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021,
arXiv:2110.11571. The stages and their defaults are those of the authors' code. One version of that code ranks the
losses from the largest and stores the isolated images as the others too; here the isolated are those of the lowest
loss, as the paper has it, and the others are the rest.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.cbd import example_losses
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import Count, Natural, NonNegative, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.types import Images

AS_STORED: dict[str, Any] = {"crop": 0, "flip": False, "cutout": 0}


@hyperparameters
class ABL:
    """Isolation: isolation_epochs at the constant rate isolation_lr minimise `isolation`, either local gradient ascent
    (`lga`), sign(L - gamma) L, or `flooding`, |L - gamma| + gamma, of the mean loss L of a batch; gamma in nats. The
    two have the same gradient: they train the same network and differ in the recorded loss alone. isolate: the fraction
    of examples of the lowest loss that is set apart (at least two).

    Fine-tuning on the others: finetune_epochs (0 for none) from the rate finetune_lr, by default those of the run's
    recipe; the release has 60 epochs, 0.1 and 0.01 from the 40th, with crops, flips and holes of 2x2 pixels.

    Unlearning: unlearn_epochs of gradient ascent on the isolated images as they are, at the constant rate unlearn_lr.
    The release says 5 and spends the first on a test. An epoch is one step for every batch of isolated images: a small
    training set needs more of them. forget: `epochs` takes all of them; `chance`, which is ours, ends the ascent once
    the mean loss of the isolated, in evaluation mode, is that of a guess, ln K; it needs no label of poison.

    The isolated examples share one label, and the ascent drives the network away from that whole class: look at the
    recall of the target class.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "a trigger that is learnt no faster than the task is not among the lowest losses: noise on the poisoned images,"
        " or cover images (stamped, with their own labels)",
        poisons=("slow_injection", "badnets"),
    )

    isolation: Literal["lga", "flooding"] = "lga"
    gamma: NonNegative = 0.5
    isolation_epochs: Count = 10
    isolation_lr: Positive = 0.1
    isolate: OpenFraction = 0.01
    finetune_epochs: Natural | None = None
    finetune_lr: Positive | None = None
    unlearn_epochs: Natural = 4
    unlearn_lr: Positive = 5e-4
    forget: Literal["epochs", "chance"] = "epochs"

    def __call__(self, bench: Workbench) -> Defended:
        """Isolate, fine-tune, unlearn."""
        model, data = bench.begin(), bench.data
        recipe = constant(bench.recipe, self.isolation_epochs, self.isolation_lr)
        bench.fit(model, Isolation(self.isolation, self.gamma), phase="isolation", recipe=recipe)
        losses = example_losses(model, data)
        apart = lowest(losses, self.isolate)
        isolated, others = (Images(data.x[rows], data.y[rows]) for rows in (apart, ~apart))
        if self.finetune_epochs != 0:
            recipe = replace(
                bench.recipe,
                epochs=self.finetune_epochs or bench.recipe.epochs,
                lr=self.finetune_lr or bench.recipe.lr,
            )
            bench.fit(model, cross_entropy, recipe=recipe, data=others)
        steps = self._unlearn(bench, model, isolated)
        labels = isolated.y.bincount()
        notes = {
            "isolated": float(len(isolated.y)),
            "isolated_same_label": float(labels.max() / labels.sum()),
            "unlearning_steps": float(steps),
            "isolated_loss_left": float(example_losses(model, isolated).mean()),
        }
        return Defended(
            model, trace={"isolated": apart.numpy(), "isolation_loss": losses.numpy()}, notes=notes
        )

    def _unlearn(self, bench: Workbench, model: Classifier, isolated: Images) -> int:
        """Ascend the loss of the isolated images; the number of steps it took."""
        if not self.unlearn_epochs:
            return 0
        chance = float(torch.tensor(float(model.head.out_features)).log())

        def forgotten(step: int, model: nn.Module) -> bool:
            return bool(example_losses(model, isolated).mean() >= chance)

        recipe = replace(constant(bench.recipe, self.unlearn_epochs, self.unlearn_lr), **AS_STORED)
        every = 1 if self.forget == "chance" else 0
        return bench.fit(
            model,
            ascent,
            phase="unlearning",
            recipe=recipe,
            data=isolated,
            watch=forgotten,
            every=every,
        )


class Isolation:
    """The loss of the isolation: the mean cross-entropy of a batch is kept from falling below gamma."""

    def __init__(self, kind: Literal["lga", "flooding"], gamma: float) -> None:
        self.kind = kind
        self.gamma = gamma

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Local gradient ascent or flooding; scalar, nats."""
        loss = F.cross_entropy(model(x), y)
        if self.kind == "lga":
            return (loss.detach() - self.gamma).sign() * loss
        return (loss - self.gamma).abs() + self.gamma


def ascent(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
    """Minus the mean cross-entropy of a batch, nats."""
    return -F.cross_entropy(model(x), y)


def constant(recipe: Recipe, epochs: int, lr: float) -> Recipe:
    """The recipe with other epochs and a constant rate."""
    return replace(recipe, epochs=epochs, lr=lr, schedule="constant")


def lowest(losses: Tensor, fraction: float) -> Tensor:
    """(N,) bool: the floor(fraction * N) examples of the lowest loss, the first of equals; at least two on either side,
    since batch norm has nothing to average in a batch of one.
    """
    total = len(losses)
    count = min(max(int(fraction * total + 1e-9), 2), total - 2)
    flags = torch.zeros(total, dtype=torch.bool)
    flags[losses.argsort(stable=True)[:count]] = True
    return flags
