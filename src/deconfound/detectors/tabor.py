"""TABOR: four more terms for trigger inversion, which ask for compact masks and for triggers that do what triggers do.

Guo, Wang, Xing, Du, Song, "TABOR: A Highly Accurate Approach to Inspecting and Restoring Trojan Backdoors in AI
Systems", 2019, arXiv:1908.01763. Its text was not at hand: the terms follow descriptions of it, and the weights, which
it adapts while it climbs, are fixed here, each 0 by default. m: mask, q: pattern, both in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.fields import NonNegative, hyperparameters

Logits = Callable[[Tensor], Tensor]


@hyperparameters
class Tabor:
    """elastic: nats for each unit of |v|_1 + |v|_2^2, summed for v = m and v = (1 - m) q, the pattern where nothing is
    stamped; against large triggers. smooth: nats for each unit of the squared differences of neighbouring pixels of the
    same two; against scattered ones. restored: weight of the mean cross-entropy of (1 - m) x with the label of x: with
    the place of the trigger blackened, images must be read right. alone: weight of the cross-entropy of m q, the
    trigger on black, with the class that is sought.
    """

    elastic: NonNegative = 0.0
    smooth: NonNegative = 0.0
    restored: NonNegative = 0.0
    alone: NonNegative = 0.0

    def __call__(
        self, logits: Logits, x: Tensor, y: Tensor | None, mask: Tensor, pattern: Tensor, wanted: Tensor
    ) -> Tensor | float:
        """Penalty (n,) in nats of masks (n, 1, H, W) and patterns (n, C, H, W) sought for the classes wanted (n,), on
        images x (b, C, H, W) with labels y (b,); 0 where every weight is. Raises ValueError where labels are missing.
        """
        penalty: Tensor | float = 0.0
        outside = (1 - mask) * pattern
        if self.elastic:
            penalty = penalty + self.elastic * (elastic(mask) + elastic(outside))
        if self.smooth:
            penalty = penalty + self.smooth * (roughness(mask) + roughness(outside))
        if self.restored:
            if y is None:
                raise ValueError("expected the labels of the images, which `restored` asks for, got none")
            without = logits(((1 - mask)[:, None] * x).flatten(0, 1)).view(len(mask), len(x), -1)
            target = y[None].expand(len(mask), -1)
            losses = F.cross_entropy(without.transpose(1, 2), target, reduction="none")
            penalty = penalty + self.restored * losses.mean(1)
        if self.alone:
            penalty = penalty + self.alone * F.cross_entropy(logits(mask * pattern), wanted, reduction="none")
        return penalty


def elastic(maps: Tensor) -> Tensor:
    """Elastic net |v|_1 + |v|_2^2 of maps (n, C, H, W), as (n,)."""
    return (maps.abs() + maps.square()).flatten(1).sum(1)


def roughness(maps: Tensor) -> Tensor:
    """Squared differences of pixels that are neighbours in a row or a column of maps (n, C, H, W), summed, as (n,)."""
    return torch.stack([maps.diff(dim=dim).square().flatten(1).sum(1) for dim in (2, 3)]).sum(0)
