"""The figure of training: loss and validation accuracy by epoch."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import Setting, stem
from deconfound.report.inputs import Run
from deconfound.report.plotting import NEUTRAL, Figure, Palette, canvas, key, save
from deconfound.report.words import label, setting_label


def histories(setting: Setting, runs: Sequence[Run], palette: Palette) -> Figure | None:
    """Training loss and validation accuracy by epoch: mean over seeds inside the range of the seeds."""
    panels = [
        (name, words)
        for name, words in (("loss", "training loss"), ("val_accuracy", "validation accuracy"))
        if any(name in entry for run in runs for entries in run.history.values() for entry in entries)
    ]
    if not panels:
        return None
    figure, grid = canvas(0.6 + 1.75 * len(panels), rows=len(panels))
    axes = np.atleast_1d(grid)
    defenses = [name for name in palette.names if any(run.defense == name for run in runs)]
    others: list[str] = []
    for axis, (name, words) in zip(axes, panels, strict=False):
        for defense in defenses:
            mine = [run for run in runs if run.defense == defense]
            for network in sorted({network for run in mine for network in run.history}):
                curve = averaged(mine, network, name)
                if not curve:
                    continue
                if network != "model" and network not in others:
                    others.append(network)
                epochs, mean, low, high = zip(*curve, strict=True)
                style = "-" if network == "model" else "--"
                axis.fill_between(epochs, low, high, color=palette.colour(defense), alpha=0.18, linewidth=0)
                axis.plot(epochs, mean, color=palette.colour(defense), linestyle=style, linewidth=1.5)
        axis.set_ylabel(words)
        axis.grid(axis="y")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[len(panels) - 1].set_xlabel("epoch")
    sns.despine(figure)
    key(figure, palette, defenses, line=False)
    if others:
        dashed = Line2D(
            [], [], color=NEUTRAL, linestyle="--", label="second network: " + ", ".join(map(label, others))
        )
        axes[0].legend(handles=[dashed], loc="upper right", fontsize=8)
    title = setting_label(setting)
    return save(
        figure,
        name=stem("history", setting),
        section="histories",
        title=title,
        caption="Mean over seeds, inside the range from the lowest to the highest seed.",
        alt=f"Training loss and validation accuracy by epoch for {title}.",
    )


def averaged(runs: Sequence[Run], network: str, name: str) -> list[tuple[float, float, float, float]]:
    """(epoch, mean, lowest, highest) over seeds, for the epochs that have the value."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for entry in run.history.get(network, ()):
            if entry.get(name) is not None:
                by_epoch.setdefault(float(entry["epoch"]), []).append(float(entry[name]))
    return [(epoch, float(np.mean(v)), min(v), max(v)) for epoch, v in sorted(by_epoch.items())]
