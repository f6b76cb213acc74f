"""Maps held against regions that are known: what object mass and trigger mass share."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from deconfound.attributions.asking import Attribution
from deconfound.attributions.baselines import Baseline
from deconfound.attributions.mass import mass_ratio, mass_share, overlap, points_inside
from deconfound.attributions.shift import Shift, strengths
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.maps import (
    checked_names,
    crafting,
    drawable,
    maps_of,
    methods,
    noted_refusal,
)
from deconfound.types import Array

MEASURES: Mapping[str, Shift] = {
    "share": mass_share,
    "ratio": mass_ratio,
    "pointing": points_inside,
    "iou": overlap,
}


def _explain(blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    methods(blocks)
    checked_names(blocks)
    return blocks


def _attacks(block: dict[str, Any]) -> dict[str, Any]:
    crafting(block, at="attack")
    return block


AttributionBlocks = Annotated[dict[str, dict[str, Any]], Field(min_length=1), AfterValidator(_explain)]
"""Blocks of attributions by name."""
AttackBlock = Annotated[dict[str, Any], AfterValidator(_attacks)]
"""The block of an attack."""


class Situation(NamedTuple):
    """Images x (N, C, H, W) in a state; rows (N,) bool on the CPU: those it says something about; targets: the classes
    (N,) that are asked about, by rule. mask (N, H, W) bool on the CPU.
    """

    name: str
    x: Tensor
    rows: Tensor
    targets: Mapping[str, Tensor]
    mask: Tensor


def read_masses(
    found: Readings,
    case: Case,
    name: str,
    method: Attribution,
    situations: Iterable[Situation],
    pictured: int,
) -> None:
    """Every measure of a method's maps in every situation; what it draws is the same in all. A network that the method
    refuses becomes a note.
    """
    with noted_refusal(found, name):
        for at in situations:
            for rule, target in at.targets.items():
                _read(found, case, name, method, at, rule, target, pictured)


def _read(
    found: Readings,
    case: Case,
    name: str,
    method: Attribution,
    at: Situation,
    rule: str,
    target: Tensor,
    pictured: int,
) -> None:
    condition, rows = f"{at.name}_{rule}", at.rows.to(case.device)
    if not bool(rows.any()):
        for metric in MEASURES:
            found.add(name, condition, metric, np.full(len(rows), np.nan))
        return
    maps = maps_of(case, method, at.x[rows], target[rows])
    for metric, measure in MEASURES.items():
        found.add(name, condition, metric, selected(measure(maps, at.mask[at.rows]), at.rows, len(rows)))
    if at.name == "stamped":
        _give_back(found, case, name, condition, maps, at)
    if rule == next(iter(at.targets)) and at.name != "floor" and pictured:
        found.pictures[f"{at.name}.maps.{name}"] = drawable(maps[:pictured].sum(1))


def _give_back(found: Readings, case: Case, name: str, condition: str, maps: Tensor, at: Situation) -> None:
    """Recovering: of stamped images, the strongest pixels from the clean twin."""
    mask, rows = at.mask[at.rows], at.rows.to(case.device)
    marked = leading(strengths(maps), mask.flatten(1).sum(1))
    uncovered = (mask & ~marked).flatten(1).sum(1) / mask.flatten(1).sum(1)
    mended = torch.where(marked[:, None].to(case.device), case.x[rows], at.x[rows])
    recovered = (case.logits(mended).argmax(1) == case.y[rows]).double()
    for metric, values in (("uncovered", uncovered), ("recovered", recovered)):
        found.add(name, condition, metric, selected(values, at.rows, len(rows)))


def add_galleries(found: Readings, situations: Iterable[Situation], pictured: int) -> None:
    """Images, masks and places of the first images of every situation that has maps."""
    for at in situations:
        places = at.rows.nonzero().squeeze(1)[:pictured]
        if len(places) and at.name != "floor":
            found.pictures[f"{at.name}.images"] = as_bytes(at.x[places.to(at.x.device)])
            found.pictures[f"{at.name}.masks"] = at.mask[places].to(torch.uint8).numpy()
            found.pictures[f"{at.name}.places"] = places.numpy()


def as_bytes(x: Tensor) -> Array:
    """Images in [0, 1] as uint8."""
    return (x.detach() * 255).round().to(torch.uint8).cpu().numpy()


def erased(case: Case, x: Tensor, region: Tensor, fill: Baseline) -> Tensor:
    """Images (N, C, H, W) with a region (N, H, W) bool filled."""
    blank = fill.maker(case.model, x.shape[1:], rng=case.rng("fill of an erased region"))(x)[0]
    return torch.where(region[:, None].to(x.device), blank, x)


def leading(values: Tensor, count: Tensor) -> Tensor:
    """(N, H, W) bool on the CPU: the largest of values (N, H, W), so many of each image as count (N,) says; ties go to
    the pixel that comes first.
    """
    flat = values.flatten(1).cpu()
    order = flat.argsort(stable=True, dim=1, descending=True)
    ranks = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1]).expand_as(order))
    return (ranks < count.cpu()[:, None]).view(values.shape)


def changed_region(
    change: Tensor, rows: Tensor, *, widest: float, strongest: float
) -> tuple[Tensor, float, int]:
    """Where a trigger lies, (N, H, W) bool, by how much it changes each pixel of each image, (N, H, W); and the mean
    share of the pixels that it changes of images rows (N,) bool. Where that is above `widest`, so many of those that it
    changes most, a share `strongest` of all, stand for it; their number comes last, 0 where nothing is cut.
    """
    region, pixels = change > 0, change[0].numel()
    share = float(region[rows].double().mean())
    if share <= widest:
        return region, share, 0
    size = max(1, round(strongest * pixels))
    return region & leading(change, torch.full((len(change),), size)), share, size
