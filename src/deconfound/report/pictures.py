"""Example images and training histories."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from deconfound.report.charts import Setting, stem
from deconfound.report.plotting import INK, WIDTH, Figure, canvas, save, shorten
from deconfound.report.words import Order, label, setting_label
from deconfound.storage import read_npz

Array = NDArray[Any]
COLUMNS = 6  # examples side by side
ROWS = 6  # perturbed versions of one set of examples
PREFERRED = ("pgd", "pgd_margin", "apgd")  # whose images to show when several attacks were kept
WRONG = "#c2410c"
OUTLINE = "#00a651"  # stands out from red, blue and grey


def evasion_examples(paths: Sequence[Path], order: Order) -> list[Figure]:
    """A figure per setting: originals, then for each defense (or attack) the perturbation and the result."""

    def place(path: Path) -> tuple[str, ...]:
        return tuple(path.parts[-6:-1]) + (path.stem,)

    found = sorted(
        (place(path), path) for path in paths if len(path.parts) >= 6 and path.parts[-2].startswith("seed")
    )
    figures = []
    for setting, group in groupby(found, key=lambda item: item[0][:3]):
        items = list(group)
        seed = min((at[4] for at, _ in items), key=lambda text: int(re.sub(r"\D", "", text) or 0))
        chosen = [(at[3], at[5], path) for at, path in items if at[4] == seed]
        if len({defense for defense, _, _ in chosen}) > 1:
            attacks = {attack for _, attack, _ in chosen}
            attack = next((name for name in PREFERRED if name in attacks), min(attacks))
            chosen = [item for item in chosen if item[1] == attack]
        chosen.sort(key=lambda item: (order.key("defenses", item[0]), order.key("attacks", item[1])))
        figures.append(_evasion_figure((setting[0], setting[1], setting[2]), seed, chosen[:ROWS]))
    return figures


def _evasion_figure(setting: Setting, seed: str, chosen: Sequence[tuple[str, str, Path]]) -> Figure:
    rows: list[tuple[str, list[Array], list[tuple[str, str]]]] = []
    picks: Array | None = None
    attacks = {attack for _, attack, _ in chosen}
    for defense, attack, path in chosen:
        data = read_npz(path, "x_adv", "x", "y", "before", "after", "classes")
        names = [str(name) for name in data["classes"]]
        if picks is None:
            picks = varied(data["y"], np.ones(len(data["y"]), dtype=bool))
            rows.append(
                (
                    "original",
                    [upright(data["x"][i]) for i in picks],
                    [(names[data["y"][i]], INK) for i in picks],
                )
            )
        picks = picks[picks < len(data["y"])]
        words = label(defense) if len(attacks) == 1 else f"{label(defense)}, {label(attack)}"
        change = [upright(data["x_adv"][i]) - upright(data["x"][i]) for i in picks]
        scale = magnification(change)
        rows.append((f"{words}: {magnified(scale)}", [0.5 + scale * part for part in change], []))
        rows.append(
            (
                f"{words}: attacked, and what it sees",
                [upright(data["x_adv"][i]) for i in picks],
                [
                    (
                        f"{names[data['before'][i]]} → {names[data['after'][i]]}",
                        INK if data["after"][i] == data["y"][i] else WRONG,
                    )
                    for i in picks
                ],
            )
        )
    title = setting_label(setting)
    under = f" under {label(next(iter(attacks)))}" if len(attacks) == 1 else ""
    return save(
        mosaic(rows),
        name=stem("examples", setting),
        section="examples",
        title=f"{title}{under}, {seed}",
        caption="Test images with their true class; below, the change that was made "
        "(magnified, grey is no change), and the prediction before and after it, in red where it is wrong.",
        alt=f"Example images for {title}: original, magnified perturbation, adversarial image.",
    )


def backdoor_examples(poisoned: Sequence[Path], clean: Mapping[str, Path], order: Order) -> list[Figure]:
    """A figure per dataset and poison: clean test images, what the trigger changes, and triggered images."""
    figures = []
    seen: set[tuple[str, str]] = set()
    for path in sorted(poisoned, key=lambda p: (p.parts[-3:-1], int(re.sub(r"\D", "", p.stem) or 0))):
        dataset, poison = path.parts[-3:-1]
        if (dataset, poison) in seen or dataset not in clean:
            continue
        seen.add((dataset, poison))
        data = read_npz(path, "test_x", "test_y", "classes")
        test = read_npz(clean[dataset], "x", "y")
        names = [str(name) for name in data["classes"]]
        picks = varied(test["y"], test["y"] != data["test_y"])
        before = [upright(test["x"][i]) for i in picks]
        after = [upright(data["test_x"][i]) for i in picks]
        change = [b - a for a, b in zip(before, after, strict=True)]
        scale = magnification(change)
        rows = [
            ("clean", before, [(names[test["y"][i]], INK) for i in picks]),
            (magnified(scale), [0.5 + scale * part for part in change], []),
            (
                "triggered, and what the attacker hopes for",
                after,
                [(f"→ {names[data['test_y'][i]]}", WRONG) for i in picks],
            ),
        ]
        figures.append(
            save(
                mosaic(rows),
                name=stem("trigger", (dataset, poison, path.stem)),
                section="examples",
                title=f"{label(dataset)} · {label(poison)}, {path.stem}",
                caption="What the poison does to test images "
                "(true class above; the change on grey; the class the attacker hopes for below).",
                alt=f"Example images of {label(dataset)}: clean, change, triggered by {label(poison)}.",
            )
        )
    return figures


def varied(y: Array, allowed: Array) -> Array:
    """Indices of up to COLUMNS examples, of as many different classes as there are; the first of each."""
    candidates = np.flatnonzero(allowed)
    order: list[int] = []
    turn: dict[int, int] = {}
    for index in candidates:
        turn[int(y[index])] = turn.get(int(y[index]), -1) + 1
        order.append(turn[int(y[index])])
    ranked = candidates[np.lexsort((y[candidates], np.array(order, dtype=np.int64)))]
    return np.asarray(np.sort(ranked[:COLUMNS]))


def upright(image: Array) -> Array:
    """(C, H, W) uint8 or float in [0, 1] to (H, W, 3) float64; one channel becomes grey."""
    value = image.astype(np.float64) / (255.0 if image.dtype == np.uint8 else 1.0)
    channels = np.moveaxis(value, 0, -1)
    return np.repeat(channels, 3, axis=-1) if channels.shape[-1] == 1 else channels[..., :3]


def magnification(changes: Sequence[Array]) -> float:
    """Factor that takes the largest change to the end of the grey scale."""
    largest = max((float(np.abs(part).max()) for part in changes), default=0.0)
    return min(0.5 / largest, 50.0) if largest > 0 else 1.0


def magnified(scale: float) -> str:
    """Words for a factor: nothing to say where large changes were not enlarged."""
    return f"change × {scale:.2g}" if scale > 1 else "change"


def mosaic(
    rows: Sequence[tuple[str, list[Array], list[tuple[str, str]]]],
    masks: Mapping[tuple[int, int], Array] | None = None,
    *,
    columns: int = COLUMNS,
) -> Any:
    """Rows of images with a title above each row that has one and, where given, coloured words below each image. masks:
    regions (H, W) bool, drawn as outlines, of images by (row, column). columns: images that fit side by side.
    """
    small = COLUMNS / columns  # an image, beside one of a figure of COLUMNS; words keep their size
    cell, title, words = 1.0, 0.3 / small, 0.24 / small
    height = sum(cell + title * bool(name) + (words if names else 0.04) for name, _, names in rows)
    inch = WIDTH / (columns * 1.06)
    figure, axes = canvas(height * inch)
    axes.set_xlim(0, columns * 1.06)
    axes.set_ylim(height, 0)
    axes.axis("off")
    top = 0.0
    for number, (heading, images, names) in enumerate(rows):
        axes.text(0, top + title * 0.8, heading, fontsize=8.5, va="baseline")
        top += title * bool(heading)
        for column, image in enumerate(images):
            left = column * 1.06
            axes.imshow(
                enlarge(image), extent=(left, left + cell, top + cell, top), interpolation="none", zorder=2
            )
            if masks and (number, column) in masks:
                axes.add_patch(outline(masks[number, column], left, top))
        for column, (text, colour) in enumerate(names):
            axes.text(
                column * 1.06 + cell / 2,
                top + cell + words * 0.72,
                shorten(text, round(13 * small)),
                fontsize=6.5 if small < 1 else 7 if len(text) > 9 else 8,
                color=colour,
                ha="center",
            )
        top += cell + (words if names else 0.04)
    axes.set_aspect("auto")
    return figure


def outline(mask: Array, left: float, top: float) -> PathPatch:
    """The border of a region (H, W) bool in a picture one wide and high, whose upper left corner is given."""
    height, width = mask.shape
    inside = np.pad(mask, 1)
    upright_edges = zip(*np.nonzero(inside[1:, 1:] != inside[1:, :-1]), strict=True)
    level_edges = zip(*np.nonzero(inside[1:, 1:] != inside[:-1, 1:]), strict=True)
    ends = [((x, y), (x, y + 1)) for y, x in upright_edges] + [((x, y), (x + 1, y)) for y, x in level_edges]
    points = [(left + x / width, top + y / height) for edge in ends for x, y in edge]
    path = Outline(points or [(left, top)], [Outline.MOVETO, Outline.LINETO] * len(ends) or [Outline.MOVETO])
    return PathPatch(path, edgecolor=OUTLINE, facecolor="none", linewidth=1.0, zorder=3)


def enlarge(image: Array) -> Array:
    """Repeat pixels to at least 96 a side, so that no viewer blurs a small image; (H, W, 3) uint8."""
    times = max(1, -(-96 // max(image.shape[:2])))
    pixels = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    return np.asarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
