"""Fine-pruning: silence the units that clean images leave dormant, then fine-tune what is left.

Liu, Dolan-Gavitt and Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018,
arXiv:1805.12185. The activation is a mean over images and positions, after the ReLU, one unit at a time from the
least active upwards. Unlike BackdoorBench's version: units are channels of the last batch norm with positions, not
inputs of the head; the pruning stops on held-out clean images, not on the test set; and a unit that was silenced
stays so through the fine-tuning. A small network has few dormant units, and little happens.
"""

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.batch_norms import silence
from deconfound.defenses.repair import accuracy, clean_images, curve, gently, halves, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.errors import UserError
from deconfound.fields import Fraction01, Natural, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier, predict
from deconfound.types import Images

KINDS = (
    (nn.BatchNorm2d,),
    (nn.Conv2d,),
    (nn.BatchNorm1d, nn.Linear),
)  # where units are looked for, in this order


@hyperparameters
class FinePruning:
    """tolerance: points of accuracy (a fraction) on the held-out half of the clean images that pruning may cost;
    activity is measured on the other half. epochs, lr, weight_decay: of the fine-tuning on all clean images, SGD,
    cosine to zero; no epochs, no fine-tuning.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "it looks for units that only the trigger wakes: a trigger that resembles what clean images hold (blended in,"
        " weakened in training, or with images of the class itself) lives in units that they use too; and the result"
        " is a network without further parts",
        attacks=GRADIENT,
        poisons=("adap_blend", "label_consistent", "blend", "badnets"),
    )

    tolerance: Fraction01 = 0.04
    epochs: Natural = 100
    lr: Positive = 0.01
    weight_decay: NonNegative = 5e-4

    def __call__(self, bench: Workbench) -> Defended:
        """Prune a copy of the network, then fine-tune it."""
        model, images = suspect(bench), clean_images(bench)
        fitted, held = halves(bench)
        name = last_layer(model)
        activity = mean_activation(model, name, fitted)
        pruned, accuracies = prune(model, name, activity, held, self.tolerance)
        if self.epochs:
            recipe = gently(bench.recipe, epochs=self.epochs, lr=self.lr, weight_decay=self.weight_decay)
            bench.fit(model, Pruned(name, pruned), recipe=recipe, data=images)
        notes: dict[str, float | str] = {
            "clean_images": len(images.y),
            "held_out_images": len(held.y),
            "layer": name,
            "units": len(activity),
            "units_pruned": len(pruned),
            "held_accuracy_curve": curve(enumerate(accuracies)),
        }
        return Defended(model, notes=notes)


class Pruned:
    """Cross-entropy of a network of which some channels stay silent."""

    def __init__(self, name: str, channels: Tensor) -> None:
        self.name, self.channels = name, channels

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean cross-entropy of a batch, nats."""
        return cross_entropy(model, x, y, rng=rng)

    def after_step(self, model: nn.Module) -> None:
        """Silence the channels again (a unit beside a residual connection would wake)."""
        silence(model.get_submodule(self.name), self.channels)


def last_layer(model: Classifier) -> str:
    """Name of the layer whose units are pruned: the last batch norm of the body with positions (2d), else the last
    convolution, else the last batch norm or linear layer without positions; last in the order of definition.
    """
    for kinds in KINDS:
        found = [
            name
            for name, module in model.named_modules()
            if isinstance(module, kinds) and module is not model.head and module.weight is not None
        ]
        if found:
            name: str = found[-1]
            return name
    raise UserError(f"fine_pruning: expected a layer with units in the body, got {type(model.body).__name__}")


def mean_activation(model: Classifier, name: str, images: Images) -> Tensor:
    """Mean positive part (C,) of a layer's output over images and positions, in evaluation mode, on the CPU."""
    total: list[Tensor] = []

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        active = F.relu(output).double().reshape(*output.shape[:2], -1)
        total.append(active.mean(2).sum(0).cpu())

    handle = model.get_submodule(name).register_forward_hook(add)
    try:
        predict(model, images.x)
    finally:
        handle.remove()
    return torch.stack(total).sum(0) / len(images.y)


def prune(
    model: Classifier, name: str, activity: Tensor, held: Images, tolerance: float
) -> tuple[Tensor, list[float]]:
    """Silence channels in place, the least active (C,) first, while accuracy on `held` falls by no more than
    `tolerance`; one always stays. The channels in their order, and the accuracies with 0, 1, ... of them, the refused
    one included.
    """
    layer = model.get_submodule(name)
    order = activity.argsort(stable=True)
    accuracies = [accuracy(model, held)]
    for count in range(1, len(order)):
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        silence(layer, order[count - 1 : count])
        accuracies.append(accuracy(model, held))
        if accuracies[-1] < accuracies[0] - tolerance - 1e-9:
            layer.load_state_dict(before)
            return order[: count - 1], accuracies
    return order[:-1], accuracies
