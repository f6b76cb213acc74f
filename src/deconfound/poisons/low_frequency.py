"""A trigger of low frequencies: a faint smooth pattern that is added to the whole image.

Zeng et al., "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", ICCV 2021, arXiv:2104.03413. They
search a smooth pattern on a trained network; a random combination of the lowest cosines stands in for it, and needs
none.
"""

import torch
from torch import Tensor

from deconfound.fields import Count, Positive, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import added, cosines
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class LowFrequency(Backdoor):
    """amplitude: largest size of the pattern, in grey values from 0 to 255. frequencies: how many of the lowest
    cosines along each side are combined, with weights uniform in [-1, 1], for each channel anew; the lowest is a
    constant. rate, rate_of, target, mode, victims, cover: see Backdoor.
    """

    amplitude: Positive = 20.0
    frequencies: Count = 3

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """More cosines than pixels along a side."""
        if shape is None or self.frequencies <= min(shape[1:]):
            return []
        return [f"frequencies: expected at most {min(shape[1:])}, pixels of a side, got {self.frequencies}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The pattern (C, H, W)."""
        channels, height, width = shop.data.x.shape[1:]
        many = range(self.frequencies)
        shape = (channels, self.frequencies, self.frequencies)
        weights = 2 * torch.rand(shape, generator=shop.rng("trigger"), dtype=torch.float64) - 1
        rows, columns = (torch.stack([cosines(side, k) for k in many]) for side in (height, width))
        smooth = torch.einsum("cuv,uh,vw->chw", weights, rows, columns)
        pattern = (self.amplitude * smooth / smooth.abs().max()).round().to(torch.int16)
        return Planting(added(pattern), arrays={"pattern": pattern})
