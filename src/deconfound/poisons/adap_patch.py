"""Adap-Patch: four faint patches, one per training image and some with their own labels; several, opaque, at test time.

Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR 2023. Their patches are
logos and patterns, of which two are shown at test time; ours are squares of noise in the four corners.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.fields import Count, Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import Corner, Square, mixed
from deconfound.poisons.workshop import Planting, Workshop

CORNERS: tuple[Corner, ...] = ("top_left", "top_right", "bottom_left", "bottom_right")
TWO = (0, 2)  # the two more opaque ones of the default


@hyperparameters
class AdapPatch(Backdoor):
    """size, margin: of the patches and to their edges, pixels. opacities: weights of the patches in training images,
    in the corners top left, top right, bottom left, bottom right; images take turns. shown: patches at test time,
    `all` or `two`, those on the left; test_opacity: their weight. rate, cover: poisoned images, and images with a
    patch that keep their labels, by default twice as many. rate_of, target, mode, victims: see Backdoor.
    """

    size: Count = 5
    margin: Natural = 1
    opacities: tuple[Fraction01, Fraction01, Fraction01, Fraction01] = (0.5, 0.2, 0.5, 0.3)
    shown: Literal["all", "two"] = "all"
    test_opacity: Fraction01 = 1.0
    rate: OpenFraction = 0.01
    cover: Annotated[Fraction01, Field(lt=1)] = 0.02

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """Patches that overlap, or reach over the edge."""
        if shape is None or 2 * (self.size + self.margin) <= min(shape[1:]):
            return []
        size = f"{self.size} pixels and margin {self.margin}"
        return [f"size: expected four patches inside {shape[1]} x {shape[2]} pixels, got {size}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Squares of black and white pixels, the same in all channels; image i of a call has patch i modulo 4."""
        height, width = shop.data.x.shape[2:]
        ink = (
            torch.randint(2, (4, self.size, self.size), generator=shop.rng("trigger"), dtype=torch.uint8)
            * 255
        )
        pattern = torch.zeros(1, height, width, dtype=torch.uint8)
        inside = torch.zeros(4, 1, height, width, dtype=torch.float64)
        for number, corner in enumerate(CORNERS):
            rows, columns = Square(size=self.size, margin=self.margin, corner=corner).area(height, width)
            pattern[:, rows, columns] = ink[number]
            inside[number, :, rows, columns] = 1
        faint = inside * torch.tensor(self.opacities, dtype=torch.float64)[:, None, None, None]
        at_test = self.test_opacity * inside[list(TWO) if self.shown == "two" else slice(None)].sum(0)

        def one(x: Tensor) -> Tensor:
            return mixed(x, pattern, faint[torch.arange(len(x)) % 4])

        return Planting(lambda x: mixed(x, pattern, at_test), payload=one, cover=one, arrays={"patches": ink})
