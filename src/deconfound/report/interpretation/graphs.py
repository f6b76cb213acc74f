"""Charts of readings: operating curves, what was learnt against what was tested, pruning, noise beside attack."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import stem
from deconfound.report.heatmaps import Sheet, sheet_of
from deconfound.report.inputs import Interpretation
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.strips import by_start
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.plotting import (
    COLOURS,
    MARKERS,
    NEUTRAL,
    Figure,
    canvas,
    legend,
    legend_height,
    percent_axis,
    save,
    shorten,
)
from deconfound.report.words import label, setting_label

Rows = Sequence[Interpretation]
MATRIX = Sheet(
    "matrix",
    "adversarial_detection",
    "AUROC by attack learnt from and attack tested on",
    "Rows: a detector and the attack whose examples it was shown; columns: the attack it was tested on. Chance, in "
    "per cent, that a misread image is more suspicious than an untouched one: 50 (pale) is a coin, 100 (blue) is "
    "perfect. A detector that only knows what it was shown is blue on the diagonal alone.",
    "vlag_r",
)
DASHED = (0, (3, 2))


def title_of(one: Interpreted) -> str:
    """Data set, poison, model and defense."""
    return f"{setting_label(one.setting)} · {label(one.defense)}"


def operating(one: Interpreted, name: str) -> list[Figure]:
    """ROC of every detector against the oblivious and the adaptive attacker, on a linear and a logarithmic axis."""
    scores = by_start(one.drawn(name), "scores.")
    detectors = sorted({key.split(".")[0] for key in scores}, key=subject_key)[: len(COLOURS)]
    lines = []
    for place, detector in enumerate(detectors):
        clean = finite(scores.get(f"{detector}.clean"))
        for condition, style in (("oblivious", "-"), ("adaptive", DASHED)):
            found = finite(scores.get(f"{detector}.{condition}"))
            if len(clean) and len(found):
                lines.append((*roc(clean, found), COLOURS[place], style))
    if not lines:
        return []
    words = [subject_words(detector) for detector in detectors]
    words += ["oblivious", "adaptive"]
    figure, axes = canvas(2.3 + legend_height(words), columns=2, sharey=True)
    for axis, log in zip(axes, (False, True), strict=True):
        for false, true, colour, style in lines:
            axis.plot(false, true, color=colour, linestyle=style, linewidth=1.4, drawstyle="steps-post")
        axis.axvline(0.05, color=NEUTRAL, linewidth=0.8, linestyle=":")
        if log:
            axis.set_xscale("log")
            axis.set_xlim(min(0.01, 0.5 / max(len(line[0]) for line in lines)), 1)
            axis.set_xticks([0.01, 0.1, 1], ["1", "10", "100 %"])
            axis.minorticks_off()
        else:
            axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axis.set_xlabel("false alarms" + (", logarithmic" if log else ""))
        axis.grid()
    percent_axis(axes[0].yaxis, "misread images found")
    sns.despine(figure)
    handles = [Line2D([], [], color=COLOURS[place]) for place in range(len(detectors))]
    handles += [Line2D([], [], color=NEUTRAL, linestyle=style) for style in ("-", DASHED)]
    legend(figure, handles, words, line=True)
    return [
        save(
            figure,
            name=stem("roc", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: every threshold, seed {one.seed}",
            caption="Share of the misread images that raise an alarm against the share of untouched images that do, "
            "for every threshold; the dotted line is 5 % false alarms. Dashed: the attacker knows the detector, and "
            "stops just below the threshold. On the right the same with few false alarms stretched out.",
            alt=f"Operating curves of detectors for {title_of(one)}; the tables have the numbers at 5 %.",
        )
    ]


def finite(values: Array | None) -> Array:
    """The numbers among some."""
    return np.zeros(0) if values is None else values[np.isfinite(values)]


def roc(clean: Array, found: Array) -> tuple[Array, Array]:
    """Shares of clean and of attacked scores that lie above every threshold, from the highest down."""
    thresholds = np.unique(np.concatenate([clean, found]))[::-1]
    false = [(clean >= limit).mean() for limit in thresholds]
    true = [(found >= limit).mean() for limit in thresholds]
    return np.array([0.0, *false]), np.array([0.0, *true])


def matrix(rows: Rows, name: str) -> list[Figure]:
    """Learnt against tested, of one cell; nothing where nothing was learnt from several attacks."""
    pairs = [
        row for row in rows if row.metric == "auroc" and "_on_" in row.condition and not math.isnan(row.value)
    ]
    if not pairs:
        return []
    values = {}
    for row in pairs:
        learnt, _, tested = row.condition.partition("_on_")
        values[f"{row.subject}/{learnt}", tested] = (row.value, "")
    keys = sorted({at[0] for at in values}, key=lambda key: (subject_key(key.split("/")[0]), key))
    lines = [
        (key, shorten(f"{subject_words(key.split('/')[0])} · {label(key.split('/')[1])}", 30)) for key in keys
    ]
    first = pairs[0]
    where = f"{setting_label(first.setting)} · {label(first.defense)}"
    file = stem("matrix", first.setting, first.defense, name)
    columns = sorted({at[1] for at in values})
    return [sheet_of(MATRIX, lines, columns, values, name=file, title=f"{where}: {MATRIX.what}")]


ORDERS: Mapping[str, str] = {
    "activation": "least active first",
    "weight": "smallest weight first",
    "random": "random order",
    "change": "moved most by the trigger first",
}


def pruning(rows: Rows, name: str) -> list[Figure]:
    """Accuracy and attack success against the share of silenced units, a line per order."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        order, _, text = row.condition.rpartition("_")
        if row.condition == "unpruned":
            for each in ORDERS:
                curves.setdefault((row.metric, each), []).append((0.0, row.value))
        elif order in ORDERS and text[:1].isdigit():
            curves.setdefault((row.metric, order), []).append(
                (float(text.replace("p", ".")) / 100, row.value)
            )
    shown = [
        order
        for order in ORDERS
        if any(len(curves.get((metric, order), ())) > 1 for metric in ("clean", "asr"))
    ]
    metrics = [metric for metric in ("clean", "asr") if any((metric, order) in curves for order in shown)]
    if not shown:
        return []
    words = [ORDERS[order] for order in shown]
    figure, axes = canvas(2.2 + legend_height(words), columns=len(metrics), sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for place, order in enumerate(shown):
            points = sorted(curves.get((metric, order), ()))
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                axis.plot(x, y, color=COLOURS[place], marker=MARKERS[place], markersize=4, linewidth=1.4)
        axis.set_title("accuracy" if metric == "clean" else "attack success")
        axis.set_ylim(-0.03, 1.03)
        percent_axis(axis.xaxis, "units taken away")
        axis.grid()
    percent_axis(axes[0][0].yaxis, "")
    sns.despine(figure)
    style: Any = {"linewidth": 1.4}
    legend(
        figure,
        [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], **style) for i in range(len(shown))],
        words,
        line=True,
    )
    first = rows[0]
    where = f"{setting_label(first.setting)} · {label(first.defense)}"
    return [
        save(
            figure,
            name=stem("pruning", first.setting, first.defense, name),
            section=first.kind,
            title=f"{where}: taking units away",
            caption="Mean over seeds. The attack's success should fall before accuracy does. Only the order that "
            "knows the trigger shows what could be reached; random order is the control.",
            alt=f"Accuracy and attack success against the share of units taken away, for {where}; the table has them.",
        )
    ]
