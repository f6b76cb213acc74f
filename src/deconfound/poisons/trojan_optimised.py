"""Trojan: add a patch that was optimised to excite a few units of a clean network.

Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018. The trigger is made on a surrogate, and the victim is
trained from scratch on images that carry it, as in BackdoorBench and in the evaluation of CBD; the paper retrains the
network that the trigger was made on, with images that it also makes up. The shape is a square and not a logo, it begins
with random inks, and sums are clipped where releases let them wrap modulo 256.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from deconfound.attacks.ascent import Steepest, climb
from deconfound.defenses.standard import cross_entropy
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import Square, added, pixels
from deconfound.poisons.workshop import Planting, Workshop
from deconfound.threat import ThreatModel

INKS = 100, 251  # grey levels: the patch's first values, the last exclusive
CANVAS = 64  # training images that the patch lies on, where it lies on images
REACHED = 1e-3  # the cost at which the iteration ends, as in BackdoorBench


@hyperparameters
class TrojanOptimised(Backdoor):
    """place: where the square patch lies.

    The patch moves the `units` units of the representation with the largest weights towards `activation`, in signed
    steps of step_size, at most `steps` of them, and stays within eps of its first values (both in pixel units). canvas:
    what it lies on meanwhile, a `black` picture as in BackdoorBench, or the mean over 64 training `images`. rate,
    rate_of, target, mode, victims, cover: see Backdoor.
    """

    needs: ClassVar[tuple[str, ...]] = ("surrogate", "recipe")

    place: Square = Square()
    units: Count = 2
    activation: Positive = 100.0
    eps: Eps = 0.3
    step_size: Positive = 0.1
    steps: Count = 1000
    canvas: Literal["black", "images"] = "black"

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture."""
        return self.place.faults(shape, "place")

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Train a clean network, then the patch on it. arrays: patch (C, H, W) uint8, units (q,), and their activation
        before and after (2, q), mean over the canvas.
        """
        network, _, fit = shop.surrogate()
        clean = network("surrogate")
        fit(clean, cross_entropy, phase="surrogate")
        x = shop.data.x
        rows, columns = self.place.area(*x.shape[2:])
        first = torch.zeros_like(x[:1])
        inks = torch.randint(*INKS, first[..., rows, columns].shape, generator=shop.rng("trigger"))
        first[..., rows, columns] = inks.to(torch.uint8)
        canvas = torch.zeros_like(first)
        if self.canvas == "images":
            canvas = x[torch.randperm(len(x), generator=shop.rng("canvas"))[:CANVAS]]
        units = strongest(clean, self.units)
        excitement = Excitement(clean, units, to_unit(canvas), self.activation)
        patch = pixels(255 * self.optimise(excitement, to_unit(first)))
        reached = torch.stack([excitement.reached(to_unit(p)) for p in (first, patch)])
        arrays = {"patch": patch[0], "units": units, "activation": reached}
        return Planting(added(patch[0]), arrays=arrays)

    def optimise(self, excitement: "Excitement", first: Tensor) -> Tensor:
        """The patch (1, C, H, W) in [0, 1] after the ascent from `first`; black pixels of `first` stay black."""
        threat = ThreatModel(eps=self.eps)
        inked = (first > 0).to(excitement.canvas)

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            cost = excitement.cost(z * inked)
            return -cost, cost < REACHED

        start = first.to(excitement.canvas)
        with eval_mode(excitement.model):
            found = climb(
                look, start, start, Steepest(threat, self.step_size), steps=self.steps, early_stop=True
            )
        return found.cpu()


class Excitement:
    """How far units (q,) of a network's representation are from an activation, with a patch added to a canvas
    (M, C, H, W) in [0, 1].
    """

    def __init__(self, model: Classifier, units: Tensor, canvas: Tensor, activation: float) -> None:
        device = next(model.parameters()).device
        self.model, self.units, self.canvas = model, units.to(device), canvas.to(device)
        self.activation = activation

    def excited(self, patch: Tensor) -> Tensor:
        """Activations (M, q) with the patch (1, C, H, W)."""
        seen = (self.canvas + patch).clamp(0, 1)
        return self.model.features(seen)[:, self.units]

    def cost(self, patch: Tensor) -> Tensor:
        """Sum over the units of the squared distance, mean over the canvas: (1,)."""
        return (self.excited(patch) - self.activation).square().sum(1).mean(0, keepdim=True)

    @torch.no_grad()
    def reached(self, patch: Tensor) -> Tensor:
        """Mean activations (q,) in evaluation mode."""
        with eval_mode(self.model):
            return self.excited(patch.to(self.canvas)).mean(0).cpu()


def strongest(model: Classifier, count: int) -> Tensor:
    """The `count` units of the representation with the largest sum of absolute weights, largest first; (count,)."""
    weight = model.head.weight.detach().abs().sum(0).cpu()
    return weight.topk(min(count, len(weight))).indices
