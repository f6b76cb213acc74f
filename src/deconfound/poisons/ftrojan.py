"""FTrojan: spikes in the cosine transform of the colour channels.

Wang et al., "An Invisible Black-box Backdoor Attack through Frequency Domain", ECCV 2022, arXiv:2111.10991. The
release turns RGB to luma and chroma, transforms windows, adds to a few coefficients and goes back, rounding on the
way. All of these maps are linear, so that without the rounding the image gains a fixed pattern; that is what is added
here.
"""

import torch
from torch import Tensor

from deconfound.fields import Count, Natural, Positive, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import added, cosines
from deconfound.poisons.workshop import Planting, Workshop

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # of red, green, blue: ITU-R BT.601
BLUE, RED = 0.492, 0.877  # U = BLUE (B - Y), V = RED (R - Y)


def to_yuv() -> Tensor:
    """The matrix (3, 3) from red, green, blue to luma Y and chroma U and V."""
    red, _, blue = torch.eye(3, dtype=torch.float64)
    return torch.stack([LUMA, BLUE * (blue - LUMA), RED * (red - LUMA)])


@hyperparameters
class FTrojan(Backdoor):
    """window: side of the squares that are transformed, pixels; divides both sides of the picture. places: rows and
    columns of the coefficients, from 0 (the mean) to window - 1. magnitude: what is added to each, in the orthonormal
    transform of grey values from 0 to 255; to both chroma channels of a colour picture, to the one channel of a grey
    picture. rate, rate_of, target, mode, victims, cover: see Backdoor.

    Pictures of 8 x 8 pixels: window 8 and places [[3, 3], [7, 7]].
    """

    window: Count = 32
    places: tuple[tuple[Natural, Natural], ...] = ((15, 15), (31, 31))
    magnitude: Positive = 30.0

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A window that does not tile the picture, a place outside it, channels that are neither grey nor colour."""
        found = []
        outside = [list(place) for place in self.places if max(place) >= self.window]
        if outside or not self.places:
            found.append(f"places: expected pairs from 0 to {self.window - 1}, got {outside}")
        if shape is not None and (shape[1] % self.window or shape[2] % self.window):
            found.append(f"window: expected a divisor of {shape[1]} and {shape[2]}, got {self.window}")
        if shape is not None and shape[0] not in (1, 3):
            found.append(f"window: expected pictures of 1 or 3 channels, got {shape[0]}")
        return found

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The pattern (C, H, W)."""
        channels, height, width = shop.data.x.shape[1:]
        tile = sum(
            (
                torch.outer(cosines(self.window, row), cosines(self.window, column))
                for row, column in self.places
            ),
            torch.zeros(self.window, self.window, dtype=torch.float64),
        )
        spikes = (self.magnitude * tile).repeat(height // self.window, width // self.window)
        colour = torch.ones(1, dtype=torch.float64)
        if channels == 3:
            chroma = torch.tensor([0, 1, 1], dtype=torch.float64)
            colour = torch.linalg.solve(to_yuv(), chroma)
        pattern = (colour[:, None, None] * spikes).round().to(torch.int16)
        return Planting(added(pattern), arrays={"pattern": pattern})
