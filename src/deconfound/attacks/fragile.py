"""An attack on explanations: the prediction stays, the pixels that a map calls important are others.

Ghorbani, Abid & Zou, "Interpretation of Neural Networks Is Fragile", AAAI 2019, arXiv:1710.10547, top-k attack. Maps of
a ReLU network are piecewise constant, so ascent goes along the map of its softplus twin, and the network itself says
which pixels are on top and whether its prediction stayed, as in the authors' release. The map is divided by its sum, or
else ascent would only shrink the gradient. Integrated gradients take midpoints, not right ends; the class asked for is
the predicted one, right or wrong.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deconfound.attacks.ascent import Steepest, climb
from deconfound.attacks.victim import Victim, attacking
from deconfound.errors import NoGradientError
from deconfound.fields import Count, Eps, OpenFraction, Positive, hyperparameters
from deconfound.threat import TINY, Norm, ThreatModel, per_image


class ExplanationAttack(Protocol):
    """Moves what a map shows and leaves what the model says; no evasion, so it takes no labels."""

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""

    def __call__(self, model: nn.Module, x: Tensor, *, rng: Generator) -> Tensor:
        """Images like x (N, C, H, W) in [0, 1] on which the model predicts what it predicts on x."""


class Softened(TorchFunctionMode):
    """Inside, every ReLU of any network is a softplus of sharpness beta; the weights are the network's own."""

    FRESH = (F.relu, torch.relu, torch.Tensor.relu)
    IN_PLACE = (torch.relu_, torch.Tensor.relu_)

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func: Callable[..., Any], types, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The function, or softplus in the place of a ReLU."""
        if func in self.FRESH + self.IN_PLACE:
            x: Tensor = args[0] if args else kwargs["input"]
            soft = F.softplus(x, beta=self.beta)
            return x.copy_(soft) if func in self.IN_PLACE else soft
        return func(*args, **(kwargs or {}))


Slope = Callable[[Tensor], Tensor]
"""Gradient (n, C, H, W) of one logit per image by images z like it, of which z can be part of a graph."""


def saliency(slope: Slope, z: Tensor, points: int) -> Tensor:
    """|gradient|, summed over the channels: (n, H, W)."""
    return slope(z).abs().sum(1)


def integrated_gradients(slope: Slope, z: Tensor, points: int) -> Tensor:
    """|image times mean gradient on the way from black|, summed over the channels; midpoints of `points` parts."""
    mean = torch.stack([slope(z * ((k + 0.5) / points)) for k in range(points)]).mean(0)
    return (z * mean).abs().sum(1)


MAPS: Mapping[str, Callable[[Slope, Tensor, int], Tensor]] = {
    "saliency": saliency,
    "integrated_gradients": integrated_gradients,
}


def top_pixels(heat: Tensor, part: float) -> Tensor:
    """(n, H, W) bool: the part of the pixels with the largest values of a map (n, H, W), at least one of them."""
    flat = heat.flatten(1)
    chosen = flat.topk(max(1, round(part * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view_as(heat)


@hyperparameters
class Fragile:
    """eps and step_size in pixel units of `norm`; step_size defaults to eps / 10. steps from the image itself, up the
    share of the map that lies outside the top pixels of the untouched image. map: `saliency`, or `integrated_gradients`
    from black with path_steps gradients; of the logit that the model predicts. top: part of the pixels that are on top.
    beta: sharpness of the softplus that stands for a ReLU while climbing; other activations stay as they are.

    Returned is, of the iterates that keep the prediction, the one that keeps fewest of the top pixels; x is the first.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 60
    step_size: Positive | None = None
    map: Literal["saliency", "integrated_gradients"] = "saliency"
    path_steps: Count = 10
    top: OpenFraction = 0.1
    beta: Positive = 10.0

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, *, rng: Generator) -> Tensor:
        """Images like x with the same predictions. Draws nothing."""
        x = x.detach()
        with attacking(model, x, _nobody(x)) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            hunt = Hunt(self, victim, x)
            move = Steepest(self.threat, self.step_size or self.eps / 10, looks_back=True)
            climb(hunt.look, x, x, move, steps=self.steps)
            return hunt.best

    def intersection(self, model: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        """Part of the top pixels of images x that are on top in images z (n, C, H, W) as well, (n,); both maps are of
        the class predicted on x.
        """
        x, z = x.detach(), z.detach()
        with attacking(model, x, _nobody(x)) as victim:
            return Hunt(self, victim, x).intersection(z, torch.arange(len(x), device=x.device))


class Hunt:
    """One attack on images x: their predictions and top pixels, and the best image known of each, kept (N,) its part of
    these pixels.
    """

    def __init__(self, spec: Fragile, victim: Victim, x: Tensor) -> None:
        self.spec, self.victim = spec, victim
        with torch.no_grad():
            self.label = victim(x).argmax(1)
        rows = torch.arange(len(x), device=x.device)
        self.top = top_pixels(self._heat(x, rows), spec.top)
        self.best, self.kept = x.clone(), x.new_ones(len(x))

    def look(self, z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        """Offer the iterates; minus the share of the twin's map that lies on the top pixels."""
        self._offer(z.detach(), rows)
        if not z.requires_grad:
            return z.new_zeros(len(z)), None
        with Softened(self.spec.beta):
            heat = self._map(z, rows, graph=True).flatten(1)
        share = (heat * self.top[rows].flatten(1)).sum(1) / heat.sum(1).clamp_min(TINY)
        return (z * 0).flatten(1).sum(1) - share, None  # a linear network has a map without a gradient

    def intersection(self, z: Tensor, rows: Tensor) -> Tensor:
        """Part of the top pixels that are on top in z too, (n,)."""
        top, now = self.top[rows], top_pixels(self._heat(z, rows), self.spec.top)
        return (top & now).flatten(1).sum(1) / top.flatten(1).sum(1)

    def _offer(self, z: Tensor, rows: Tensor) -> None:
        with torch.no_grad():
            same = self.victim(z).argmax(1) == self.label[rows]
        kept = self.intersection(z, rows)
        better = same & (kept < self.kept[rows])
        self.kept[rows] = torch.where(better, kept, self.kept[rows])
        self.best[rows] = torch.where(per_image(better, z), z, self.best[rows])

    def _heat(self, z: Tensor, rows: Tensor) -> Tensor:
        """The map of the network itself, detached."""
        with torch.enable_grad():
            return self._map(z.detach().requires_grad_(True), rows, graph=False).detach()

    def _map(self, z: Tensor, rows: Tensor, *, graph: bool) -> Tensor:
        labels = self.label[rows, None]

        def slope(point: Tensor) -> Tensor:
            logits = self.victim(point)
            if not logits.requires_grad:
                raise NoGradientError("model: expected logits with a gradient by the images, got none")
            asked = logits.gather(1, labels).sum()
            (found,) = torch.autograd.grad(asked, point, create_graph=graph, materialize_grads=True)
            return found

        return MAPS[self.spec.map](slope, z, self.spec.path_steps)


def _nobody(x: Tensor) -> Tensor:
    """Labels that nobody reads."""
    return torch.zeros(len(x), dtype=torch.int64, device=x.device)
