"""Input-aware: a network draws a trigger of its own for every image.

Nguyen and Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020, arXiv:2010.08138; called Dynamic in the
evaluation of CBD. One encoder-decoder draws a pattern, another the mask under which it shows. The trigger of one image
must not work on another, which is what the cross images of its training teach, and patterns of different images must
differ.

Here the networks only make a poison: they are trained with a surrogate, then a fraction of the training set is stamped
once and relabelled (as in the data script of ABL), so the victim meets no cross images unless `cover` asks for some.
The release never resets the gradients of the pattern network; here every step has its own. Its 25 and 600 epochs, three
levels and 32 channels are for a GPU; the defaults fit a CPU.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.workbench import Pace
from deconfound.fields import Count, NonNegative, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import Classifier, to_unit
from deconfound.optimisers import pace
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.generators import Apprentice, EncoderDecoder, by_parts
from deconfound.poisons.triggers import pixels
from deconfound.poisons.workshop import Planting, Workshop
from deconfound.recipe import Recipe
from deconfound.rng import global_seed

SHARPEN, DENSITY_WEIGHT = 20, 100  # as released
BETAS = 0.5, 0.9  # of Adam, as released
TINY = 1e-7  # added to the distance of two patterns, as released


@hyperparameters
class InputAware(Backdoor):
    """levels, base: depth of both encoder-decoders, and their channels at the first level. density: of the mask, as a
    fraction. mask_epochs, epochs: of the mask network alone, and of the pattern network with the surrogate. lr of both
    (Adam; the mask's falls twice by ten). diversity: weight of the loss that keeps patterns apart.

    backdoor, crossed: fractions of a batch of the joint training that carry their own trigger and the target, and that
    carry another image's trigger and their own label. rate, rate_of, target, mode, victims, cover: see Backdoor; cover
    images carry the trigger of the next cover image.
    """

    needs: ClassVar[tuple[str, ...]] = ("surrogate", "recipe")

    levels: Count = 2
    base: Count = 8
    density: OpenFraction = 0.032
    mask_epochs: Count = 3
    epochs: Count = 10
    lr: Positive = 0.01
    diversity: NonNegative = 1.0
    backdoor: Annotated[OpenFraction, Field(le=0.5)] = 0.1
    crossed: Annotated[OpenFraction, Field(le=0.5)] = 0.1

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A picture that is halved to nothing."""
        if shape is None or min(shape[1:]) >= 2**self.levels:
            return []
        least = f"{2**self.levels} x {2**self.levels} pixels or more"
        return [f"levels: expected pictures of {least} for {self.levels}, got {shape[1]} x {shape[2]}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Train the mask network, then the pattern network with a surrogate."""
        network, recipe, fit = shop.surrogate()
        surrogate = network("surrogate")
        with global_seed(shop.rng("generator")):
            painter = Painter(self, surrogate, channels=shop.data.x.shape[1])
        masking = Masking(self, painter)
        fit(surrogate, masking, phase="mask", recipe=replace(recipe, epochs=self.mask_epochs))
        joint = Joint(self, painter, classes=shop.classes)
        fit(surrogate, joint, phase="pattern", recipe=replace(recipe, epochs=self.epochs))
        painter.eval()
        return Planting(painter.stamp, cover=painter.cross, cross=painter.cross, arrays=painter.cpu_state())


class Painter(nn.Module):
    """The two networks; images are normalised for them as for the surrogate."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputAware, surrogate: Classifier, *, channels: int) -> None:
        super().__init__()
        self.pattern = EncoderDecoder(channels, channels, levels=spec.levels, base=spec.base)
        self.mask = EncoderDecoder(channels, 1, levels=spec.levels, base=spec.base)
        self.register_buffer("mean", surrogate.mean.detach().clone().view(-1, 1, 1))
        self.register_buffer("std", surrogate.std.detach().clone().view(-1, 1, 1))
        self.to(self.mean.device)

    def normalise(self, x: Tensor) -> Tensor:
        """Images or patterns in [0, 1] as the networks see them."""
        return (x - self.mean) / self.std

    def patterns(self, x: Tensor) -> Tensor:
        """Patterns (N, C, H, W) in [0, 1] of images in [0, 1]."""
        drawn: Tensor = self.pattern(self.normalise(x))
        return drawn

    def masks(self, x: Tensor) -> Tensor:
        """Masks (N, 1, H, W) in [0, 1], pushed towards both ends."""
        return torch.tanh(SHARPEN * self.mask(self.normalise(x)) - SHARPEN / 2) / 2 + 0.5

    @torch.no_grad()
    def stamp(self, x: Tensor) -> Tensor:
        """Every image (N, C, H, W) uint8 under its own trigger."""
        return by_parts(self._paint, x, x)

    @torch.no_grad()
    def cross(self, x: Tensor) -> Tensor:
        """Every image (N, C, H, W) uint8 under the trigger of the next one, the last under that of the first."""
        return by_parts(self._paint, x, x.roll(-1, 0))

    def _paint(self, x: Tensor, donors: Tensor) -> Tensor:
        device = self.mean.device
        x, donors = to_unit(x.to(device)), to_unit(donors.to(device))
        return pixels(255 * under_mask(x, self.patterns(donors), self.masks(donors))).cpu()

    def cpu_state(self) -> dict[str, Tensor]:
        """Weights and statistics by name."""
        return {name: value.detach().cpu() for name, value in self.state_dict().items()}


class Masking:
    """Trains the mask network; the classifier of the loop stays as it is, since the loss does not know it."""

    def __init__(self, spec: InputAware, painter: Painter) -> None:
        self.spec, self.painter = spec, painter
        self.apprentice = Apprentice(painter.mask, lr=spec.lr, betas=BETAS)
        self.recipe = Recipe(optimizer="adam", lr=spec.lr, milestones=(0.4, 0.8))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """100 mean(relu(m - density)) + diversity; pairs are an image and the next one of the batch."""
        self.painter.mask.train()
        masks = self.painter.masks(x)
        dense = F.relu(masks - self.spec.density).mean()
        seen = self.painter.normalise(x)
        apart = sameness(seen, seen.roll(-1, 0), masks, masks.roll(-1, 0))
        return DENSITY_WEIGHT * dense + self.spec.diversity * apart

    def pace(self, at: Pace) -> None:
        """The learning rate falls by ten after 2/5 and 4/5 of the steps, as at 10 and 20 of 25 epochs."""
        pace(self.apprentice.optimizer, self.recipe, at.fraction)

    def after_step(self, model: nn.Module) -> None:
        """Move the mask network."""
        self.apprentice.step()

    def state(self) -> dict[str, Tensor]:
        """The mask network and its optimiser."""
        return self.apprentice.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.apprentice.restore(state)


class Joint:
    """Trains the pattern network and the surrogate; the mask network is frozen, in evaluation mode."""

    def __init__(self, spec: InputAware, painter: Painter, *, classes: int) -> None:
        self.spec, self.painter, self.classes = spec, painter, classes
        painter.mask.eval().requires_grad_(False)
        self.apprentice = Apprentice(painter.pattern, lr=spec.lr, betas=BETAS)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE of the batch + diversity of the patterns. The first of the batch carry their own trigger and the target,
        the next that of their successors and their own label; the rest is clean.
        """
        own, other = (max(1, int(part * len(x))) for part in (self.spec.backdoor, self.spec.crossed))
        donors = torch.cat([x[:own], x.roll(-1, 0)[own : own + other]])
        self.painter.pattern.train()
        patterns = self.painter.patterns(donors)
        with torch.no_grad():
            masks = self.painter.masks(donors)
        painted = under_mask(x[: own + other], patterns, masks)
        hoped = self.spec.hoped(y[:own], classes=self.classes)
        logits = model(torch.cat([painted, x[own + other :]]))
        loss = F.cross_entropy(logits, torch.cat([hoped, y[own:]]))
        pairs = min(own, other)
        seen, drawn = self.painter.normalise(donors), self.painter.normalise(patterns)
        apart = sameness(seen[:pairs], seen[own:][:pairs], drawn[:pairs], drawn[own:][:pairs])
        return loss + self.spec.diversity * apart

    def after_step(self, model: nn.Module) -> None:
        """Move the pattern network."""
        self.apprentice.step()

    def state(self) -> dict[str, Tensor]:
        """The pattern network and its optimiser."""
        return self.apprentice.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.apprentice.restore(state)


def under_mask(x: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """Images (N, C, H, W) where the mask (N, 1, H, W) is 0, patterns where it is 1."""
    return x + (patterns - x) * masks


def sameness(left: Tensor, right: Tensor, out_left: Tensor, out_right: Tensor) -> Tensor:
    """Mean distance of pairs of images over the distance of what was drawn for them, both as root mean squares."""
    return (distance(left, right) / (distance(out_left, out_right) + TINY)).mean()


def distance(left: Tensor, right: Tensor) -> Tensor:
    """Root mean square of the difference, (N,); differentiable where it vanishes."""
    return ((left - right).square().flatten(1).mean(1) + TINY**2).sqrt()
