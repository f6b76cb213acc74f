"""Tables of colours for many poisons: a row per defense, a column per poison, the number in the cell.

They take the place of a chart per poison where there are more poisons or cells than a reader can compare.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import seaborn as sns

from deconfound.report.charts import DOUBTED, Setting, stem
from deconfound.report.gates import has_failed
from deconfound.report.inputs import Cell, Cross, Inputs, Summary
from deconfound.report.names import DAGGER
from deconfound.report.plotting import (
    LETTER,
    ROWS,
    WIDTH,
    Figure,
    canvas,
    part_name,
    part_of,
    parts,
    save,
    shorten,
)
from deconfound.report.words import Order, budget, label

POISONS, CELLS = 2, 12  # so many poisons, or cells, still have a chart each and one table
NAME, COLUMN = 26, 20  # letters of a row's and of a column's name
BRIGHT, DARK = "#ffffff", "#000000"
EVEN = 0.179  # luminance from which black letters have the higher contrast
HEIGHT, NARROWEST = 0.185, 0.205  # inches of a cell
Placed = TypeVar("Placed", bound=Cell)
Value = tuple[float, str]  # a share in [0, 1], and what the trust gate says of it
Names = Sequence[tuple[str, str]]  # key and words of each row or column
SEEN = {"inputs": "triggered inputs", "examples": "training examples", "model": "models"}
EMPTY = " An empty cell was not measured."


@dataclass(frozen=True)
class Sheet:
    """What a table of colours shows; colours are those that colour-blind readers can tell apart."""

    kind: str
    section: str
    what: str
    caption: str
    colours: str


ASR = Sheet(
    "asr",
    "backdoor",
    "attack success rate",
    "Per cent of the triggered images that get the class which the attacker wants: 0 is best, and darker is worse.",
    "rocket_r",
)
ACCURACY = Sheet(
    "clean_accuracy",
    "backdoor",
    "clean accuracy",
    "Per cent of the untouched test images classified right: darker is better.",
    "crest",
)
DER = Sheet(
    "der",
    "backdoor",
    "defense effectiveness",
    "DER, in per cent: 50 (pale) if nothing changed against the control, 100 (blue) if a perfect attack was undone at "
    "no cost, below 50 (red) if accuracy was lost for nothing.",
    "vlag_r",
)
ROBUST = Sheet(
    "robust_accuracy",
    "cross",
    "robust accuracy",
    "Per cent of the test images that stay right under every attack, for each training set: darker is better.",
    "crest",
)
AUROC = Sheet(
    "auroc",
    "detection",
    "AUROC",
    "Chance, in per cent, that something poisoned looks more suspicious than something clean: 50 (pale) is a coin, 100 "
    "(blue) is perfect, below 50 (red) is worse than a coin.",
    "vlag_r",
)
ACCUSED = Sheet(
    "accused",
    "detection",
    "target accused",
    "Per cent of the seeds in which the scan accuses the class that the attacker wants: darker is better.",
    "crest",
)


def crowded(rows: Sequence[Summary]) -> bool:
    """Do the rows of a data set hold more poisons, or more cells, than one table can show?"""
    poisons = {row.poison for row in rows if row.metric == "asr"}
    return bool(poisons) and (len(poisons) > POISONS or len({row.group for row in rows}) > CELLS)


def crowds(inputs: Inputs) -> set[str]:
    """Data sets whose backdoors are drawn as tables of colours."""
    datasets = {row.dataset for row in inputs.summary}
    return {name for name in datasets if crowded([row for row in inputs.summary if row.dataset == name])}


def backdoor_maps(inputs: Inputs, order: Order) -> list[Figure]:
    """Attack success, clean accuracy (on clean data too) and DER of every crowded data set and model."""
    made = []
    crowd = crowds(inputs)
    for place, mine in by_place([row for row in inputs.backdoor if row.dataset in crowd], order):
        clean = {
            (row.defense, row.poison): (row.value, row.gate)
            for row in inputs.summary
            if (row.dataset, row.model) == place
            and (row.metric, row.attack, row.curve, row.poison) == ("clean_accuracy", "none", "", "clean")
        }
        for sheet in (ASR, ACCURACY, DER):
            values = {(r.defense, r.poison): (float(getattr(r, sheet.kind)), r.gate) for r in mine}
            made += draw(sheet, place, (clean if sheet is ACCURACY else {}) | values, order)
    return made


def cross_maps(inputs: Inputs, order: Order) -> list[Figure]:
    """Attack success, and per threat model robust accuracy, by training set: where one table cannot hold them."""
    made = []
    for place, rows in by_place(inputs.cross, order):
        if len({row.poison for row in rows if not math.isnan(row.asr)}) <= POISONS:
            continue
        success = {(row.defense, row.poison): (row.asr, row.gate) for row in rows}
        made += draw(replace(ASR, section="cross"), place, success, order)
        for threat in threats(rows):
            mine = [row for row in rows if (row.norm, row.eps) == threat]
            values = {(row.defense, row.poison): (row.robust_accuracy, row.gate) for row in mine}
            made += draw(ROBUST, place, values, order, within=budget(*threat))
    return made


def detection_maps(inputs: Inputs, order: Order) -> list[Figure]:
    """AUROC of detectors of examples and inputs, and accusations of scans, by poison."""
    made = []
    for place, rows in by_place([row for row in inputs.detection if row.poison != "clean"], order):
        if len({row.poison for row in rows}) <= POISONS:
            continue
        for look, seen in SEEN.items():
            mine = [row for row in rows if row.look == look]
            several = len({row.defense for row in mine}) > 1
            lines = sorted(
                {(row.detector, row.defense) for row in mine},
                key=lambda at: (at[0], order.key("defenses", at[1])),
            )
            names = [(f"{d}/{at}", words_of(d, at if several else "")) for d, at in lines]
            sheet = ACCUSED if look == "model" else AUROC
            part = "target_accused" if look == "model" else "auroc"
            values = {
                (f"{r.detector}/{r.defense}", r.poison): (float(getattr(r, part)), r.gate) for r in mine
            }
            made += draw(sheet, place, values, order, names=names, within=seen)
    return made


def words_of(detector: str, defense: str) -> str:
    """A detector, and the defense whose network it is asked about where there are several."""
    return label(detector) + (f" · {label(defense)}" if defense else "")


def by_place(rows: Sequence[Placed], order: Order) -> list[tuple[tuple[str, str], list[Placed]]]:
    """Rows by (data set, model), in the order of the configuration."""

    def key(row: Cell) -> tuple[object, ...]:
        return order.key("datasets", row.dataset), order.key("models", row.model)

    places = sorted({(key(row), (row.dataset, row.model)) for row in rows})
    return [(at, [row for row in rows if (row.dataset, row.model) == at]) for _, at in places]


def threats(rows: Sequence[Cross]) -> list[tuple[str, float]]:
    """Threat models of some rows, L∞ first."""
    return sorted({(row.norm, row.eps) for row in rows}, key=lambda at: (at[0] != "linf", at))


def draw(
    sheet: Sheet,
    place: tuple[str, str],
    values: Mapping[tuple[str, str], Value],
    order: Order,
    *,
    names: Names = (),
    within: str = "",
) -> list[Figure]:
    """Figures of as many rows and columns as one can hold; none without a number."""
    values = {at: found for at, found in values.items() if not math.isnan(found[0])}
    if not values:
        return []
    columns = sorted({at[1] for at in values}, key=lambda name: order.key("poisons", name))
    defenses = sorted({at[0] for at in values}, key=lambda name: order.key("defenses", name))
    known = names or [(name, label(name)) for name in defenses]
    lines = [(name, shorten(words, NAME)) for name, words in known if name in defenses]
    longest = max(len(words) for _, words in lines)
    fits = max(1, int((WIDTH - 0.15 - LETTER * longest) / NARROWEST))
    pieces = [(group, across) for across in parts(columns, fits) for group in parts(lines, ROWS)]
    setting: Setting = (place[0], place[1], sheet.kind)
    more = [within.replace("\N{NO-BREAK SPACE}", "_").replace("/", "_")] if within else []
    made = []
    for number, (group, across) in enumerate(pieces):
        title = " · ".join(part for part in (label(place[0]), label(place[1]), sheet.what, within) if part)
        name = stem(sheet.section, setting, *more, *part_name(number, len(pieces)))
        words = title + part_of(number, len(pieces))
        made.append(sheet_of(sheet, group, across, values, name=ascii_name(name), title=words))
    return made


def ascii_name(name: str) -> str:
    """A file name without points and symbols."""
    return name.replace("∞", "inf").replace(".", "_").replace(" ", "_")


def sheet_of(
    sheet: Sheet,
    lines: Names,
    columns: Sequence[str],
    values: Mapping[tuple[str, str], Value],
    *,
    name: str,
    title: str,
) -> Figure:
    """One figure with a scale of per cent below."""
    heads = [shorten(label(poison), COLUMN) for poison in columns]
    cells = [[values.get((key, poison), (math.nan, "")) for poison in columns] for key, _ in lines]
    numbers = np.array([[100 * value for value, _ in row] for row in cells])
    texts = [["" if math.isnan(v) else f"{100 * v:.0f}{DAGGER * has_failed(g)}" for v, g in r] for r in cells]
    figure, axes = canvas(0.85 + LETTER * max(map(len, heads)) + HEIGHT * len(lines))
    sns.heatmap(
        numbers,
        ax=axes,
        vmin=0,
        vmax=100,
        cmap=sheet.colours,
        annot=np.array(texts),
        fmt="",
        annot_kws={"fontsize": 6.5},
        cbar=False,
        linewidths=0.5,
        linecolor="none",
    )
    legible(axes)
    axes.set_yticks(np.arange(len(lines)) + 0.5, [words for _, words in lines], rotation=0, fontsize=8)
    axes.set_xticks(np.arange(len(columns)) + 0.5, heads, rotation=90, fontsize=8)
    axes.tick_params(length=0)
    bar = figure.colorbar(axes.collections[0], ax=axes, location="bottom", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_ticks([0, 50, 100], labels=["0", "50", "100 %"])
    bar.ax.tick_params(length=0, labelsize=8)
    marked = any(DAGGER in text for row in texts for text in row)
    empty = any(not text for row in texts for text in row)
    return save(
        figure,
        name=name,
        section=sheet.section,
        title=title,
        caption=sheet.caption + EMPTY * empty + DOUBTED * marked,
        alt=f"Numbers in colours, a row per defense or detector and a column per training set, for {title}; the tables "
        "have them with intervals.",
    )


def legible(axes: Any) -> None:
    """Give the number in each cell whichever of black and white stands out more from its colour."""
    mesh = axes.collections[0]
    numbers = mesh.get_array()
    for text in axes.texts:
        x, y = text.get_position()
        luminance = relative_luminance(mesh.cmap(mesh.norm(numbers[int(y), int(x)])))
        text.set_color(BRIGHT if luminance < EVEN else DARK)


def relative_luminance(colour: Sequence[float]) -> float:
    """Luminance in [0, 1] of a colour (red, green, blue, ...) in sRGB (WCAG 2)."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
