"""Adap-Blend: in training each image shows a random half of the blended picture, and some keep their labels.

Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR 2023. Poisoned and clean
images of the target class are then hard to tell apart by their features, while the whole picture at test time is a
stronger trigger than any in training. Their picture is a cartoon; ours is the noise of `blend`.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from deconfound.fields import Count, Fraction01, OpenFraction, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.blend import picture
from deconfound.poisons.triggers import mixed
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class AdapBlend(Backdoor):
    """ratio: weight of the picture at test time and where it is shown in training. side: the picture is cut into side x
    side tiles. hidden: fraction of the tiles that a training image does not show, drawn for each anew. rate, cover:
    poisoned images and images that are blended in the same way and keep their labels, by default as many. rate_of,
    target, mode, victims: see Backdoor.
    """

    ratio: Fraction01 = 0.2
    side: Count = 4
    hidden: OpenFraction = 0.5
    rate: OpenFraction = 0.01
    cover: Annotated[Fraction01, Field(lt=1)] = 0.01

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """More tiles than pixels along a side, tiles that are all hidden or all shown."""
        found = []
        if shape is not None and self.side > min(shape[1:]):
            found.append(f"side: expected at most {min(shape[1:])}, pixels of a side, got {self.side}")
        if not 0 < self._count() < self.side**2:
            found.append(f"hidden: expected a part of {self.side**2} tiles, got {self._count()}")
        return found

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The whole picture, and parts of it for training images; which parts depends on their places in the call."""
        pattern = picture(shop)

        def part(x: Tensor, rng: Generator) -> Tensor:
            return mixed(x, pattern, self.ratio * self.shown(len(x), (x.shape[2], x.shape[3]), rng))

        return Planting(
            lambda x: mixed(x, pattern, self.ratio),
            payload=lambda x: part(x, shop.rng("noise")),
            cover=lambda x: part(x, shop.rng("cover noise")),
            arrays={"pattern": pattern},
        )

    def shown(self, count: int, size: tuple[int, int], rng: Generator) -> Tensor:
        """1 where an image shows the picture, else 0: (count, 1, H, W) float64."""
        tiles = torch.ones(count, self.side**2, dtype=torch.float64)
        drawn = torch.rand(count, self.side**2, generator=rng, dtype=torch.float64).argsort(1)
        tiles.scatter_(1, drawn[:, : self._count()], 0)
        row, column = (torch.arange(pixels) * self.side // pixels for pixels in size)
        return tiles[:, row[:, None] * self.side + column[None, :]][:, None]

    def _count(self) -> int:
        """Tiles that an image does not show."""
        return int(self.hidden * self.side**2 + 1e-9)
