"""The figure of training: loss and validation accuracy by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import Setting, stem
from deconfound.report.inputs import Run
from deconfound.report.plotting import (
    FEW,
    NEUTRAL,
    Figure,
    Palette,
    canvas,
    key,
    legend_height,
    part_name,
    part_of,
    parts,
    save,
)
from deconfound.report.words import label, setting_label


def histories(setting: Setting, runs: Sequence[Run], palette: Palette) -> list[Figure]:
    """Training loss and validation accuracy by epoch, in figures of as many defenses as a legend holds. Accuracies
    share one axis over these figures; losses do not, since those of different methods are different quantities.
    """
    panels = [
        (name, words)
        for name, words in (("loss", "training loss"), ("val_accuracy", "validation accuracy"))
        if any(name in entry for run in runs for entries in run.history.values() for entry in entries)
    ]
    if not panels:
        return []
    defenses = [name for name in palette.names if any(run.defense == name for run in runs)]
    groups = parts(defenses, FEW)
    if len(groups) == 1:
        return [history(setting, runs, palette, defenses, panels)]
    rates = [
        float(entry["val_accuracy"])
        for run in runs
        for entries in run.history.values()
        for entry in entries
        if entry.get("val_accuracy") is not None
    ]
    made = []
    for number, group in enumerate(groups):
        mine = [run for run in runs if run.defense in group]
        at = (number, len(groups))
        made.append(history(setting, mine, palette.among(group), group, panels, part=at, rates=rates))
    return made


def history(
    setting: Setting,
    runs: Sequence[Run],
    palette: Palette,
    defenses: Sequence[str],
    panels: Sequence[tuple[str, str]],
    *,
    part: tuple[int, int] = (0, 1),
    rates: Sequence[float] = (),
) -> Figure:
    """One figure: mean over seeds inside the range of the seeds. `part` is its number and that of all; where it is one
    of several, `rates` are the accuracies of all and every entry of the legend stands above the axes.
    """
    alone = part[1] == 1
    dashed = second(runs, defenses, panels)
    names = [*map(label, defenses), *(str(line.get_label()) for line in dashed)]
    figure, grid = canvas(0.6 + 1.75 * len(panels) + (0 if alone else legend_height(names)), rows=len(panels))
    axes = np.atleast_1d(grid)
    for axis, (name, words) in zip(axes, panels, strict=False):
        for defense in defenses:
            lines(axis, [run for run in runs if run.defense == defense], name, palette.colour(defense))
        axis.set_ylabel(words)
        axis.grid(axis="y")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if name == "val_accuracy" and rates:
            room = 0.04 * (max(rates) - min(rates) or 1.0)
            axis.set_ylim(min(rates) - room, max(rates) + room)
    axes[len(panels) - 1].set_xlabel("epoch")
    sns.despine(figure)
    key(figure, palette, defenses, line=False, more=[] if alone else dashed)
    if alone and dashed:
        axes[0].legend(handles=dashed, loc="upper right", fontsize=8)
    title = setting_label(setting) + part_of(*part)
    return save(
        figure,
        name=stem("history", setting, *part_name(*part)),
        section="histories",
        title=title,
        caption="Mean over seeds, inside the range from the lowest to the highest seed."
        + ("" if alone else " The axis of the accuracy is the same in all parts, that of the loss is not."),
        alt=f"Training loss and validation accuracy by epoch for {title}.",
    )


def second(runs: Sequence[Run], defenses: Sequence[str], panels: Sequence[tuple[str, str]]) -> list[Line2D]:
    """What the legend says of dashed lines: the networks beside the model that have a curve; nothing without any."""
    drawn = []
    for name, _ in panels:
        for defense in defenses:
            mine = [run for run in runs if run.defense == defense]
            drawn += [n for n in networks(mine) if n != "model" and averaged(mine, n, name)]
    if not drawn:
        return []
    words = "second network: " + ", ".join(map(label, dict.fromkeys(drawn)))
    return [Line2D([], [], color=NEUTRAL, linestyle="--", label=words)]


def networks(runs: Sequence[Run]) -> list[str]:
    """Networks with a history, by name."""
    return sorted({network for run in runs for network in run.history})


def lines(axis: Any, runs: Sequence[Run], name: str, colour: str) -> None:
    """The curves of one defense: its network drawn through, any other dashed."""
    for network in networks(runs):
        curve = averaged(runs, network, name)
        if curve:
            epochs, mean, low, high = zip(*curve, strict=True)
            style = "-" if network == "model" else "--"
            axis.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(epochs, mean, color=colour, linestyle=style, linewidth=1.5)


def averaged(runs: Sequence[Run], network: str, name: str) -> list[tuple[float, float, float, float]]:
    """(epoch, mean, lowest, highest) over seeds, for the epochs that have the value."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for entry in run.history.get(network, ()):
            if entry.get(name) is not None:
                by_epoch.setdefault(float(entry["epoch"]), []).append(float(entry[name]))
    return [(epoch, float(np.mean(v)), min(v), max(v)) for epoch, v in sorted(by_epoch.items())]
