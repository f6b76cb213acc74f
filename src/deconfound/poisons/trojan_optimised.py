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
from deconfound.fields import Count, Eps, Natural, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.generators import to_bytes
from deconfound.poisons.triggers import Patch
from deconfound.poisons.workshop import Planting, Workshop
from deconfound.threat import ThreatModel

INKS = 100, 250  # grey levels: the range of the patch's first values
REACHED = 1e-3  # the cost at which the iteration ends, as in BackdoorBench


@hyperparameters
class TrojanOptimised(Backdoor):
    """size, margin: pixels of the square patch and of its distance to both edges of its corner.

    The patch moves the `units` units of the representation with the largest weights towards `activation`, in signed
    steps of step_size, at most `steps` of them, and stays within eps of its first values (both in pixel units). canvas:
    what it lies on meanwhile, a `black` picture as in BackdoorBench, or the mean over 64 training `images`. rate,
    rate_of, target, mode, victims, cover: see Backdoor.
    """

    needs: ClassVar[tuple[str, ...]] = ("surrogate", "recipe")

    size: Count = 3
    margin: Natural = 1
    corner: Literal["bottom_right", "bottom_left", "top_right", "top_left"] = "bottom_right"
    units: Count = 2
    activation: Positive = 100.0
    eps: Eps = 0.3
    step_size: Positive = 0.1
    steps: Count = 1000
    canvas: Literal["black", "images"] = "black"

    @property
    def place(self) -> Patch:
        """Where the patch lies."""
        return Patch(size=self.size, margin=self.margin, corner=self.corner, pattern="white")

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture."""
        if shape is None or self.place.fits(*shape[1:]):
            return []
        size = f"{self.size} pixels and margin {self.margin}"
        return [f"size: expected a patch inside {shape[1]} x {shape[2]} pixels, got {size}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Train a clean network, then the patch on it. arrays: patch (1, C, H, W) uint8, units (q,), and their activation
        (2, q) before and after, as the mean over the canvas.
        """
        network, _, fit = shop.surrogate()
        clean = network("surrogate")
        fit(clean, cross_entropy, phase="surrogate")
        x = shop.data.x
        mask = self.place(torch.zeros_like(x[:1])) > 0
        inks = torch.randint(INKS[0], INKS[1] + 1, mask.shape, generator=shop.rng("trigger"))
        first = torch.where(mask, inks, 0).to(torch.uint8)
        canvas = torch.zeros_like(x[:1])
        if self.canvas == "images":
            canvas = x[torch.randperm(len(x), generator=shop.rng("canvas"))[:64]]
        units = strongest(clean, self.units)
        excitement = Excitement(clean, units, to_unit(canvas), self.activation)
        patch = to_bytes(self.optimise(excitement, to_unit(first)))
        reached = torch.stack([excitement.reached(to_unit(p)) for p in (first, patch)])
        arrays = {"patch": patch, "units": units, "activation": reached}
        return Planting(Added(patch), arrays=arrays)

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


class Added:
    """Adds a patch (1, C, H, W) uint8, and clips."""

    def __init__(self, patch: Tensor) -> None:
        self.patch = patch

    def __call__(self, x: Tensor) -> Tensor:
        """Stamp (N, C, H, W) uint8; a new tensor."""
        summed = x.to(torch.int16) + self.patch.to(x.device, torch.int16)
        return summed.clamp(0, 255).to(torch.uint8)


def strongest(model: Classifier, count: int) -> Tensor:
    """The `count` units of the representation with the largest sum of absolute weights, largest first; (count,)."""
    weight = model.head.weight.detach().abs().sum(0).cpu()
    return weight.topk(min(count, len(weight))).indices
