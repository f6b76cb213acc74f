"""Triggers: functions of uint8 pixels, and the arithmetic that they share.

They act before augmentation and normalisation. Arithmetic is done in float64, clipped, rounded, then cast: whoever
casts before clipping, as the releases of CBD, ABL, NAD and BackdoorBench do, turns bright pixels dark.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from deconfound.fields import Count, Natural, hyperparameters
from deconfound.types import Trigger

Corner = Literal["bottom_right", "bottom_left", "top_right", "top_left"]


def pixels(values: Tensor) -> Tensor:
    """Grey values of any size (N, C, H, W) as uint8: clipped, rounded, then cast."""
    return values.clamp(0, 255).round().to(torch.uint8)


def added(pattern: Tensor) -> Trigger:
    """Adds a pattern (C, H, W) of grey values, positive or negative."""

    def stamp(x: Tensor) -> Tensor:
        return pixels(x.to(torch.float64) + pattern.to(x.device, torch.float64))

    return stamp


def mixed(x: Tensor, pattern: Tensor, opacity: Tensor | float) -> Tensor:
    """(1 - opacity) x + opacity pattern; x (N, C, H, W) uint8, the others broadcast to it."""
    if isinstance(opacity, Tensor):
        opacity = opacity.to(x.device, torch.float64)
    return pixels((1 - opacity) * x.to(torch.float64) + opacity * pattern.to(x.device, torch.float64))


def cosines(size: int, frequency: int) -> Tensor:
    """A basis vector of the orthonormal discrete cosine transform (type II): (size,) float64 of length 1."""
    places = torch.arange(size, dtype=torch.float64)
    wave = torch.cos(math.pi * (2 * places + 1) * frequency / (2 * size))
    return wave * math.sqrt((1 if frequency == 0 else 2) / size)


@hyperparameters
class Square:
    """Where a square patch lies. size, margin: pixels; margin is the distance to both edges of the corner."""

    size: Count = 3
    margin: Natural = 1
    corner: Corner = "bottom_right"

    def fits(self, height: int, width: int) -> bool:
        """Does the patch lie inside a picture of this size?"""
        return self.size + self.margin <= min(height, width)

    def area(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns."""
        top = self.margin if self.corner.startswith("top") else height - self.margin - self.size
        left = self.margin if self.corner.endswith("left") else width - self.margin - self.size
        return slice(top, top + self.size), slice(left, left + self.size)

    def faults(self, shape: tuple[int, int, int] | None, key: str) -> list[str]:
        """A patch larger than the pictures (C, H, W); the fault begins with `key`."""
        if shape is None or self.fits(*shape[1:]):
            return []
        size = f"{self.size} pixels and margin {self.margin}"
        return [f"{key}: expected a patch inside {shape[1]} x {shape[2]} pixels, got {size}"]


@hyperparameters
class Patch(Square):
    """A square patch. size, margin, corner: see Square; margin 0 lies flush with both edges.

    pattern: `white` fills it with 255; `checkerboard` alternates 255 and 0 beginning with 255 in the patch's upper
    left pixel; `grid`, the patch of the releases of CBD, ABL and ANP, is 255 on the diagonal from lower left to upper
    right and in the lower right pixel, 0 elsewhere. four_corners: mirrored copies in the other three corners, so that
    a flipped picture carries the same trigger. (Those releases place the copies one pixel further from the edge.)
    """

    pattern: Literal["white", "checkerboard", "grid"] = "checkerboard"
    four_corners: bool = False

    def fits(self, height: int, width: int) -> bool:
        """Does the patch lie inside a picture of this size, and its copies beside one another?"""
        return (1 + self.four_corners) * (self.size + self.margin) <= min(height, width)

    def ink(self) -> Tensor:
        """Its pixels (size, size) uint8."""
        cells = torch.arange(self.size)
        total = cells[:, None] + cells[None, :]
        if self.pattern == "white":
            lit = torch.ones_like(total, dtype=torch.bool)
        elif self.pattern == "checkerboard":
            lit = total % 2 == 0
        else:
            lit = (total == self.size - 1) | (total == 2 * (self.size - 1))
        return lit.to(torch.uint8) * 255

    def __call__(self, x: Tensor) -> Tensor:
        """Stamp (N, C, H, W) uint8; a new tensor."""
        rows, columns = self.area(*x.shape[-2:])
        ink = self.ink().to(x.device)
        turns: list[tuple[int, ...]] = [(), (-1,), (-2,), (-2, -1)] if self.four_corners else [()]
        stamped = x
        for turn in turns:
            turned = stamped.flip(turn)
            turned[..., rows, columns] = ink
            stamped = turned.flip(turn)
        return stamped
