"""Robustness against interpretability: one point per model."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.lines import Line2D

from deconfound.report.charts import stem
from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.interpretation.graphs_points import (
    FEWEST,
    Number,
    cross,
    panels,
    place,
    said,
    spearman,
)
from deconfound.report.plotting import Figure, Palette, legend, save
from deconfound.report.words import Order, label, setting_label

KIND = "robust_interpretability"
DISTANCE = (KIND, "boundary", "attacked", "l2")
SIDES = {
    (KIND, "gradient", "clean", "alpha"): "alignment α",
    (KIND, "gradient", "clean", "cosine"): "cosine of image and gradient",
    (KIND, "gradient", "other_image", "cosine"): "the same for another image",
    (KIND, "gradient", "clean", "variation"): "roughness of the gradient",
}

WORDS = (
    "A point is a model, mean over its seeds, with 95 % intervals; high up, the closest misread image that attacks "
    "found is far away (L2, pixels in [0, 1]). If robustness and interpretability go together, points rise to the "
    "right for alignment and cosine, and fall for roughness; what they do for another image in place of the model's "
    "own is the floor."
)
CAUTION = (
    "A model that hides its gradients can lie too high: look at its masking gap in the table. Few models: a hint, not "
    "a law."
)


class Model(NamedTuple):
    """A point: its defense, the distance to a misread image, and readings of its gradients by place."""

    defense: str
    distance: Number
    sides: Mapping[tuple[str, str, str, str], Number]


def robustness(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """The distance to a misread image against readings of gradients; a figure per training set, architecture and
    block. Nothing with fewer than three models.
    """
    groups: dict[tuple[tuple[str, str, str], str], list[Interpretation]] = {}
    for row in inputs.interpretation:
        if row.kind == KIND and math.isfinite(row.value):
            groups.setdefault((row.setting, row.interpretation), []).append(row)
    made = []
    for (_, name), rows in groups.items():
        models = models_of(rows, order)
        shown = [at for at in SIDES if sum(at in model.sides for model in models) >= FEWEST]
        if shown:
            made.append(drawing(models, shown, rows[0], name, order))
    return made


def models_of(rows: Sequence[Interpretation], order: Order) -> list[Model]:
    """The models of one group whose distance was measured, in the order of the configuration."""
    cells: dict[str, dict[tuple[str, str, str, str], Number]] = {}
    for row in rows:
        if place(row) == DISTANCE or place(row) in SIDES:
            cells.setdefault(row.defense, {})[place(row)] = Number(row.value, row.low, row.high)
    ordered = sorted(cells, key=lambda defense: order.key("defenses", defense))
    return [Model(name, cells[name][DISTANCE], cells[name]) for name in ordered if DISTANCE in cells[name]]


def drawing(
    models: Sequence[Model],
    sides: Sequence[tuple[str, str, str, str]],
    first: Interpretation,
    name: str,
    order: Order,
) -> Figure:
    """A panel per reading of the gradients."""
    palette = Palette.of([model.defense for model in models], order)
    handles = [
        Line2D([], [], color=palette.colour(m.defense), marker=palette.marker(m.defense), linestyle="")
        for m in models
    ]
    words = [label(model.defense) for model in models]
    axes, figure = panels(len(sides), words, sharey=True)
    ranks = {}
    for axis, side in zip(axes, sides, strict=True):
        mine = [model for model in models if side in model.sides]
        for model in mine:
            x, colour = model.sides[side], palette.colour(model.defense)
            cross(axis, x, model.distance, colour)
            axis.plot(
                *(x.value, model.distance.value),
                color=colour,
                marker=palette.marker(model.defense),
                markersize=5,
                linestyle="",
            )
        ranks[side] = spearman([m.sides[side].value for m in mine], [m.distance.value for m in mine])
        axis.set_title(f"ρ = {said(ranks[side])}", fontsize=8.5)
        axis.set_xlabel(SIDES[side])
    figure.supylabel("distance to a misread image", fontsize=9)
    legend(figure, handles, words, line=False)
    told = ", ".join(f"{SIDES[side]} {said(value)}" for side, value in ranks.items())
    where = setting_label(first.setting)
    return save(
        figure,
        name=stem("robustness", first.setting, "all", name),
        section=KIND,
        title=f"{where}: robustness, and gradients that look like the image",
        caption=f"{WORDS} Spearman's rank correlation over {len(models)} models: {told}. {CAUTION}",
        alt=f"Distance to a misread image against readings of gradients, one point per model, for {where}; rank "
        f"correlations: {told}.",
    )
