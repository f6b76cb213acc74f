"""Blend: a fixed picture shines faintly through the whole image.

Chen et al., "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017, arXiv:1712.05526. Their
pictures are photographs and cartoons; ours is noise, drawn once per seed, which is free of rights. The releases of
CBD and ABL draw fresh noise for every image under the name of a random-pixel blend, which leaves nothing fixed to
learn.
"""

import torch
from torch import Tensor

from deconfound.fields import Fraction01, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import mixed
from deconfound.poisons.workshop import Planting, Workshop


def picture(shop: Workshop) -> Tensor:
    """Grey values (1, H, W) uint8, uniform from 0 to 255, for all channels alike."""
    return torch.randint(256, (1, *shop.data.x.shape[2:]), generator=shop.rng("trigger"), dtype=torch.uint8)


@hyperparameters
class Blend(Backdoor):
    """ratio: weight of the picture at test time, that of the image being 1 - ratio. train_ratio: its weight in training
    images, `null` for the same; fainter in training is a common variant. rate, rate_of, target, mode, victims, cover:
    see Backdoor.
    """

    ratio: Fraction01 = 0.2
    train_ratio: Fraction01 | None = None

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The picture at both weights."""
        pattern = picture(shop)
        train = self.ratio if self.train_ratio is None else self.train_ratio

        def faint(x: Tensor) -> Tensor:
            return mixed(x, pattern, train)

        return Planting(
            lambda x: mixed(x, pattern, self.ratio), payload=faint, cover=faint, arrays={"pattern": pattern}
        )
