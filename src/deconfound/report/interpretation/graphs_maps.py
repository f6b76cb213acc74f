"""Charts of maps, units and gradients of one run."""

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import stem
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.graphs import finite, title_of
from deconfound.report.interpretation.graphs_points import FEWEST, said, spearman
from deconfound.report.interpretation.strips import by_start
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.plotting import COLOURS, INK, NEUTRAL, Figure, canvas, legend, legend_height, save


def noise_beside_attack(one: Interpreted, name: str) -> list[Figure]:
    """Per map, the rank correlations of all images: attacked, with noise of the same size, and with another image."""
    states = (
        ("success_true", "attack succeeded"),
        ("noise_true", "random noise"),
        ("floor", "another image"),
    )
    subjects = sorted({at[1] for at in one.values if at[0] == name and at[3] == "spearman"}, key=subject_key)
    if not subjects:
        return []
    words = [state for _, state in states]
    figure, axes = canvas(0.55 + 0.54 * len(subjects) + legend_height(words))
    for row, subject in enumerate(subjects):
        for place, (condition, _) in enumerate(states):
            values = finite(one.values.get((name, subject, condition, "spearman")))
            violin(axes, values, row + (place - 1) * 0.28, COLOURS[place])
    axes.set_yticks(range(len(subjects)), [subject_words(subject) for subject in subjects])
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.set_xlabel("rank correlation with the untouched image's map")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    sns.despine(figure, left=True)
    squares = [Line2D([], [], color=COLOURS[i], marker="s", linestyle="") for i in range(len(states))]
    legend(figure, squares, words, line=False)
    return [
        save(
            figure,
            name=stem("shift-noise", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: attack beside noise, seed {one.seed}",
            caption="Per map, all test images that the row is about: where a shape is thick there are many; the line "
            "inside holds the middle half, the tick is the median. The true class was asked for. Where the upper two "
            "shapes lie over each other, the attack moved the map no more than noise of its size; the lowest shape is "
            "the floor, maps of two different images.",
            alt=f"Distributions of rank correlations per map under attack, noise and for another image, for "
            f"{title_of(one)}.",
        )
    ]


def violin(axes: Any, values: Array, y: float, colour: str) -> None:
    """How numbers (n,) lie along a line at height y: a shape where there are enough that differ, the middle half and
    the median.
    """
    if not len(values):
        return
    if len(values) >= FEWEST and np.ptp(values) > 0:
        drawn = axes.violinplot(
            values, positions=[y], widths=0.26, orientation="horizontal", showextrema=False
        )
        for body in drawn["bodies"]:
            body.set(facecolor=colour, edgecolor=colour, alpha=0.5, linewidth=0.8)
    low, middle, high = np.percentile(values, (25, 50, 75))
    axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([middle] * 2, [y - 0.11, y + 0.11], color=INK, linewidth=1.2)


def removal(one: Interpreted, name: str) -> list[Figure]:
    """Per map the score while pixels go or come, beside random order."""
    curves = by_start(one.drawn(name), "curves.")
    subjects = sorted(curves, key=subject_key)[: len(COLOURS)]
    if not subjects:
        return []
    words = [*(subject_words(subject) for subject in subjects), "random order"]
    figure, axes = canvas(2.2 + legend_height(words), columns=2, sharey=True)
    for place, subject in enumerate(subjects):
        x = np.linspace(0, 1, curves[subject].shape[1])
        for axis, line, control in ((axes[0], 0, 2), (axes[1], 1, 3)):
            axis.plot(x, curves[subject][line], color=COLOURS[place], linewidth=1.4)
            axis.plot(x, curves[subject][control], color=NEUTRAL, linewidth=0.9, linestyle=":")
    for axis, words_of in zip(axes, ("pixels taken away", "pixels put back"), strict=True):
        axis.set_xlabel(words_of)
        axis.grid()
    axes[0].set_ylabel("probability of the class")
    sns.despine(figure)
    handles = [Line2D([], [], color=COLOURS[i]) for i in range(len(subjects))]
    legend(figure, [*handles, Line2D([], [], color=NEUTRAL, linestyle=":")], words, line=True)
    return [
        save(
            figure,
            name=stem("removal", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: deletion and insertion, seed {one.seed}",
            caption="The pixels that a map marks most go first (left), or come first (right). A faithful map falls "
            "faster, and rises faster, than random order does.",
            alt=f"Probability of the class while pixels go or come, per map, for {title_of(one)}.",
        )
    ]


def changes(one: Interpreted, name: str) -> list[Figure]:
    """Per layer how far a trigger and noise move the units, sorted."""
    arrays = one.drawn(name)
    layers = sorted(key.removesuffix("_change") for key in arrays if key.endswith("_change"))
    if not layers:
        return []
    words = ["trigger", "noise of the same size"]
    figure, axes = canvas(2.0 + legend_height(words), columns=len(layers), squeeze=False)
    for axis, layer in zip(axes[0], layers, strict=True):
        moved, noise = arrays[f"{layer}_change"]
        places = np.arange(1, len(moved) + 1)
        axis.bar(places, moved, width=0.8, color=COLOURS[0], linewidth=0)
        axis.plot(places, noise, color=COLOURS[1], marker="o", markersize=2.5, linestyle="")
        axis.set_title(subject_words(layer))
        axis.set_xlabel("units, largest change first")
        axis.grid(axis="y")
    axes[0][0].set_ylabel("change")
    sns.despine(figure)
    squares = [Line2D([], [], color=COLOURS[i], marker="s", linestyle="") for i in range(2)]
    legend(figure, squares, words, line=False)
    return [
        save(
            figure,
            name=stem("change", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: which units the trigger moves, seed {one.seed}",
            caption="Mean change of each unit when the trigger is put in (bars), and under noise of the same size "
            "(points). A few high bars: the backdoor lives in few units.",
            alt=f"Change per unit under the trigger and under noise, for {title_of(one)}; the table has the summary.",
        )
    ]


def selectivity(one: Interpreted, name: str) -> list[Figure]:
    """Per layer how many units answer to one class alone."""
    arrays = one.drawn(name)
    found = {
        key.removesuffix("_selectivity"): counts
        for key, counts in arrays.items()
        if key.endswith("_selectivity") and counts.sum()
    }
    if not found:
        return []
    layers = sorted(found)
    figure, axes = canvas(1.9, columns=len(layers), squeeze=False)
    for axis, layer in zip(axes[0], layers, strict=True):
        edges = np.linspace(0, 1, len(found[layer]) + 1)
        axis.bar(edges[:-1], found[layer], width=np.diff(edges), align="edge", color=COLOURS[0], linewidth=0)
        axis.set_title(subject_words(layer))
        axis.set_xlim(0, 1)
        axis.set_xlabel("class selectivity")
        axis.grid(axis="y")
    axes[0][0].set_ylabel("units")
    sns.despine(figure)
    return [
        save(
            figure,
            name=stem("selectivity", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: do units answer to one class, seed {one.seed}",
            caption="How many units have which selectivity: 0 answers to all classes alike, 1 to a single one. Units "
            "on the right are detectors of a class; that the model needs them is not said.",
            alt=f"Histograms of class selectivity per layer, for {title_of(one)}; the table has mean and quantiles.",
        )
    ]


def alignment(one: Interpreted, name: str) -> list[Figure]:
    """Per image the distance to a misread image, against its linear estimate and against alignment."""
    distance = one.values.get((name, "boundary", "attacked", "l2"))
    sides = {
        "linearised distance": one.values.get((name, "boundary", "linearised", "l2")),
        "alignment α": one.values.get((name, "gradient", "clean", "alpha")),
    }
    known = {words: values for words, values in sides.items() if values is not None}
    if distance is None or not known or not np.isfinite(distance).any():
        return []
    figure, axes = canvas(2.4, columns=len(known), sharey=True, squeeze=False)
    for axis, (words, values) in zip(axes[0], known.items(), strict=True):
        both = np.isfinite(values) & np.isfinite(distance)
        rank, count = spearman(values[both], distance[both]), int(both.sum())
        axis.plot(values, distance, marker="o", markersize=3, linestyle="", color=COLOURS[0], alpha=0.6)
        axis.set_title(f"ρ = {said(rank)} (n = {count})", fontsize=8.5)
        axis.set_xlabel(words)
        axis.grid()
    axes[0][0].set_ylabel("distance to a misread image")
    sns.despine(figure)
    return [
        save(
            figure,
            name=stem("alignment", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: image by image, seed {one.seed}",
            caption="A point is a test image. The linearised distance tells well how far an image is from being "
            "misread; alignment compares models better than images. ρ: Spearman's rank correlation over the images. "
            "L2, pixels in [0, 1].",
            alt=f"Distance to a misread image against linearised distance and alignment, for {title_of(one)}.",
        )
    ]
