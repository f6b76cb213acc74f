"""How much of an attribution map lies where the evidence is known to be: on a trigger, on an object.

Maps (N, C, H, W); masks (H, W) or (N, H, W) bool, True on the known region. Every number is (N,) float64; NaN where a
map is zero everywhere. Intersection over union after Lin, Lee, Celik, "What Do You See? Evaluation of Explainable
Artificial Intelligence (XAI) Interpretability through Neural Backdoors", KDD 2021, arXiv:2009.10639; pointing game
after Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018.

Masks are for scoring: no defense or detector sees one.
"""

import torch
from torch import Tensor

from deconfound.attributions.shift import strengths
from deconfound.errors import UserError


def mass_share(maps: Tensor, mask: Tensor) -> Tensor:
    """Share of the strengths (absolute values) that lies inside."""
    found, inside = strengths(maps), _like(maps, mask)
    return (found * inside).sum((1, 2)) / found.sum((1, 2))


def mass_ratio(maps: Tensor, mask: Tensor) -> Tensor:
    """That share over the region's share of the area: 1 for a uniform map, 1 / area share for one inside the region.

    On triggers: the trigger mass ratio.
    """
    return mass_share(maps, mask) / _like(maps, mask).double().mean((1, 2))


def points_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Pointing game: 1 where the strongest pixel lies inside, else 0; the share of the strongest that does, where
    several are.
    """
    found = strengths(maps)
    top = found == found.amax((1, 2), keepdim=True)
    hits = (top & _like(maps, mask)).double().sum((1, 2)) / top.double().sum((1, 2))
    return torch.where(found.sum((1, 2)) > 0, hits, torch.nan)


def overlap(maps: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the region and of as many of the strongest pixels; ties go to the pixel that comes
    first.
    """
    found, inside = strengths(maps).flatten(1), _like(maps, mask).flatten(1)
    order = found.argsort(stable=True, dim=1, descending=True)
    ranks = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1]).expand_as(order))
    top = ranks < inside.sum(1, keepdim=True)
    iou = (top & inside).double().sum(1) / (top | inside).double().sum(1)
    return torch.where(found.sum(1) > 0, iou, torch.nan)


def _like(maps: Tensor, mask: Tensor) -> Tensor:
    """The mask as (N, H, W) bool on the CPU."""
    shape = (len(maps), *maps.shape[2:])
    if mask.dtype != torch.bool or mask.shape not in (shape, shape[1:]):
        raise UserError(f"mask: expected bool {shape} or {shape[1:]}, got {mask.dtype} {tuple(mask.shape)}")
    found = mask.cpu().expand(shape)
    if not bool(found.flatten(1).any(1).all()):
        raise UserError("mask: expected at least one pixel of every image inside")
    return found
