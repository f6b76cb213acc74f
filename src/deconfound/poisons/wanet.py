"""WaNet: a smooth warp of the image, the same for all; noisier warps keep their labels.

Nguyen and Tran, "WaNet - Imperceptible Warping-based Backdoor Attack", ICLR 2021, arXiv:2102.10369. There the
attacker trains the network and draws anew who is warped in every batch; here warped and noise-warped images are drawn
once and stored, as BackdoorBench stores them afterwards. The release counts images of the target class in the attack
success rate; nobody does here.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import pixels
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class WaNet(Backdoor):
    """grid: control points of the field along each side (k). strength: s; the mean displacement is about s/2 pixels
    whatever the size of the picture, so that pictures of 28 pixels or less may need 1 to 2. grid_rescale: factor of the
    coordinates before they are clamped to the picture. cover: noise-warped images, as a fraction of rate_of: the same
    warp and a fresh random offset of up to half a pixel at each pixel. rate, rate_of, target, mode, victims: see
    Backdoor.
    """

    grid: Count = 4
    strength: NonNegative = 0.5
    grid_rescale: Positive = 1.0
    cover: Annotated[Fraction01, Field(lt=1)] = 0.2

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A picture of a single row or column, in which nothing lies between two corners."""
        if shape is None or min(shape[1:]) > 1:
            return []
        return [f"strength: expected pictures of 2 x 2 pixels or more, got {shape[1]} x {shape[2]}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The warp, and noisier ones for cover images and for test images that should keep their class.

        The noise is a function of the seed and of an image's place in the call: the same image in the same place is
        warped alike.
        """
        size = (int(shop.data.x.shape[2]), int(shop.data.x.shape[3]))
        control = (
            2 * torch.rand(2, self.grid, self.grid, generator=shop.rng("trigger"), dtype=torch.float64) - 1
        )
        field = self.field(control, size)
        return Planting(
            lambda x: warped(x, field),
            cover=lambda x: warped(x, noisy(field, len(x), shop.rng("noise"))),
            cross=lambda x: warped(x, noisy(field, len(x), shop.rng("cross"))),
            arrays={"control": control},
        )

    def field(self, control: Tensor, size: tuple[int, int]) -> Tensor:
        """Where each pixel is fetched from: (1, H, W, 2), x before y, from -1 in the first column or row to 1.

        control (2, k, k): offsets in x and y, scaled here to a mean size of 1.
        """
        height, width = size
        offsets = control / control.abs().mean()
        smooth = F.interpolate(offsets[None], size=size, mode="bicubic", align_corners=True)[0]
        rows, columns = (torch.linspace(-1, 1, count, dtype=torch.float64) for count in size)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        moved = (x + self.strength * smooth[0] / width, y + self.strength * smooth[1] / height)
        return (torch.stack(moved, -1)[None] * self.grid_rescale).clamp(-1, 1)


def noisy(field: Tensor, count: int, rng: Generator) -> Tensor:
    """Fields (count, H, W, 2) with a uniform offset of up to 1/W and 1/H at each pixel: half a pixel."""
    height, width = field.shape[1:3]
    draw = 2 * torch.rand(count, height, width, 2, generator=rng, dtype=torch.float64) - 1
    return (field + draw / torch.tensor([width, height], dtype=torch.float64)).clamp(-1, 1)


def warped(x: Tensor, field: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 sampled bilinearly at a field for all, or one for each."""
    field = field.to(x.device).expand(len(x), -1, -1, -1)
    return pixels(F.grid_sample(x.to(torch.float64), field, align_corners=True))
