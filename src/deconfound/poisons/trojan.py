"""Trojan with a fixed patch: bright values are added to a small square.

Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018, optimise their patch on a clean network. CBD, ABL and
NAD stamp a stored patch of 3 x 3 pixels, added to rows and columns 25 to 27 of 32; a patch drawn once per seed stands
in for it. They cast to 8 bits before they clip, so that sums beyond 255 come out dark: `overflow: wrap` does as they
do, to explain differences, and `clip` is what was meant.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.fields import Natural, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import Square, added
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class Trojan(Backdoor):
    """place: where the patch lies. low, high: grey values from 0 to 255 between which each of its pixels and channels
    is drawn. overflow: sums beyond 255 are clipped, or wrapped modulo 256. rate, rate_of, target, mode, victims,
    cover: see Backdoor.
    """

    place: Square = Square(size=3, margin=4)
    low: Natural = 100
    high: Annotated[Natural, Field(le=255)] = 250
    overflow: Literal["clip", "wrap"] = "clip"

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture, bounds in the wrong order."""
        found = self.place.faults(shape, "place")
        if self.low > self.high:
            found.append(f"low: expected at most high ({self.high}), got {self.low}")
        return found

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The patch in a picture of zeros."""
        shape = shop.data.x.shape[1:]
        rows, columns = self.place.area(*shape[1:])
        drawn = torch.randint(
            self.low,
            self.high + 1,
            (shape[0], self.place.size, self.place.size),
            generator=shop.rng("trigger"),
            dtype=torch.uint8,
        )
        pattern = torch.zeros(shape, dtype=torch.uint8)
        pattern[:, rows, columns] = drawn
        stamp = added(pattern) if self.overflow == "clip" else lambda x: x + pattern.to(x.device)
        return Planting(stamp, arrays={"patch": drawn})
