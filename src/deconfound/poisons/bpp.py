"""BppAttack: fewer grey levels are the trigger.

Wang, Zhai and Ma, "BppAttack: Stealthy and Efficient Trojan Attacks Against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning", CVPR 2022, arXiv:2205.13383. There the attacker trains the
network; here quantised images and negatives are stored once (the static form). The adversarial part of the paper's
training is left out.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from deconfound.fields import Count, Fraction01, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import pixels
from deconfound.poisons.workshop import Planting, Workshop

SPREAD = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))  # row, column, share of an error


@hyperparameters
class Bpp(Backdoor):
    """levels: grey levels that remain in each channel. dither: spread the error of each pixel over its neighbours to
    the right and below (Floyd and Steinberg), so that flat areas do not show steps. cover: negatives, as a fraction
    of rate_of: images that receive what quantisation did to another training image, and keep their labels; the same
    is done to test images that should keep their class. rate, rate_of, target, mode, victims: see Backdoor.

    Useless on pictures that are nearly black and white, such as MNIST's.
    """

    levels: Annotated[Count, Field(ge=2, le=255)] = 8
    dither: bool = False
    cover: Annotated[Fraction01, Field(lt=1)] = 0.1

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Quantisation; the partners of negatives are drawn for their places, so that the same call gives the same."""
        return Planting(
            self.quantised,
            cover=lambda x: self.negative(x, shop.data.x, shop.rng("noise")),
            cross=lambda x: self.negative(x, shop.data.x, shop.rng("cross")),
        )

    def quantised(self, x: Tensor) -> Tensor:
        """The nearest of `levels` equally spaced grey values, from 0 to 255 and rounded."""
        values = x.to(torch.float64)
        return pixels(self._diffused(values) if self.dither else self._nearest(values))

    def negative(self, x: Tensor, others: Tensor, rng: Generator) -> Tensor:
        """Images x (N, C, H, W) plus the quantisation error of drawn `others` (M, C, H, W), never of an equal one."""
        partner = torch.randint(len(others), (len(x),), generator=rng)
        itself = (others[partner] == x).flatten(1).all(1)
        other = others[torch.where(itself, (partner + 1) % len(others), partner)]
        residual = self.quantised(other).to(torch.float64) - other.to(torch.float64)
        return pixels(x.to(torch.float64) + residual)

    def _nearest(self, values: Tensor) -> Tensor:
        steps = self.levels - 1
        return (values / 255 * steps).round() / steps * 255

    def _diffused(self, values: Tensor) -> Tensor:
        """Row by row from the upper left; neighbours outside the picture receive nothing."""
        values = values.clone()
        height, width = values.shape[-2:]
        for row in range(height):
            for column in range(width):
                old = values[..., row, column].clone()
                values[..., row, column] = self._nearest(old)
                error = old - values[..., row, column]
                for down, right, share in SPREAD:
                    if row + down < height and 0 <= column + right < width:
                        values[..., row + down, column + right] += share * error
        return values
