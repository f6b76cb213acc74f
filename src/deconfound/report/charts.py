"""Figures of rates: accuracy per attack, backdoor trade-off, per class, verdicts."""

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle

from deconfound.report.gates import has_failed
from deconfound.report.inputs import PerClass, Summary
from deconfound.report.matrix import NORM_ORDER, class_names, condition, condition_column, condition_key
from deconfound.report.names import DAGGER
from deconfound.report.plotting import (
    GRID,
    INK,
    Figure,
    Palette,
    canvas,
    key,
    percent_axis,
    save,
    shorten,
)
from deconfound.report.words import Order, budget, label, setting_label

Setting = tuple[str, str, str]
DOUBTED = f" A dagger ({DAGGER}): some of these numbers did not pass the trust gate."


def stem(kind: str, setting: Setting, *more: str) -> str:
    """File name of a figure, without suffix."""
    return "-".join([kind, *setting, *more]).replace("/", "_")


def doubted(rows: Sequence[Summary | PerClass]) -> set[str]:
    """Defenses with a number that did not pass the trust gate."""
    return {row.defense for row in rows if has_failed(row.gate)}


def bars(setting: Setting, rows: Sequence[Summary], palette: Palette, order: Order) -> Figure:
    """Clean and robust accuracy: a group of bars per attack, a bar per defense, a line for its interval."""
    conditions = sorted(
        {(row.attack, row.norm, row.eps) for row in rows},
        key=lambda at: (order.key("attacks", at[0]), NORM_ORDER.get(at[1], 9), at[2]),
    )
    defenses = [name for name in palette.names if any(row.defense == name for row in rows)]
    thick = 0.8 / len(defenses)
    figure, axes = canvas(1.0 + len(conditions) * (0.16 + 0.115 * len(defenses)))
    place = {at: position for position, at in enumerate(conditions)}
    for row in rows:
        y = (
            place[row.attack, row.norm, row.eps]
            + (defenses.index(row.defense) - (len(defenses) - 1) / 2) * thick
        )
        axes.barh(y, row.value, height=thick * 0.86, color=palette.colour(row.defense), linewidth=0)
        axes.plot([row.low, row.high], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
        if has_failed(row.gate):
            axes.text(row.high + 0.012, y, DAGGER, fontsize=9, va="center", clip_on=False)
    axes.set_yticks(
        range(len(conditions)),
        [f"{label(attack)}\n{budget(norm, eps)}".strip() for attack, norm, eps in conditions],
    )
    axes.set_ylim(len(conditions) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    percent_axis(axes.xaxis, "test images classified right")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)
    key(figure, palette, defenses, line=False)
    title = setting_label(setting)
    return save(
        figure,
        name=stem("evasion", setting),
        section="evasion",
        title=title,
        caption="Clean and robust accuracy under each attack; the thin line is the 95 % interval."
        + (f" A dagger ({DAGGER}): did not pass the trust gate." if doubted(rows) else ""),
        alt=f"Bars of accuracy per attack and defense for {title}; the table has the numbers.",
    )


def tradeoff(setting: Setting, rows: Sequence[Summary], palette: Palette) -> Figure:
    """Clean accuracy against attack success rate, a cross of intervals per defense; bottom right is good."""
    found = {(row.defense, row.metric): row for row in rows}
    defenses = [n for n in palette.names if (n, "asr") in found and (n, "clean_accuracy") in found]
    figure, axes = canvas(3.3)
    lows = [found[name, "clean_accuracy"].low for name in defenses]
    left = max(0.0, math.floor((min(lows, default=0.0) - 0.05) * 10) / 10)
    axes.add_patch(Rectangle((left, -0.03), 1.02 - left, 0.18, color=GRID, alpha=0.45, linewidth=0, zorder=0))
    axes.text(1.0, 0.135, "the trigger mostly fails", ha="right", va="top", fontsize=8, color=INK)
    for name in defenses:
        clean, asr = found[name, "clean_accuracy"], found[name, "asr"]
        colour = palette.colour(name)
        axes.plot([clean.low, clean.high], [asr.value] * 2, color=colour, linewidth=1.4)
        axes.plot([clean.value] * 2, [asr.low, asr.high], color=colour, linewidth=1.4)
        axes.plot(clean.value, asr.value, color=colour, marker=palette.marker(name), markersize=7)
    axes.set_xlim(left, 1.02)
    axes.set_ylim(-0.03, 1.05)
    ticks = [tick for tick in np.linspace(0, 1, 11) if tick >= left - 1e-9]
    axes.set_xticks(ticks, [f"{tick * 100:.0f}" for tick in ticks[:-1]] + ["100 %"])
    axes.set_xlabel("clean accuracy")
    percent_axis(axes.yaxis, "attack success rate")
    axes.grid()
    sns.despine(figure)
    shown = [row for row in rows if row.defense in defenses and row.metric in ("asr", "clean_accuracy")]
    key(figure, palette, defenses, line=True, doubted=doubted(shown))
    title = setting_label(setting)
    return save(
        figure,
        name=stem("backdoor", setting),
        section="backdoor",
        title=title,
        caption="What the trigger still achieves against what the model still knows; "
        "crosses are 95 % intervals. Bottom right is where a defense wants to be."
        + DOUBTED
        * bool(doubted(shown)),
        alt=f"Points of clean accuracy against attack success rate for {title}; the table has the numbers.",
    )


def per_class(setting: Setting, rows: Sequence[PerClass], palette: Palette, order: Order) -> Figure:
    """A table of colours: a row per class, a column per metric and defense, in per cent."""
    columns = sorted(
        {(condition(row), row.defense) for row in rows},
        key=lambda at: (condition_key(order)(at[0]), order.key("defenses", at[1])),
    )
    labels = class_names(rows)
    values = np.full((len(labels), len(columns)), math.nan)
    for row in rows:
        values[labels.index(row.label), columns.index((condition(row), row.defense))] = row.value
    figure, axes = canvas(1.6 + 0.21 * len(labels))
    sns.heatmap(
        values * 100,
        ax=axes,
        vmin=0,
        vmax=100,
        cmap="crest",
        annot=len(columns) <= 12,
        fmt=".0f",
        annot_kws={"fontsize": 7.5 if len(columns) <= 8 else 6.5},
        cbar=False,
        linewidths=0.5,
        linecolor="none",
    )
    axes.set_yticks(np.arange(len(labels)) + 0.5, [shorten(text, 22) for text in labels], rotation=0)
    marked = {(condition(row), row.defense) for row in rows if has_failed(row.gate)}
    heads = [shorten(label(at[1]), 22) + DAGGER * (at in marked) for at in columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, heads, rotation=40, ha="right")
    axes.tick_params(length=0)
    start = 0
    for at, group in groupby(columns, key=lambda column: column[0]):
        width = len(list(group))
        words = condition_column(at, [])
        above = textwrap.fill(
            f"{words['text']} {words['note']}".strip(), max(9, width * 5), break_long_words=False
        )
        axes.text(start + width / 2, -0.25, above, ha="center", va="bottom", fontsize=8, linespacing=1.05)
        if start:
            axes.axvline(start, color="#ffffff", linewidth=3)
        start += width
    title = setting_label(setting)
    return save(
        figure,
        name=stem("classes", setting),
        section="classes",
        title=title,
        caption="Per cent of each class, pooled over seeds; darker is higher." + DOUBTED * bool(marked),
        alt=f"Accuracy of each class under each defense for {title}; the table has the numbers.",
    )
