"""Accuracy of many defenses: a row for each with its name, a marker per attack, the interval of the worst case.

It takes the place of the bars where there are more defenses than colours, so that no defense is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import DOUBTED, Setting, doubted, stem
from deconfound.report.inputs import Summary
from deconfound.report.matrix import NORM_ORDER
from deconfound.report.names import DAGGER
from deconfound.report.plotting import (
    COLOURS,
    NEUTRAL,
    ROWS,
    Figure,
    Palette,
    canvas,
    legend,
    legend_height,
    part_name,
    part_of,
    parts,
    percent_axis,
    save,
    shorten,
)
from deconfound.report.words import Order, budget, label, setting_label

Look = Mapping[str, Any]
CLEAN, WORST = "none", "worst_case"
NAME = 44  # letters of a defense's name that stand beside its row
HEIGHT = 0.165  # inches of a row
OPEN = {"markerfacecolor": "none", "markeredgewidth": 1.0, "linestyle": ""}
LOOKS: Mapping[str, Look] = {
    CLEAN: {"marker": "o", "color": NEUTRAL, "markersize": 4.5, "zorder": 3, **OPEN},
    WORST: {"marker": "s", "color": COLOURS[0], "markersize": 4.2, "zorder": 4, "linewidth": 1.3},
}
ATTACKS = ("^", "v", "D", "x", "+", "<", ">", "p", "h")


def dots(setting: Setting, rows: Sequence[Summary], palette: Palette, order: Order) -> list[Figure]:
    """Figures of clean and robust accuracy per budget, of at most `ROWS` defenses each, in the configured order.

    `rows` are points of no curve of one setting; without a row of robust accuracy there is no figure.
    """
    budgets = sorted(
        {(row.norm, row.eps) for row in rows if row.attack != CLEAN},
        key=lambda at: (NORM_ORDER.get(at[0], 9), at),
    )
    made = []
    for norm, eps in budgets:
        mine = [row for row in rows if row.attack == CLEAN or (row.norm, row.eps) == (norm, eps)]
        defenses = [name for name in palette.names if any(row.defense == name for row in mine)]
        looks = markers(mine, order)
        groups = parts(defenses, ROWS)
        place = [f"{norm}_{eps:g}".replace(".", "_")] if len(budgets) > 1 else []
        within = budget(norm, eps)
        for number, group in enumerate(groups):
            made.append(
                dot_plot(
                    [row for row in mine if row.defense in group],
                    group,
                    looks,
                    within=within,
                    name=stem("evasion", setting, *place, *part_name(number, len(groups))),
                    title=f"{setting_label(setting)} · {within}{part_of(number, len(groups))}",
                )
            )
    return made


def markers(rows: Sequence[Summary], order: Order) -> dict[str, Look]:
    """How clean accuracy, each attack and the worst case are drawn, in this order."""
    attacks = sorted({row.attack for row in rows}, key=lambda name: order.key("attacks", name))
    single = [name for name in attacks if name not in LOOKS]
    looks: dict[str, Look] = {}
    for name in attacks:
        if name in LOOKS:
            looks[name] = LOOKS[name]
        else:
            at = single.index(name)
            colour = COLOURS[1 + at % (len(COLOURS) - 1)]
            look = {"marker": ATTACKS[at % len(ATTACKS)], "color": colour, "markersize": 3.6, "zorder": 3}
            looks[name] = look | OPEN
    return looks


def dot_plot(
    rows: Sequence[Summary],
    defenses: Sequence[str],
    looks: Mapping[str, Look],
    *,
    within: str,
    name: str,
    title: str,
) -> Figure:
    """One figure: a row per defense, in per cent of the test images."""
    words = [entry(attack) for attack in looks]
    figure, axes = canvas(0.62 + legend_height(words) + HEIGHT * len(defenses))
    for row in rows:
        y = defenses.index(row.defense)
        if row.attack == WORST:
            line = {"color": COLOURS[0], "linewidth": 1.3, "solid_capstyle": "butt", "zorder": 2.5}
            axes.plot([row.low, row.high], [y, y], **line)
        axes.plot(row.value, y, **looks[row.attack])
    marked = doubted(rows)
    heads = [shorten(label(defense), NAME) + f" {DAGGER}" * (defense in marked) for defense in defenses]
    axes.set_yticks(range(len(defenses)), heads, fontsize=8)
    axes.set_ylim(len(defenses) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)  # room for half a marker at either end
    percent_axis(axes.xaxis, "test images classified right")
    axes.grid()
    axes.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)
    legend(figure, [Line2D([], [], **look) for look in looks.values()], words, line=True)
    return save(
        figure,
        name=name,
        section="evasion",
        title=title,
        caption=f"Clean accuracy, and robust accuracy under attacks within {within}: each attack alone, and the worst "
        f"case with its 95 % interval.{DOUBTED * bool(marked)}",
        alt=f"Points of accuracy per defense and attack for {title}; the table has the numbers.",
    )


def entry(attack: str) -> str:
    """What the legend calls a marker."""
    return "clean" if attack == CLEAN else label(attack)
