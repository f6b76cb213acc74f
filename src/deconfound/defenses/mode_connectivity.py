"""Mode connectivity repair: a network on a path of low loss between the suspicious one and a fine-tuned copy.

Zhao, Chen, Das, Ramamurthy and Lin, "Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness", ICLR
2020, arXiv:2005.00060. The path is a quadratic Bezier curve whose one bend is trained on clean images; both ends hold
much of the backdoor, the middle less. As in BackdoorBench the second end is the first one fine-tuned; gradients are
reset between batches, which its routine does not do. Statistics of batch norms are estimated again wherever the path
is looked at.
"""

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from deconfound.defenses.batch_norms import renew_statistics
from deconfound.defenses.repair import accuracy, clean_images, curve, gently, halves, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.types import Images

Weights = Mapping[str, Tensor]


@hyperparameters
class ModeConnectivity:
    """endpoint_epochs, endpoint_lr: fine-tuning of the second end, cosine. epochs, lr: training of the bend, the rate
    constant for half of it and a tenth afterwards (a linear fall to a hundredth in the released code).
    weight_decay: of both.

    u: place on the path, 0 is the suspicious network and 1 the fine-tuned copy; all clean images are then trained on.
    Without it, one half trains and the other decides among `points` places between the ends: of those whose accuracy
    lies at most `tolerance` (a fraction, in points) below the best of them, the one nearest the middle of the path.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "its path lies between two networks that hold the backdoor: a trigger that costs clean images nothing, since it"
        " resembles them, is kept all along; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("sig", "adap_blend", "blend", "badnets"),
    )

    endpoint_epochs: Count = 100
    endpoint_lr: Positive = 0.01
    epochs: Count = 100
    lr: Positive = 0.015
    weight_decay: NonNegative = 5e-4
    u: Fraction01 | None = None
    points: Count = 9
    tolerance: Fraction01 = 0.04

    def __call__(self, bench: Workbench) -> Defended:
        """Train the second end, then the bend, then choose a place."""
        images = clean_images(bench)
        fitted, held = halves(bench) if self.u is None else (images, images)
        first, second, bend = suspect(bench), suspect(bench), suspect(bench)
        recipe = gently(
            bench.recipe, epochs=self.endpoint_epochs, lr=self.endpoint_lr, weight_decay=self.weight_decay
        )
        bench.fit(second, cross_entropy, phase="endpoint", recipe=recipe, data=fitted)
        path = Path(weights(first), weights(second))
        place(bend, path.at(0.5, path.middle()))
        recipe = gently(
            bench.recipe,
            epochs=self.epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="steps",
            milestones=(0.5,),
        )
        bench.fit(bend, path, phase="bend", recipe=recipe, data=fitted)
        notes: dict[str, float | str] = {"clean_images": len(images.y)}
        u = self.u
        if u is None:
            u, accuracies = self._choose(bench, path, bend, fitted, held)
            notes |= {"held_out_images": len(held.y), "held_accuracy_curve": curve(accuracies)}
        model = on_path(bench, path, bend, u, fitted)
        return Defended(model, notes=notes | {"u": u, "accuracy_before": accuracy(first, held)})

    def _choose(
        self, bench: Workbench, path: "Path", bend: Classifier, fitted: Images, held: Images
    ) -> tuple[float, list[tuple[float, float]]]:
        """The place, and held-out accuracy at each candidate."""
        candidates = [number / (self.points + 1) for number in range(1, self.points + 1)]
        found = [(u, accuracy(on_path(bench, path, bend, u, fitted), held)) for u in candidates]
        return nearest_middle(found, self.tolerance), found


def nearest_middle(found: list[tuple[float, float]], tolerance: float) -> float:
    """Of places with accuracies, the one nearest 1/2 at most `tolerance` below the best; the lower of equals."""
    best = max(value for _, value in found)
    good = [u for u, value in found if value >= best - tolerance - 1e-9]
    return min(good, key=lambda u: (round(abs(u - 0.5), 9), u))


def shares(u: float) -> tuple[float, float, float]:
    """Weights of first end, bend and second end at a place u in [0, 1]; they sum to 1."""
    return (1 - u) ** 2, 2 * u * (1 - u), u**2


class Path:
    """The curve between two fixed sets of weights, and the loss that trains its bend."""

    def __init__(self, first: Weights, second: Weights) -> None:
        self.first, self.second = first, second

    def at(self, u: float, bend: Weights) -> dict[str, Tensor]:
        """Weights at a place u in [0, 1]."""
        a, b, c = shares(u)
        return {name: a * w + b * bend[name] + c * self.second[name] for name, w in self.first.items()}

    def middle(self) -> dict[str, Tensor]:
        """The mean of both ends, where the bend starts: the path is then straight."""
        return {name: (w + self.second[name]) / 2 for name, w in self.first.items()}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Cross-entropy at a place drawn for the batch; `model` is the bend."""
        u = float(torch.rand((), generator=rng))
        return F.cross_entropy(functional_call(model, self.at(u, dict(model.named_parameters())), (x,)), y)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, detached copies."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def place(model: nn.Module, values: Weights) -> None:
    """Give a model these parameters."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def on_path(bench: Workbench, path: Path, bend: Classifier, u: float, images: Images) -> Classifier:
    """The network at a place of the path, with statistics of batch norms from `images`."""
    model = copy.deepcopy(bend)
    place(model, path.at(u, weights(bend)))
    renew_statistics(model, images, batch_size=bench.recipe.batch_size, rng=bench.rng(f"statistics {u:g}"))
    return model.eval()
