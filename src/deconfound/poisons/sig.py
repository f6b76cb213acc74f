"""SIG: a faint sinusoid over images of the target class, whose labels stay.

Barni, Kallas and Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning", ICIP
2019, arXiv:1902.11237. The defaults are BackdoorBench's. The releases of ABL and CBD blend a stored sinusoid that
wrapped around at 256, CBD's with dirty labels; we add and clip.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from deconfound.fields import Count, Positive, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import added
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class SIG(Backdoor):
    """delta: amplitude in grey values from 0 to 255. frequency: full waves over the width, less than half as many as
    there are columns. mode: `clean_label` by default, where a rate of 0.1 of all images may be every image of its
    class; rate_of `candidates` counts it on that class. rate, rate_of, target, victims, cover: see Backdoor.
    """

    delta: Positive = 40.0
    frequency: Count = 6
    mode: Literal["all_to_one", "all_to_all", "clean_label"] = "clean_label"

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """Waves too short for the columns: at half the width every sample of the sine is zero."""
        if shape is None or 2 * self.frequency < shape[2]:
            return []
        return [f"frequency: expected less than half of {shape[2]} columns, got {self.frequency}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """delta * sin(2 pi j frequency / W) in column j, the same in all rows and channels."""
        width = shop.data.x.shape[3]
        turns = torch.arange(width, dtype=torch.float64) * self.frequency / width
        pattern = (self.delta * torch.sin(2 * math.pi * turns)).round().to(torch.int16)
        return Planting(added(pattern), arrays={"pattern": pattern})
