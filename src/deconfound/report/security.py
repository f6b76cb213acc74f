"""The figures of security curves: robust accuracy over the budget, and over the steps of an attack."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns

from deconfound.report.charts import DOUBTED, Setting, doubted, stem
from deconfound.report.inputs import Summary
from deconfound.report.plotting import Figure, Palette, canvas, key, percent_axis, save
from deconfound.report.words import budget, label, radius, setting_label

GROWS = {"eps": "as its budget grows", "steps": "as it takes more steps"}


def curves(setting: Setting, at: tuple[str, str, str], rows: Sequence[Summary], palette: Palette) -> Figure:
    """Robust accuracy of an attack over an axis, `at` = (attack, norm, axis): a line per defense inside the band of its
    interval. Radii stand at their place, steps (which grow by factors) at equal distances.
    """
    attack, norm, axis = at
    figure, axes = canvas(3.1)
    defenses = [name for name in palette.names if any(row.defense == name for row in rows)]
    ticks = sorted({point(row) for row in rows})
    places = {tick: tick if axis == "eps" else float(number) for number, tick in enumerate(ticks)}
    for name in defenses:
        points = sorted((row for row in rows if row.defense == name), key=point)
        x, colour = [places[point(row)] for row in points], palette.colour(name)
        low, high = [row.low for row in points], [row.high for row in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        values, marker = [row.value for row in points], palette.marker(name)
        axes.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.6)
    axes.set_xticks(
        [places[tick] for tick in ticks], [radius(t) if axis == "eps" else f"{t:g}" for t in ticks]
    )
    if axis == "eps" and crowded(ticks):
        axes.tick_params(axis="x", labelrotation=60)
    axes.set_ylim(0, 1.02)
    within = sorted({budget(row.norm, row.eps) for row in rows})
    axes.set_xlabel(f"eps ({label(norm)}, pixel units)" if axis == "eps" else f"steps ({', '.join(within)})")
    percent_axis(axes.yaxis, "robust accuracy")
    axes.grid(axis="y")
    sns.despine(figure)
    key(figure, palette, defenses, line=True, doubted=doubted(rows))
    title = setting_label(setting)
    return save(
        figure,
        name=stem("curve", setting, attack, norm, *(["steps"] if axis == "steps" else [])),
        section="curves",
        title=title,
        caption=f"Robust accuracy against {label(attack)} {GROWS[axis]}; bands are 95 % intervals."
        + DOUBTED * bool(doubted(rows)),
        alt=f"Lines of robust accuracy over {axis} for {title}, one per defense; the table has the numbers.",
    )


def point(row: Summary) -> float:
    """Place of a row on the axis of its curve."""
    return float(row.steps) if row.curve == "steps" else row.eps


def crowded(ticks: Sequence[float]) -> bool:
    """Do the labels of some places need to be turned?"""
    return len(ticks) > 7 or bool(min(np.diff(ticks), default=1.0) < 0.09 * (ticks[-1] - ticks[0]))
