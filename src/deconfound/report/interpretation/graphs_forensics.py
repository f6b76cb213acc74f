"""Charts of poison forensics: scores of clean and of poisoned training images, and the features of one label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deconfound.report.charts import stem
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.graphs import title_of
from deconfound.report.interpretation.strips import by_start
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.pictures import WRONG
from deconfound.report.plotting import NEUTRAL, Figure, canvas, legend, legend_height, save, shorten
from deconfound.report.words import label, listing, setting_label

BINS = 24
ENDS = (1, 99)  # percentiles of the scores at which the axis ends
SIDE_BY_SIDE = 2
WORDS = ("clean", "poisoned")


def scores(one: Interpreted, name: str) -> list[Figure]:
    """Per detector the scores of clean and of poisoned training images, each group as shares of itself."""
    arrays = one.drawn(name)
    found = by_start(arrays, "scores.")
    if not found:
        return []
    poisoned = arrays["poisoned"].astype(bool)
    detectors = sorted(found, key=subject_key)
    rows = -(-len(detectors) // SIDE_BY_SIDE)
    words = WORDS[: 1 + bool(poisoned.any())]
    figure, axes = canvas(1.35 * rows + 0.2 + legend_height(words), rows, SIDE_BY_SIDE, squeeze=False)
    for axis, detector in zip(axes.flat, detectors, strict=False):
        edges, clean, bad = binned(found[detector], poisoned)
        axis.stairs(clean, edges, fill=True, color=NEUTRAL, alpha=0.45, linewidth=0)
        if poisoned.any():
            axis.stairs(bad, edges, color=WRONG, linewidth=1.4)
        axis.set_title(shorten(subject_words(detector), 30))
        axis.set_ylim(0, None)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axis.grid(axis="y")
    for axis in axes.flat[len(detectors) :]:
        axis.axis("off")
    figure.supxlabel("score: more suspicious to the right", fontsize=9)
    sns.despine(figure)
    legend(figure, squares(len(words)), words, line=False)
    about = f"{int(poisoned.sum())} of {len(poisoned)} training images are poisoned"
    return [
        save(
            figure,
            name=stem("scores", one.setting, one.defense, name),
            section=one.kind(name),
            title=f"{title_of(one)}: scores of training images, seed {one.seed}",
            caption="Share of the clean (grey) and of the poisoned (red line) training images with each score; the "
            "axis ends at the 1st and the 99th percentile, and the outer bars hold what lies beyond. A detector "
            "that works has the red line on the right; where it lies on the left, the poison sits in the other "
            "tail."
            + ("" if poisoned.any() else " Nothing is poisoned here: this is how clean images spread."),
            alt=f"Histograms of the scores of {listing(map(subject_words, detectors))} for {title_of(one)}; {about}.",
        )
    ]


def binned(values: Array, poisoned: Array) -> tuple[Array, Array, Array]:
    """Edges (BINS + 1,) and the shares of clean and of poisoned values in each bin, (BINS,); zeros for nobody."""
    low, high = np.percentile(values.astype(np.float64), ENDS)
    edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, BINS + 1)
    inside = np.clip(values.astype(np.float64), edges[0], edges[-1])
    shares = [
        np.histogram(inside[group], edges)[0] / max(1, int(group.sum())) for group in (~poisoned, poisoned)
    ]
    return edges, shares[0], shares[1]


def squares(count: int) -> list[Line2D]:
    """Marks of the legend: grey for clean, red for poisoned."""
    style: Any = {"marker": "s", "linestyle": "", "markersize": 7}
    return [Line2D([], [], color=NEUTRAL, alpha=0.6, **style), Line2D([], [], color=WRONG, **style)][:count]


def features(runs: Sequence[Interpreted], name: str) -> list[Figure]:
    """Per data set and network: features of the training images with the poison's label, a panel for each run."""
    places = dict.fromkeys((one.dataset, one.model) for one in runs)
    found = []
    for place in places:
        mine = [one for one in runs if (one.dataset, one.model) == place and "components" in one.drawn(name)]
        found += [scattered(mine, name)] if mine else []
    return found


def scattered(runs: Sequence[Interpreted], name: str) -> Figure:
    """One figure of panels; nothing in them is on a common scale, since features are not."""
    rows = -(-len(runs) // SIDE_BY_SIDE)
    words = WORDS[: 1 + any(bool(one.drawn(name)["components_poisoned"].any()) for one in runs)]
    columns = min(SIDE_BY_SIDE, len(runs))
    figure, axes = canvas(2.0 * rows + 0.3 + legend_height(words), rows, columns, squeeze=False)
    several, said = len({one.poison for one in runs}) > 1, []
    for axis, one in zip(axes.flat, runs, strict=False):
        arrays = one.drawn(name)
        points, poisoned = arrays["components"], arrays["components_poisoned"].astype(bool)
        share = arrays["components_share"]
        for group, colour, alpha in ((~poisoned, NEUTRAL, 0.35), (poisoned, WRONG, 0.7)):
            axis.plot(*points[group].T, marker="o", markersize=2.4, mew=0, ls="", color=colour, alpha=alpha)
        who = label(one.defense) + (f", {label(one.poison)}" if several else "")
        given = one.classes[int(arrays["components_label"][0])]
        axis.set_title(f"{shorten(who, 26)}\nlabelled {shorten(given, 16)}")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(f"first: {100 * share[0]:.0f} % of the variance")
        axis.set_ylabel(f"second: {100 * share[1]:.0f} %")
        said.append(f"{who}: {int(poisoned.sum())} of {len(poisoned)} poisoned")
    for axis in axes.flat[len(runs) :]:
        axis.axis("off")
    sns.despine(figure)
    legend(figure, squares(len(words)), words, line=False)
    first = runs[0]
    where = setting_label((first.dataset, "clean" if several else first.poison, first.model))
    seeds = ", ".join(sorted({str(one.seed) for one in runs}))
    return save(
        figure,
        name=stem("features", first.setting, name),
        section=first.kind(name),
        title=f"{where}: features of the images with the poison's label, seed {seeds}",
        caption="Each point is a training image with the label that the poison bears (without poison, with the most "
        "frequent one), at its first two principal components of the features before the head. Two heaps, one of "
        "each colour: the network stores the trigger as something of its own, and detectors by features can find it. "
        "Two heaps of one colour are no sign of poison. Each panel has its own scale.",
        alt=f"Principal components of features for {where}: {'; '.join(said)}.",
    )
