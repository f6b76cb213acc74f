"""What a method takes for an image without evidence. No choice is neutral: black makes dark pixels unattributable."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.errors import UserError
from deconfound.fields import Count, Positive, hyperparameters

Maker = Callable[[Tensor], list[Tensor]]
"""Baselines of images (n, C, H, W): one like them, or one per draw."""


@hyperparameters
class Baseline:
    """kind: `zero` (black), `mean` (the mean colour per channel of the training images, which a Classifier carries as
    its normalisation), `blur` (the image itself, blurred) or `uniform` (pixels drawn from [0, 1], the same for every
    image; a method averages its maps over the draws). sigma: of the blur, pixels. draws: of `uniform`.
    """

    kind: Literal["zero", "mean", "blur", "uniform"] = "zero"
    sigma: Positive = 5.0
    draws: Count = 4

    def maker(self, model: nn.Module, shape: torch.Size, *, rng: Generator) -> Maker:
        """A function from images (n, *shape) to their baselines; what is drawn is drawn here, once."""
        if self.kind == "uniform":
            noise = torch.rand(self.draws, 1, *shape, generator=rng)
            return lambda z: [one.to(z).expand_as(z) for one in noise]
        if self.kind == "blur":
            return lambda z: [blurred(z, self.sigma)]
        if self.kind == "zero":
            return lambda z: [torch.zeros_like(z)]
        mean = getattr(model, "mean", None)
        if not isinstance(mean, Tensor):
            raise UserError(
                "baseline: mean needs a Classifier, which carries the mean of its training images"
            )
        colour = mean.detach().view(1, -1, 1, 1)
        return lambda z: [colour.to(z).expand_as(z)]


def averaged(make: Maker, z: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean map over the baselines of images z (n, C, H, W); maps: of one baseline like z."""
    found = [maps(baseline) for baseline in make(z.detach())]
    return torch.stack(found).mean(0) if len(found) > 1 else found[0]


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


BaselineField = Annotated[Baseline, BeforeValidator(_named)]
"""A baseline as a block {kind: blur, sigma: 3} or as the name of its kind alone."""


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of images (N, C, H, W); beyond the border, pixels repeat."""
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    z = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    z = F.conv2d(z, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(z, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
