"""Bars across models: how much hangs on the trigger, by map and by intervention; where do(style) moves the features."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import stem
from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.plotting import (
    COLOURS,
    INK,
    NEUTRAL,
    Figure,
    canvas,
    legend,
    legend_height,
    part_name,
    part_of,
    parts,
    save,
    shorten,
)
from deconfound.report.words import Order, label, setting_label

Rows = Sequence[Interpretation]
Setting = tuple[str, str, str]
MAPS = 3  # bars per network
NETWORKS = 14  # rows of a figure
TWIN, CLEAN = "biased_", "reference_"  # beginnings of the conditions of the other networks of a run


class Network(NamedTuple):
    """A row of the figure: its words, mass ratios by map, and the rise of the attacker's logit, where it was read."""

    words: str
    ratios: Mapping[str, Interpretation]
    rise: Interpretation | None


def cells(rows: Rows, order: Order) -> dict[tuple[Setting, str], dict[str, list[Interpretation]]]:
    """Rows by setting and block, and in these by defense, in the order of the configuration."""
    found: dict[tuple[Setting, str], dict[str, list[Interpretation]]] = {}
    for row in sorted(rows, key=lambda row: (*order.cell(row.setting, row.defense), row.interpretation)):
        found.setdefault((row.setting, row.interpretation), {}).setdefault(row.defense, []).append(row)
    return found


def reliance(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """Trigger mass and insertion effect of every model of a poisoned training set, of the twins that the defenses kept,
    and of the network trained without poison.
    """
    rows = [row for row in inputs.interpretation if row.kind == "trigger_mass"]
    made = []
    for (setting, name), groups in cells(rows, order).items():
        networks, lacking = networks_of(groups)
        maps = telling(networks)
        if not maps:
            continue
        lots = parts(networks, NETWORKS)
        for number, lot in enumerate(lots):
            made.append(reliance_figure(setting, name, lot, maps, lacking, (number, len(lots))))
    return made


def networks_of(groups: Mapping[str, Rows]) -> tuple[list[Network], list[str]]:
    """The networks that were read, and what is said of those that were not."""
    found, reference, twins = [], None, 0
    for defense, rows in groups.items():
        own = network(rows, "", label(defense))
        found += [own] if own else []
        if twin := network(rows, TWIN, "its biased twin"):
            found.append(twin)
            twins += 1
        reference = reference or network(rows, CLEAN, "trained without poison")
    lacking = [] if twins else ["no biased twin (f_B) was kept"]
    lacking += [] if reference else ["no network without poison (R) was asked for"]
    return [*found, *([reference] if reference else [])], lacking


def network(rows: Rows, start: str, words: str) -> Network | None:
    """The readings whose conditions begin so; None where there are none."""
    ratios = {
        row.subject: row
        for row in rows
        if (row.condition, row.metric) == (f"{start}stamped_hoped", "ratio") and math.isfinite(row.value)
    }
    rises = [
        row
        for row in rows
        if (row.subject, row.condition, row.metric) == ("trigger", f"{start}inserted", "hoped_logit")
        and math.isfinite(row.value)
    ]
    return Network(words, ratios, rises[0] if rises else None) if ratios else None


def telling(networks: Sequence[Network]) -> list[str]:
    """The maps that see the trigger best: the highest ratio in any network, at most three; in their own order."""
    best: dict[str, float] = {}
    for one in networks:
        for subject, row in one.ratios.items():
            best[subject] = max(row.value, best.get(subject, 0.0))
    return sorted(sorted(best, key=lambda subject: -best[subject])[:MAPS], key=subject_key)


def reliance_figure(
    setting: Setting,
    name: str,
    networks: Sequence[Network],
    maps: Sequence[str],
    lacking: Sequence[str],
    part: tuple[int, int],
) -> Figure:
    """A row per network, a bar per map; on the right the intervention."""
    words = [subject_words(subject) for subject in maps]
    height = 0.75 + (0.14 + 0.1 * len(maps)) * len(networks) + legend_height(words)
    figure, axes = canvas(height, columns=2, sharey=True, width_ratios=(3, 2))
    thick = 0.8 / len(maps)
    for place, one in enumerate(networks):
        for turn, subject in enumerate(maps):
            y = place + (turn - (len(maps) - 1) / 2) * thick
            bar(axes[0], one.ratios.get(subject), y, thick * 0.86, COLOURS[turn])
        bar(axes[1], one.rise, place, 0.5, NEUTRAL)
    axes[0].axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes[1].axvline(0, color=INK, linewidth=0.8)
    axes[0].set_xlabel("trigger mass ratio")
    axes[1].set_xlabel("rise of the\nattacker's logit")
    axes[0].set_yticks(range(len(networks)), [shorten(one.words, 24) for one in networks])
    axes[0].set_ylim(len(networks) - 0.45, -0.55)
    finish(figure, axes)
    squares = [Line2D([], [], color=COLOURS[i], marker="s", linestyle="") for i in range(len(maps))]
    legend(figure, squares, words, line=False)
    where = setting_label(setting)
    missing = f" Not here: {'; '.join(lacking)}." if lacking else ""
    return save(
        figure,
        name=stem("reliance", setting, name, *part_name(*part)),
        section="trigger_mass",
        title=f"{where}: how much hangs on the trigger{part_of(*part)}",
        caption="Left, what maps of the attacker's class say of images with the trigger: how much more of the map lies "
        "on the trigger than its share of the area (dotted: 1, no preference), for the maps that see it best. Right, "
        "what the intervention says: how far the attacker's logit rises when the trigger is put in. A defense that "
        "worked is short on both sides, like a network trained without poison. Thin lines: 95 % intervals; logits of "
        f"two networks have no common scale, so compare their length loosely.{missing}",
        alt=f"Bars of trigger mass ratio per map and of the rise of the attacker's logit, a row per network, for "
        f"{where}; the table has the numbers.",
    )


def bar(axis: Any, row: Interpretation | None, y: float, height: float, colour: str) -> None:
    """A bar from 0 with its interval; nothing where there is no number."""
    if row is None:
        return
    axis.barh(y, row.value, height=height, color=colour, linewidth=0)
    if math.isfinite(row.low) and math.isfinite(row.high):
        axis.plot([row.low, row.high], [y, y], color=INK, linewidth=1.0, solid_capstyle="butt")


def finish(figure: Any, axes: Sequence[Any]) -> None:
    """Grid lines across rows that have names but no ticks."""
    for axis in axes:
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)


SPLITS = {"defense": "the defense's own split", "head": "the head's split"}


def displacement(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """Of every model of a training set the parts of the features' change under do(style), beside chance and beside a
    change of the label.
    """
    rows = [
        row
        for row in inputs.interpretation
        if row.kind == "style_dependence" and row.metric == "style_share" and math.isfinite(row.value)
    ]
    made = []
    for (setting, name), groups in cells(rows, order).items():
        known = {
            defense: {(row.subject, row.condition): row for row in mine} for defense, mine in groups.items()
        }
        known = {defense: mine for defense, mine in known.items() if any(at[1] == "do_style" for at in mine)}
        lots = parts(list(known), 2 * NETWORKS)
        for number, lot in enumerate(lots):
            chosen = {defense: known[defense] for defense in lot}
            made.append(displacement_figure(setting, name, chosen, (number, len(lots))))
    return made


def displacement_figure(
    setting: Setting,
    name: str,
    known: Mapping[str, Mapping[tuple[str, str], Interpretation]],
    part: tuple[int, int],
) -> Figure:
    """A row per model, a panel per split."""
    splits = [split for split in SPLITS if any((split, "do_style") in mine for mine in known.values())]
    words = ["style part", "content part", "a random direction", "another label, same style"]
    figure, axes = canvas(
        0.9 + 0.24 * len(known) + legend_height(words), columns=len(splits), sharey=True, squeeze=False
    )
    for axis, split in zip(axes[0], splits, strict=True):
        for y, mine in enumerate(known.values()):
            if found := mine.get((split, "do_style")):
                axis.barh(y, 1, height=0.6, color=COLOURS[0], alpha=0.35, linewidth=0)
                bar(axis, found, y, 0.6, COLOURS[1])
            if chance := mine.get((split, "chance")):
                axis.plot([chance.value] * 2, [y - 0.42, y + 0.42], color=INK, linewidth=1.2, linestyle=":")
            if other := mine.get((split, "other_label")):
                axis.plot(other.value, y, color=INK, marker="D", markersize=4, linestyle="")
        axis.set_title(SPLITS[split], fontsize=8.5)
        axis.set_xlim(-0.02, 1.06)
        axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
    figure.supxlabel("share of the squared change of the features", fontsize=9)
    axes[0][0].set_yticks(range(len(known)), [shorten(label(defense), 26) for defense in known])
    axes[0][0].set_ylim(len(known) - 0.45, -0.55)
    finish(figure, axes[0])
    handles = [
        Line2D([], [], color=COLOURS[1], marker="s", linestyle=""),
        Line2D([], [], color=COLOURS[0], alpha=0.35, marker="s", linestyle=""),
        Line2D([], [], color=INK, linestyle=":"),
        Line2D([], [], color=INK, marker="D", markersize=4, linestyle=""),
    ]
    legend(figure, handles, words, line=False)
    where = setting_label(setting)
    return save(
        figure,
        name=stem("displacement", setting, name, *part_name(*part)),
        section="style_dependence",
        title=f"{where}: the part in which the features move under do(style){part_of(*part)}",
        caption="A bar is the whole squared change of the features when the ground is drawn anew and the object stays, "
        "parted into style and content. It tells something only beside its controls: a random direction (dotted) has "
        "that share by size alone, and a change of the label (diamond) should lie in the content part. So a split that "
        "knows the style has its bar right of the diamond; and a defense that uses it differs from its placebo, in the "
        "row beside it. Thin lines: 95 % intervals.",
        alt=f"Bars of the style part of the features' change under do(style), a row per model, for {where}; the table "
        "has the numbers.",
    )
