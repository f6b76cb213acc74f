"""Sheets of pictures: rows of images and of signed maps with one colour scale, for all kinds that leave pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from deconfound.report.interpretation.files import Array
from deconfound.report.pictures import COLUMNS, WRONG, magnification, magnified, mosaic, upright
from deconfound.report.plotting import INK, Figure, save

COLOURS = "RdBu_r"  # blue below zero, white at zero, red above
Words = tuple[str, str]  # text and colour


@dataclass(frozen=True)
class Strip:
    """A row of a sheet. images (n, C, H, W), uint8 or float in [0, 1]; or maps (n, H, W), signed, where `signed`: then
    all strips of the sheet that belong to the same image share one colour scale. masks (n, H, W) bool: outlines.
    """

    title: str
    images: Array
    words: Sequence[Words] = ()
    signed: bool = False
    masks: Array | None = None


@dataclass(frozen=True)
class Sheet:
    """A figure of strips. unit: of the maps; ends: what the colours mean; alone: every map has its own scale, else the
    maps of an image share one. columns: images side by side.
    """

    name: str
    section: str
    title: str
    caption: str
    strips: Sequence[Strip]
    unit: str = ""
    ends: tuple[str, str] = ("lowers", "raises")
    alone: bool = False
    columns: int = COLUMNS


def change(title: str, before: Array, after: Array) -> Strip:
    """What was added to images, magnified around grey."""
    parts = [upright(b) - upright(a) for a, b in zip(before, after, strict=True)]
    scale = magnification(parts[:COLUMNS])
    shown = np.stack([np.moveaxis(np.clip(0.5 + scale * part, 0, 1), -1, 0) for part in parts])
    return Strip(f"{title}: {magnified(scale)}", shown)


def said(classes: Sequence[str], predicted: Array, truth: Array) -> list[Words]:
    """Predictions below images, in red where they are wrong."""
    return [
        (classes[int(p)], INK if int(p) == int(t) else WRONG) for p, t in zip(predicted, truth, strict=True)
    ]


def named(classes: Sequence[str], labels: Array) -> list[Words]:
    """Labels below images."""
    return [(classes[int(place)], INK) for place in labels]


def drawn(sheet: Sheet) -> Figure:
    """The figure; without maps it has no colour scale."""
    limits = scale_of(sheet.strips)
    rows: list[tuple[str, list[Array], list[Words]]] = []
    masks: dict[tuple[int, int], Array] = {}
    for number, strip in enumerate(sheet.strips):
        count = min(sheet.columns, len(strip.images))
        if strip.signed:
            own = scale_of([strip]) if sheet.alone else limits
            images = [coloured(strip.images[i], own[i]) for i in range(count)]
        else:
            images = [upright(strip.images[i]) for i in range(count)]
        rows.append((strip.title, images, list(strip.words)[:count]))
        if strip.masks is not None:
            masks |= {(number, i): np.asarray(strip.masks[i], bool) for i in range(count)}
    last = max((n for n, strip in enumerate(sheet.strips) if strip.signed), default=None)
    if last is not None and not sheet.alone:
        below = [(f"±{limit:.2g}", INK) for limit in limits[: len(rows[last][1])]]
        rows[last] = (rows[last][0], rows[last][1], list(rows[last][2]) or below)
    figure = mosaic(rows, masks, columns=sheet.columns)
    if last is not None:
        scale(figure, sheet)
    words = f"{sheet.title}: " + "; ".join(strip.title for strip in sheet.strips if strip.title)
    return save(
        figure, name=sheet.name, section=sheet.section, title=sheet.title, caption=sheet.caption, alt=words
    )


def scale(figure: Any, sheet: Sheet) -> None:
    """The colour scale below the pictures: from minus to plus the limit that stands below each image."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), COLOURS), ax=figure.axes[0], location="bottom", aspect=40, pad=0.01
    )
    bar.outline.set_visible(False)
    unit = f" ({sheet.unit})" if sheet.unit else ""
    bar.set_ticks([-1, 0, 1], labels=[f"− limit: {sheet.ends[0]}", "0", f"{sheet.ends[1]}: + limit{unit}"])
    left, _, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    bar.ax.tick_params(length=0, labelsize=7.5)


def scale_of(strips: Sequence[Strip]) -> Array:
    """Per image the largest absolute value of its maps in all strips (n,)."""
    maps = [strip.images for strip in strips if strip.signed]
    if not maps:
        return np.ones(COLUMNS)
    count = max(len(part) for part in maps)
    limits = np.zeros(count)
    for part in maps:
        limits[: len(part)] = np.maximum(limits[: len(part)], np.abs(part).reshape(len(part), -1).max(1))
    return limits


def coloured(values: Array, limit: float) -> Array:
    """A signed map (H, W) as (H, W, 3) in [0, 1]; white where the limit is 0."""
    part = np.clip(values / limit, -1, 1) if limit > 0 else np.zeros_like(values)
    return np.asarray(matplotlib.colormaps[COLOURS](0.5 + 0.5 * part.astype(np.float64))[..., :3])


def by_start(arrays: Mapping[str, Array], start: str) -> dict[str, Array]:
    """Arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
