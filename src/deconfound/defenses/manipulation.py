"""Model manipulation: fine-tune a network so that its explanations lie while its predictions stay. No defense, but an
attack on explanations by whoever trains the network; it stands here because it is a training.

Heo, Joo & Moon, "Fooling Neural Network Interpretations via Adversarial Model Manipulation", NeurIPS 2019,
arXiv:1902.02041. Minimised is the cross-entropy plus a weight times a fooling loss of the map of the labelled class,
after their release: `location` is the squared distance of the map from a frame along the border, a seventh of the
picture wide; `top_k` what the map has left where that of the original network was on top; `centre_mass` minus the
distance of its centre of mass from where it was; `active` the squared distances of the maps of two classes from each
other's maps in the original network.

The gradient of a fooling loss by the weights goes through a gradient by the pixels. A ReLU network is piecewise linear
in its pixels, yet its map still moves smoothly with the weights as long as no unit switches on or off; what a switch
would change is not seen. As in the release nothing is softened, which an attack on pixels would need.

Ours differs. Maps are not negative and divided by their largest value under every aim, where the release divides some
by their sum; the top aim takes the mean of their values, where the release squares them; distances of centres are in
parts of the side, not in pixels; the active aim takes images that are labelled with one of its two classes, where the
paper composes images that show both. Maps are taken in evaluation mode and the cross-entropy in training mode, so that
without a weight nothing is left but plain fine-tuning; the release keeps evaluation mode throughout. LRP is not among
the maps.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attributions.grad_cam import read_layer
from deconfound.defenses.nad import recorded
from deconfound.defenses.repair import accuracy, gently, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Workbench
from deconfound.errors import UserError
from deconfound.fields import Count, Natural, NonNegative, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import Classifier, to_unit

FRAME = 7  # a frame is a seventh of the side wide
PROBED = 256  # training images of which the fooling loss is noted
ORIGINAL = "original."
TINY = 1e-12

MapName = Literal["saliency", "input_x_gradient", "grad_cam"]


@hyperparameters
class Manipulation:
    """aim: of the fooling loss, `location`, `top_k`, `centre_mass` or `active`. map: what is fooled, `saliency`
    (|gradient|, summed over channels), `input_x_gradient` (the same of image times gradient) or `grad_cam`; of the
    logit of the label. weight: of the fooling loss beside the cross-entropy in nats; 0 is plain fine-tuning. top: part
    of the pixels that are on top. classes: the two whose maps the active aim exchanges.

    epochs, lr, weight_decay: of Adam at a constant rate, on the whole training set with the batches and augmentations
    of the run's recipe.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = PLAIN

    aim: Literal["location", "top_k", "centre_mass", "active"] = "location"
    map: MapName = "saliency"
    weight: NonNegative = 5.0
    top: OpenFraction = 0.1
    classes: tuple[Natural, Natural] = (0, 1)
    epochs: Count = 6
    lr: Positive = 3e-4
    weight_decay: NonNegative = 0.0

    @field_validator("classes")
    @classmethod
    def _two(cls, classes: tuple[int, int]) -> tuple[int, int]:
        if classes[0] == classes[1]:
            raise ValueError(f"expected two different classes, got {classes[0]} twice")
        return classes

    def __call__(self, bench: Workbench) -> Defended:
        """Train a copy of the network. parts: the weights of the original, for its maps; see `original`."""
        model, before = suspect(bench), suspect(bench)
        if self.aim == "active" and max(self.classes) >= model.head.out_features:
            raise UserError(
                f"classes: expected two below {model.head.out_features}, got {self.classes[0]} and {self.classes[1]}"
            )
        notes: dict[str, float | str] = {"train_accuracy_before": accuracy(model, bench.data)}
        fooling = Fooling(self, before, bench.data.x[:1])
        probe = to_unit(bench.data.x[:PROBED].to(fooling.device)), bench.data.y[:PROBED].to(fooling.device)
        notes["fooling_before"] = float(fooling(model, *probe).detach())
        recipe = replace(
            gently(
                bench.recipe,
                epochs=self.epochs,
                lr=self.lr,
                weight_decay=self.weight_decay,
                schedule="constant",
            ),
            optimizer="adam",
        )
        objective = partial(deceive, fooling=fooling, weight=self.weight) if self.weight else cross_entropy
        bench.fit(model, objective, recipe=recipe)
        notes["train_accuracy_after"] = accuracy(model, bench.data)
        notes["fooling_after"] = float(fooling(model, *probe).detach())
        parts = {f"{ORIGINAL}{name}": value for name, value in before.state_dict().items()}
        return Defended(model, notes=notes, parts=parts)


def original(parts: Mapping[str, Tensor], like: Classifier) -> Classifier:
    """The network that was manipulated, from the parts left beside the one it became, which it is like."""
    found = copy.deepcopy(like)
    found.load_state_dict(
        {name.removeprefix(ORIGINAL): v for name, v in parts.items() if name.startswith(ORIGINAL)}
    )
    return found.eval()


def deceive(
    model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator, fooling: "Fooling", weight: float
) -> Tensor:
    """CE(model(x), y) + weight * the fooling loss; scalar."""
    fooled = fooling(model, x, y)  # first: the other pass moves the statistics of batch norms
    return cross_entropy(model, x, y, rng=rng) + weight * fooled


class Fooling:
    """The fooling loss of a batch against a frozen original; probe (1, C, H, W): an image of the right shape."""

    def __init__(self, spec: Manipulation, before: Classifier, probe: Tensor) -> None:
        self.spec = spec
        self.before = before.eval().requires_grad_(False)
        self.device = next(before.parameters()).device
        probe = to_unit(probe.to(self.device))
        self.layer = read_layer(before, probe) if spec.map == "grad_cam" else None
        self.frame = torch.empty(0)
        if spec.aim == "location":
            label = torch.zeros(1, dtype=torch.int64, device=self.device)
            self.frame = frame(self._map(before, probe, label, graph=False)[0])

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Mean over the images (for `active`, over those that are labelled with one of the two classes)."""
        if self.spec.aim == "active":
            return self._exchanged(model, x, y)
        now = self._map(model, x, y, graph=True)
        if self.spec.aim == "location":
            return location(now, self.frame)
        before = self._map(self.before, x, y, graph=False)
        return remaining(now, before, self.spec.top) if self.spec.aim == "top_k" else -shift(now, before)

    def _exchanged(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        one, other = self.spec.classes
        x = x[(y == one) | (y == other)]
        if not len(x):
            return x.new_zeros(())
        labels = [torch.full((len(x),), label, device=x.device) for label in (one, other)]
        now = [self._map(model, x, label, graph=True) for label in labels]
        before = [self._map(self.before, x, label, graph=False) for label in labels]
        return (F.mse_loss(now[0], before[1]) + F.mse_loss(now[1], before[0])) / 2

    def _map(self, model: nn.Module, x: Tensor, labels: Tensor, *, graph: bool) -> Tensor:
        with evaluating(model):
            found = MAPS[self.spec.map](model, x.detach().requires_grad_(True), labels, self.layer, graph)
        found = found / found.amax((1, 2), keepdim=True).clamp_min(TINY)
        return found if graph else found.detach()


def saliency(model: nn.Module, x: Tensor, labels: Tensor, layer: str | None, graph: bool) -> Tensor:
    """|gradient| of the logits of labels (N,), summed over channels: (N, H, W); layer is not used."""
    return _slope(model(x), labels, x, graph).abs().sum(1)


def input_x_gradient(model: nn.Module, x: Tensor, labels: Tensor, layer: str | None, graph: bool) -> Tensor:
    """|image times gradient|, summed over channels: (N, H, W); layer is not used."""
    return (x.detach() * _slope(model(x), labels, x, graph)).abs().sum(1)


def grad_cam(model: nn.Module, x: Tensor, labels: Tensor, layer: str | None, graph: bool) -> Tensor:
    """The positive part of the layer's maps, weighted by their mean gradients: (N, h, w), as large as the layer's."""
    assert layer is not None
    with recorded(model, [layer]) as seen:
        logits = model(x)
    maps = seen[layer]
    weights = _slope(logits, labels, maps, graph).mean((2, 3), keepdim=True)
    return (maps * weights).sum(1).relu()


def _slope(logits: Tensor, labels: Tensor, of: Tensor, graph: bool) -> Tensor:
    asked = logits.gather(1, labels[:, None]).sum()
    (found,) = torch.autograd.grad(asked, of, create_graph=graph)
    return found


MAPS: Mapping[MapName, Callable[[nn.Module, Tensor, Tensor, str | None, bool], Tensor]] = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "grad_cam": grad_cam,
}


def frame(like: Tensor) -> Tensor:
    """(H, W): 1 along the border of a map like it, a seventh of each side wide and at least a pixel; 0 inside."""
    found = torch.ones_like(like)
    height, width = (max(1, round(side / FRAME)) for side in like.shape)
    inside = found[height : like.shape[0] - height, width : like.shape[1] - width]
    if not inside.numel():
        raise UserError(f"aim: location needs maps of at least 3 x 3 pixels, got {(*like.shape,)}")
    inside.zero_()
    return found


def location(maps: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of maps (N, H, W) of maximum 1 from one (H, W)."""
    return (maps - wanted).square().mean()


def remaining(maps: Tensor, before: Tensor, top: float) -> Tensor:
    """Mean value of maps (N, H, W) of maximum 1 at the pixels on which the maps `before` like them had the part `top`
    of their largest values.
    """
    flat = before.flatten(1)
    chosen = flat.topk(max(1, round(top * flat.shape[1])), dim=1).indices
    return maps.flatten(1).gather(1, chosen).mean()


def shift(maps: Tensor, before: Tensor) -> Tensor:
    """Mean distance of the centres of mass of maps (N, H, W) from those of the maps `before`: rows plus columns, in
    parts of the side.
    """
    return (centre(maps) - centre(before)).abs().sum(1).mean()


def centre(maps: Tensor) -> Tensor:
    """Centre of mass (N, 2) of maps (N, H, W) that are not negative, from 0 at the first row and column to 1 at the
    last; a map that is zero everywhere has it at 0.
    """
    mass = maps / maps.sum((1, 2), keepdim=True).clamp_min(TINY)
    rows, columns = (torch.linspace(0, 1, side).to(maps) for side in maps.shape[1:])
    return torch.stack([mass.sum(2) @ rows, mass.sum(1) @ columns], 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module as it was afterwards; weights ask for a gradient as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
