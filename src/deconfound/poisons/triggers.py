"""Triggers: functions of uint8 pixels, without randomness and without labels.

They act before augmentation and normalisation. Arithmetic is done in float, clipped, rounded, then cast.
"""

from typing import Literal

import torch
from torch import Tensor

from deconfound.fields import Count, Natural, hyperparameters


@hyperparameters
class Patch:
    """A square patch. size, margin: pixels; margin is the distance to both edges of the corner.

    pattern: `white` fills it with 255, `checkerboard` alternates 255 and 0 beginning with 255 in the patch's
    upper left pixel.
    """

    size: Count = 3
    margin: Natural = 1
    corner: Literal["bottom_right", "bottom_left", "top_right", "top_left"] = "bottom_right"
    pattern: Literal["white", "checkerboard"] = "checkerboard"

    def fits(self, height: int, width: int) -> bool:
        """Does the patch lie inside a picture of this size?"""
        return self.size + self.margin <= min(height, width)

    def __call__(self, x: Tensor) -> Tensor:
        """Stamp (N, C, H, W) uint8; a new tensor."""
        height, width = x.shape[-2:]
        top = self.margin if self.corner.startswith("top") else height - self.margin - self.size
        left = self.margin if self.corner.endswith("left") else width - self.margin - self.size
        cells = torch.arange(self.size)
        ink = torch.full((self.size, self.size), 255, dtype=torch.uint8)
        if self.pattern == "checkerboard":
            ink[(cells[:, None] + cells[None, :]) % 2 == 1] = 0
        stamped = x.clone()
        stamped[..., top : top + self.size, left : left + self.size] = ink.to(x.device)
        return stamped
