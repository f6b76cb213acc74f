"""How long, with what optimiser and on what views a network is trained: a named recipe of an experiment."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.fields import Count, Fraction01, Natural, NonNegative, OpenFraction, Positive, hyperparameters


@hyperparameters
class Recipe:
    """epochs over the training set in batches of batch_size; lr, momentum and weight_decay of the optimiser.

    schedule: `constant`; `steps` multiplies lr by 0.1 at each of `milestones` (fractions of all steps);
    `cosine` decays to zero; `cyclic` rises linearly to lr over the fraction `peak` of all steps and falls to zero;
    cycle_momentum: with `cyclic`, momentum falls to this at the peak and rises again (as torch's CyclicLR does).
    crop: pixels of zero padding for random crops; flip: random horizontal flips; cutout: side of one square hole of
    zeros, pixels, whose centre falls anywhere, so that a hole at the border is cut off. All after stamping.
    drop_last: leave out the last batch of an epoch when it is smaller. average: decay of an exponential moving average
    of the weights, taken after every step, which is what remains after the training; 0 for none.
    """

    epochs: Count = 10
    batch_size: Annotated[Natural, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[NonNegative, Field(lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1e-4
    schedule: Literal["constant", "steps", "cosine", "cyclic"] = "steps"
    milestones: tuple[Fraction01, ...] = (0.5, 0.8)
    crop: Natural = 0
    flip: bool = False
    cutout: Natural = 0
    peak: OpenFraction = 0.2
    cycle_momentum: Annotated[NonNegative, Field(lt=1)] | None = None
    drop_last: bool = False
    average: Annotated[NonNegative, Field(lt=1)] = 0.0

    def lr_at(self, progress: float) -> float:
        """Learning rate at a fraction of all steps in [0, 1)."""
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "cyclic":
            return self.lr * self._rise(progress)
        return self.lr

    def momentum_at(self, progress: float) -> float:
        """Momentum at a fraction of all steps in [0, 1)."""
        if self.schedule != "cyclic" or self.cycle_momentum is None:
            return self.momentum
        return self.momentum - (self.momentum - self.cycle_momentum) * self._rise(progress)

    def _rise(self, progress: float) -> float:
        return progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak)


def augment(x: Tensor, recipe: Recipe, *, rng: Generator) -> Tensor:
    """Random crops after zero padding, random flips, random holes, per image (N, C, H, W); x itself if the recipe has
    none of them.
    """
    if recipe.crop:
        height, width = x.shape[-2:]
        padded = F.pad(x, (recipe.crop,) * 4)
        top, left = torch.randint(2 * recipe.crop + 1, (2, len(x), 1, 1), generator=rng).to(x.device)
        rows = top + torch.arange(height, device=x.device).view(1, -1, 1)
        columns = left + torch.arange(width, device=x.device).view(1, 1, -1)
        image = torch.arange(len(x), device=x.device).view(-1, 1, 1)
        x = padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2).contiguous()
    if recipe.flip:
        mirrored = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if recipe.cutout:
        x = cut_out(x, recipe.cutout, rng=rng)
    return x


def cut_out(x: Tensor, side: int, *, rng: Generator) -> Tensor:
    """Zeros in one square of every image (N, C, H, W): rows and columns from c - side // 2 to c - side // 2 + side - 1,
    as far as they are in the picture, of a centre c that is uniform over its pixels.

    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, arXiv:1708.04552. A
    length of 3 in the releases of CBD and ABL erases rows and columns c - 1 and c: here, a side of 2.
    """
    inside = []
    for length in x.shape[-2:]:
        first = torch.randint(length, (len(x), 1), generator=rng) - side // 2
        place = torch.arange(length)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    return x.masked_fill((rows[:, None, :, None] & columns[:, None, None, :]).to(x.device), 0.0)
