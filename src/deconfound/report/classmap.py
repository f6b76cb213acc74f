"""Rates per class of many defenses: a table of colours with a row per defense and a column per class.

It takes the place of the table with a column per defense where there are more defenses than fit side by side.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns

from deconfound.report.charts import DOUBTED, Setting, doubted, stem
from deconfound.report.inputs import PerClass
from deconfound.report.matrix import Condition, class_names, condition, condition_column, condition_key
from deconfound.report.names import DAGGER
from deconfound.report.plotting import (
    LETTER,
    ROWS,
    WIDTH,
    Figure,
    Palette,
    canvas,
    part_name,
    part_of,
    parts,
    save,
    shorten,
)
from deconfound.report.words import Order, label, setting_label

NAME = 44  # letters of a defense's name that stand beside its row
CLASS = 22  # letters of a class's name that stand below its column
HEIGHT = 0.165  # inches of a row
CELL = 0.09  # inches: the narrowest column whose name can be read
STEPS = 20  # shades of the scale
Panels = Sequence[tuple[Condition, Sequence[PerClass]]]


def class_maps(setting: Setting, rows: Sequence[PerClass], palette: Palette, order: Order) -> list[Figure]:
    """Figures of every condition but the clean accuracy, which stands beside the others where it fits; each of at most
    `ROWS` defenses and of as many classes as its width has room for. `rows` are those of one setting.
    """
    defenses = [name for name in palette.names if any(row.defense == name for row in rows)]
    conditions = sorted({condition(row) for row in rows}, key=condition_key(order))
    clean = [at for at in conditions if at.metric == "clean_accuracy"]
    others = [at for at in conditions if at not in clean]
    fits = room(defenses)
    made = []
    for at in others or clean:
        labels = class_names([row for row in rows if condition(row) == at])
        beside = clean if others and (1 + len(clean)) * len(labels) <= fits else []
        pieces = [(group, columns) for columns in parts(labels, fits) for group in parts(defenses, ROWS)]
        place = ["_".join(part for part in at[:3] if part) + f"_{at.eps:g}"] if len(others) > 1 else []
        for number, (group, columns) in enumerate(pieces):
            panels = [
                (where, [row for row in rows if condition(row) == where and row.defense in group])
                for where in [*beside, at]
            ]
            name = stem("classes", setting, *place, *part_name(number, len(pieces)))
            title = setting_label(setting) + part_of(number, len(pieces))
            made.append(class_map(panels, group, columns, name=name.replace(".", "_"), title=title))
    return made


def room(defenses: Sequence[str]) -> int:
    """Columns that fit beside the names of the defenses."""
    longest = max(len(shorten(label(name), NAME)) for name in defenses) + len(DAGGER) + 1
    return max(1, int((WIDTH - 0.1 - LETTER * longest) / CELL))


def class_map(
    panels: Panels, defenses: Sequence[str], labels: Sequence[str], *, name: str, title: str
) -> Figure:
    """One figure: the conditions side by side, a scale of per cent below."""
    long = max(map(len, labels)) > 2
    below = LETTER * min(CLASS, max(map(len, labels))) if long else 0.1
    figure, grid = canvas(
        1.15 + below + HEIGHT * len(defenses), columns=len(panels), sharey=True, squeeze=False
    )
    width = (WIDTH - LETTER * max(len(shorten(label(d), NAME)) for d in defenses)) / len(panels)
    shown = [row for _, rows in panels for row in rows if row.label in labels]
    marked = doubted(shown)
    for axes, (at, rows) in zip(grid[0], panels, strict=True):
        mesh = colours(axes, rows, defenses, labels)
        axes.set_xticks(
            np.arange(len(labels)) + 0.5,
            [shorten(text, CLASS) for text in labels],
            rotation=90 if long else 0,
            fontsize=7,
        )
        words = condition_column(at, [])
        text = f"{words['text']} {words['note']}".strip()
        axes.set_title(textwrap.fill(text, max(9, int(width / LETTER)), break_long_words=False), fontsize=8)
        axes.tick_params(length=0)
    heads = [shorten(label(defense), NAME) + f" {DAGGER}" * (defense in marked) for defense in defenses]
    grid[0, 0].set_yticks(np.arange(len(defenses)) + 0.5, heads, rotation=0, fontsize=8)
    bar = figure.colorbar(
        mesh,
        ax=grid[0].tolist(),
        location="bottom",
        aspect=24,
        pad=0.02,
        boundaries=np.linspace(0, 100, STEPS + 1),
    )
    bar.outline.set_visible(False)
    bar.set_ticks([0, 50, 100], labels=["0", "50", "100 %"])
    bar.ax.tick_params(length=0, labelsize=8)
    return save(
        figure,
        name=name,
        section="classes",
        title=title,
        caption=f"Per cent of each class, pooled over seeds; darker is higher.{DOUBTED * bool(marked)}",
        alt=f"Rates of each class under each defense for {title}; the table has the numbers.",
    )


def colours(axes: Any, rows: Sequence[PerClass], defenses: Sequence[str], labels: Sequence[str]) -> Any:
    """Draw the cells of one condition; a cell without a number stays empty. Returns what the scale reads."""
    values = np.full((len(defenses), len(labels)), math.nan)
    for row in rows:
        if row.label in labels:
            values[defenses.index(row.defense), labels.index(row.label)] = row.value * 100
    sns.heatmap(values, ax=axes, vmin=0, vmax=100, cmap="crest", cbar=False, linewidths=0.4, linecolor="none")
    return axes.collections[0]
