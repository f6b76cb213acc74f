"""Classes that an attack turns against classes whose maps it moves, for all models of a training set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from deconfound.report.charts import stem
from deconfound.report.inputs import Inputs
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.graphs_points import FEWEST, MAPS, panels, said, spearman
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.plotting import Figure, Palette, key, save
from deconfound.report.words import Order, label, setting_label

Setting = tuple[str, str, str]
Points = Mapping[tuple[str, str], Array]


def vulnerable(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """Per class how many images an attack turns against how far it moves their maps, all models of a training set in
    one figure; nothing for records without the labels of the images, nor for fewer than three classes.
    """
    groups: dict[tuple[tuple[str, str, str], str], list[Interpreted]] = {}
    for one in records:
        for name in one.spec:
            if one.kind(name) == "attribution_shift":
                groups.setdefault((one.setting, name), []).append(one)
    made = []
    for (setting, name), mine in sorted(groups.items(), key=lambda item: (order.cell(item[0][0]), item[0])):
        points = by_class(mine, name)
        maps = sorted({subject for _, subject in points}, key=subject_key)[:MAPS]
        if maps:
            made.append(class_figure(setting, name, points, maps, order))
    return made


def by_class(records: Sequence[Interpreted], name: str) -> dict[tuple[str, str], Array]:
    """By defense and map (2, k): of classes the share that the attack turns, and the mean change of the map, one minus
    the rank correlation, each a mean over the seeds; k is at least three.
    """
    seeds: dict[tuple[str, str], list[Array]] = {}
    for one in records:
        labels = one.drawn(name).get("labels")
        fooled = one.values.get((name, "prediction", "attack", "fooled"))
        if labels is None or fooled is None:
            continue
        asked = {at[1] for at in one.values if at[::2] == (name, "success_true") and at[3] == "spearman"}
        for subject in sorted(asked):
            change = 1 - attacked(one, name, subject, len(labels))
            means = [class_means(values, labels, len(one.classes)) for values in (fooled, change)]
            seeds.setdefault((one.defense, subject), []).append(np.stack(means))
    found = {}
    for at, tables in seeds.items():
        known = np.stack(tables)
        everywhere = np.isfinite(known).all((0, 1))
        if everywhere.sum() >= FEWEST:
            found[at] = known[:, :, everywhere].mean(0)
    return found


def attacked(one: Interpreted, name: str, subject: str, count: int) -> Array:
    """Rank correlation (N,) of the map of the true class before and after the attack, whether it succeeded or not."""
    found = np.full(count, np.nan)
    for condition in ("success_true", "failure"):
        values = one.values.get((name, subject, condition, "spearman"))
        if values is not None:
            found = np.where(np.isfinite(values), values, found)
    return found


def class_means(values: Array, labels: Array, classes: int) -> Array:
    """Mean of the finite numbers of each class (K,); NaN for a class without any."""
    chosen = [values[(labels == k) & np.isfinite(values)] for k in range(classes)]
    return np.array([mine.mean() if len(mine) else np.nan for mine in chosen], float)


def class_figure(setting: Setting, name: str, points: Points, maps: Sequence[str], order: Order) -> Figure:
    """A panel per map, a point per class and model."""
    defenses = sorted({at[0] for at in points}, key=lambda one: order.key("defenses", one))
    palette = Palette.of(defenses, order)
    axes, figure = panels(len(maps), [label(name) for name in defenses])
    for axis, subject in zip(axes, maps, strict=True):
        for defense in defenses:
            if (known := points.get((defense, subject))) is not None:
                axis.plot(
                    *known,
                    color=palette.colour(defense),
                    marker=palette.marker(defense),
                    markersize=4,
                    alpha=0.7,
                    linestyle="",
                )
        axis.set_title(f"{subject_words(subject)}: ρ = {said(typical(points, subject))}", fontsize=8.5)
        axis.set_xlim(-0.04, 1.04)
        axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
    figure.supxlabel("images of the class that the attack turns", fontsize=9)
    figure.supylabel("change of the map", fontsize=9)
    key(figure, palette, defenses, line=True)
    where = setting_label(setting)
    counts = sorted({known.shape[1] for known in points.values()})
    size = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return save(
        figure,
        name=stem("classes-shift", setting, name),
        section="attribution_shift",
        title=f"{where}: classes that fall, and classes whose maps move",
        caption="A point is a class of a model, mean over its images and seeds; the map of the true class is compared "
        "before and after the attack (change: 1 − rank correlation), whether it succeeded or not. If the evidence "
        "moves where the answers fall, points of one colour rise to the right. ρ: Spearman's rank correlation over the "
        f"{size} classes of a model, "
        f"median over models ({per_model(points, maps)}). With so few classes ρ has to be near 1 to mean anything.",
        alt=f"Points of the share of images turned against the change of their maps, one per class and model, for "
        f"{where}; median rank correlations: {per_map(points, maps)}.",
    )


def ranks_of(points: Points, subject: str) -> list[float]:
    """Rank correlation over classes of every model that has one."""
    found = [spearman(*known) for (_, own), known in points.items() if own == subject]
    return [value for value in found if not math.isnan(value)]


def typical(points: Points, subject: str) -> float:
    """Median over models; NaN where none has a rank correlation."""
    return float(np.median(known)) if (known := ranks_of(points, subject)) else math.nan


def per_map(points: Points, maps: Sequence[str]) -> str:
    """'saliency 0.40, Grad-CAM none'."""
    return ", ".join(f"{subject_words(subject)} {said(typical(points, subject))}" for subject in maps)


def per_model(points: Points, maps: Sequence[str]) -> str:
    """'lowest to highest: saliency −0.20 to 0.60'; how far the models are from one another."""
    found = [(subject, known) for subject in maps if (known := ranks_of(points, subject))]
    ends = [f"{subject_words(subject)} {said(min(known))} to {said(max(known))}" for subject, known in found]
    return f"lowest to highest: {', '.join(ends)}" if ends else "none has one"
