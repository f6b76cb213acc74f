"""Scatter across models: how much evidence lies on the object, against accuracy when the ground is drawn anew."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.charts import stem
from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.plotting import (
    MARKERS,
    NEUTRAL,
    Figure,
    Palette,
    canvas,
    key,
    legend_height,
    save,
)
from deconfound.report.words import Order, label, listing

Rows = Sequence[Interpretation]
FEWEST = 3  # points of which a scatter and a rank correlation can say anything
MAPS = 6  # panels of a figure


class Number(NamedTuple):
    """A mean and its 95 % interval; the bounds are NaN or infinite where there are none."""

    value: float
    low: float
    high: float


class Model(NamedTuple):
    """A point of the scatter of evidence: a cell, mass ratios by map, and its accuracy under do(style) and before."""

    row: Interpretation
    masses: Mapping[str, Number]
    after: Number
    before: float

    @property
    def training(self) -> tuple[str, str]:
        """Data set and poison."""
        return self.row.dataset, self.row.poison


def spearman(one: Sequence[float] | Array, other: Sequence[float] | Array) -> float:
    """Rank correlation; NaN of fewer than three pairs, or where one side is constant."""
    from scipy.stats import spearmanr

    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(spearmanr(one, other).statistic)


def said(value: float) -> str:
    """'0.71', '−0.20'; 'none' where there is no rank correlation."""
    return "none" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def evidence(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """Mass on the object against accuracy under do(style), a point per model; one figure for all data sets that share
    an architecture and the names of the classes. Nothing with fewer than three models.
    """
    classes = {one.group: tuple(one.classes) for one in records}
    groups: dict[tuple[str, tuple[str, ...], str], list[Model]] = {}
    for name, model in models_of(inputs.interpretation, order):
        groups.setdefault((model.row.model, classes.get(model.row.group, ()), name), []).append(model)
    made = []
    for (_, _, name), found in groups.items():
        maps = sorted({subject for model in found for subject in model.masses}, key=subject_key)
        shown = [one for one in maps if len(with_map(found, one)) >= FEWEST][:MAPS]
        if shown:
            made.append(evidence_figure(found, shown, name, order))
    return made


def models_of(rows: Rows, order: Order) -> list[tuple[str, Model]]:
    """Every cell with both readings, by the block that read the masses; in the order of the configuration."""
    after, before = (
        {row.group: row for row in rows if place(row) == ("style_dependence", "model", "do_style", metric)}
        for metric in ("right_after", "right_before")
    )
    found: dict[tuple[str, str], dict[str, Interpretation]] = {}
    for row in rows:
        asked = (row.kind, row.condition, row.metric) == ("object_mass", "clean_true", "ratio")
        if asked and row.group in after and math.isfinite(row.value):
            found.setdefault((row.interpretation, row.group), {})[row.subject] = row
    made = []
    for (name, group), masses in found.items():
        if not math.isfinite(after[group].value):
            continue
        numbers = {subject: Number(row.value, row.low, row.high) for subject, row in masses.items()}
        right = after[group]
        first = next(iter(masses.values()))
        value = before[group].value if group in before else math.nan
        made.append((name, Model(first, numbers, Number(right.value, right.low, right.high), value)))
    return sorted(made, key=lambda one: order.cell(one[1].row.setting, one[1].row.defense))


def place(row: Interpretation) -> tuple[str, str, str, str]:
    """Kind and place of a reading."""
    return row.kind, row.subject, row.condition, row.metric


def with_map(models: Sequence[Model], subject: str) -> list[Model]:
    """The models whose mass was read with a map."""
    return [model for model in models if subject in model.masses]


def evidence_figure(models: Sequence[Model], maps: Sequence[str], name: str, order: Order) -> Figure:
    """A panel per map."""
    trainings = list(dict.fromkeys(model.training for model in models))
    markers = {at: MARKERS[number % len(MARKERS)] for number, at in enumerate(trainings)}
    defenses = sorted({m.row.defense for m in models}, key=lambda one: order.key("defenses", one))
    palette = Palette.of(defenses, order)
    more = [
        Line2D([], [], color=NEUTRAL, marker=markers[at], linestyle="", label=training_words(at))
        for at in (trainings if len(trainings) > 1 else ())
    ]
    words = [*map(label, defenses), *(str(line.get_label()) for line in more)]
    axes, figure = panels(len(maps), words, sharey=True)
    for axis, subject in zip(axes, maps, strict=True):
        mine = with_map(models, subject)
        for model in mine:
            colour = palette.colour(model.row.defense)
            cross(axis, model.masses[subject], model.after, colour)
            axis.plot(
                model.masses[subject].value,
                model.after.value,
                color=colour,
                marker=markers[model.training],
                markersize=5,
                linestyle="",
            )
        axis.axvline(1, color=NEUTRAL, linewidth=0.8, linestyle=":")
        axis.set_title(f"{subject_words(subject)}: ρ = {said(rank(mine, subject))}", fontsize=8.5)
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    figure.supxlabel("mass ratio on the object, untouched images", fontsize=9)
    figure.supylabel("right under do(style), per cent", fontsize=9)
    key(figure, palette, defenses, line=False, more=more)
    first = models[0].row
    return save(
        figure,
        name=stem("evidence", (first.dataset, "all", first.model), name),
        section="object_mass",
        title=f"{label(first.model)}: evidence on the object, and being right when the ground is drawn anew",
        caption=evidence_words(models, maps),
        alt=f"Points of the mass ratio on the object against accuracy under do(style), one per model, a panel per map; "
        f"rank correlations: {rank_words(models, maps)}.",
    )


def rank(models: Sequence[Model], subject: str) -> float:
    """Rank correlation of mass and accuracy under do(style) over models."""
    return spearman([m.masses[subject].value for m in models], [m.after.value for m in models])


def rank_words(models: Sequence[Model], maps: Sequence[str]) -> str:
    """'saliency 0.71, Grad-CAM none (n = 14 models)'; where maps were read off unlike many models, n after each."""
    found = [(subject, with_map(models, subject)) for subject in maps]
    sizes = {len(mine) for _, mine in found}
    each = [
        f"{subject_words(s)} {said(rank(mine, s))}" + (f" (n = {len(mine)})" if len(sizes) > 1 else "")
        for s, mine in found
    ]
    return ", ".join(each) + (f" (n = {sizes.pop()} models)" if len(sizes) == 1 else "")


def evidence_words(models: Sequence[Model], maps: Sequence[str]) -> str:
    """The caption: what a point is, the rank correlations, and what they must be held against."""
    words = (
        "A point is a model, mean over its seeds, with 95 % intervals. Right of the dotted line the map prefers the "
        "object to the ground; high up the answers stay right when the ground is drawn anew. If maps tell the truth "
        "about who looks at the object, points rise to the right. Spearman's rank correlation over the models: "
        f"{rank_words(models, maps)}."
    )
    trainings = list(dict.fromkeys(model.training for model in models))
    within = []
    for at in trainings if len(trainings) > 1 else []:
        mine = [model for model in models if model.training == at]
        known = [value for s in maps if not math.isnan(value := rank(with_map(mine, s), s))]
        if known:
            spread = said(min(known)) if len(known) == 1 else f"{said(min(known))} to {said(max(known))}"
            within.append(f"{training_words(at)} {spread} (n = {len(mine)})")
    if within:
        words += f" Among the models of one data set alone, lowest to highest map: {listing(within)}."
    rows = [model for model in models if not math.isnan(model.before)]
    control = []
    for subject in maps:
        mine = with_map(rows, subject)
        value = spearman([m.masses[subject].value for m in mine], [m.before for m in mine])
        control += [] if math.isnan(value) else [f"{subject_words(subject)} {said(value)}"]
    if control:
        words += (
            f" The control, accuracy before do(style) in its place: {', '.join(control)}; a map that is as close to "
            "this tells good models from bad ones, not the object from the ground."
        )
    return words + " Few models: a hint, not a law."


def training_words(at: tuple[str, str]) -> str:
    """A training set as prose."""
    return label(at[0]) + (f", {label(at[1])}" if at[1] != "clean" else "")


def cross(axis: Any, x: Number, y: Number, colour: str) -> None:
    """Lines for the intervals of both numbers, where they have any."""
    style = {"color": colour, "linewidth": 1.0, "alpha": 0.6}
    if math.isfinite(x.low) and math.isfinite(x.high):
        axis.plot([x.low, x.high], [y.value] * 2, **style)
    if math.isfinite(y.low) and math.isfinite(y.high):
        axis.plot([x.value] * 2, [y.low, y.high], **style)


def panels(count: int, words: Sequence[str], **options: Any) -> tuple[list[Any], Any]:
    """So many axes in two columns, room for a legend of these words, and the figure."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure, grid = canvas(
        0.5 + max(2.4, 1.65 * rows) + legend_height(words),
        rows=rows,
        columns=columns,
        squeeze=False,
        **options,
    )
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        axis.grid()
    sns.despine(figure)
    return axes[:count], figure
