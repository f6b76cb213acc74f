"""All figures of a report, from its inputs; each knows its section, caption and text alternative."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from deconfound.report import charts, classmap, dotplot, heatmaps, pictures, security, thetas
from deconfound.report.forest import forests
from deconfound.report.inputs import Cell, Inputs, PerClass, Summary
from deconfound.report.matrix import condition
from deconfound.report.plotting import FEW, Figure, Palette, part_name, part_of, parts
from deconfound.report.training_curves import histories
from deconfound.report.words import Order

Placed = TypeVar("Placed", bound=Cell)
Value = TypeVar("Value")


def draw(
    inputs: Inputs,
    order: Order,
    *,
    adversarial: Sequence[Path] = (),
    poisoned: Sequence[Path] = (),
    clean: Mapping[str, Path] | None = None,
) -> list[Figure]:
    """Figures in the order of the report. `adversarial` and `poisoned` are npz files, `clean` test sets."""
    everything: list[Cell] = [*inputs.summary, *inputs.runs]
    names = {row.defense for row in everything} | {
        path.parts[-3] for path in adversarial if len(path.parts) > 2
    }
    palette = Palette.of(names, order)
    made: list[Figure] = [*forests(inputs.claims)]
    crowds = heatmaps.crowds(inputs)
    for setting, rows in by_setting(inputs.summary, order):
        table = [row for row in rows if not row.curve]
        accuracy = [row for row in table if row.metric in ("clean_accuracy", "robust_accuracy")]
        robust = any(row.metric == "robust_accuracy" for row in accuracy)
        if robust and not behind(rows[0], crowds):
            if crowded(accuracy):
                made += dotplot.dots(setting, accuracy, palette, order)
            else:
                made.append(charts.bars(setting, accuracy, palette, order))
        if setting[0] not in crowds and any(row.metric == "asr" for row in table):
            made.append(charts.tradeoff(setting, table, palette))
        points = [row for row in rows if row.curve and row.metric == "robust_accuracy"]
        for at, line in grouped(points, lambda row: (row.attack, row.norm, row.curve)):
            made += curves(setting, at, line, palette)
    made += heatmaps.backdoor_maps(inputs, order)
    made += heatmaps.detection_maps(inputs, order)
    made += heatmaps.cross_maps(inputs, order)
    for setting, found in by_setting([row for row in inputs.properties if row.label], order):
        if shown := thetas.chosen(found, inputs.runs, order):
            beside = [row for row in inputs.per_class if row.setting == setting]
            made.append(thetas.vulnerability(setting, found, beside, palette, shown))
    for setting, classes in by_setting([row for row in inputs.per_class if not behind(row, crowds)], order):
        if crowded(classes):
            made += classmap.class_maps(setting, headline(classes), palette, order)
        else:
            made.append(charts.per_class(setting, headline(classes), palette, order))
    made += pictures.evasion_examples(adversarial, order)
    made += pictures.backdoor_examples(poisoned, clean or {}, order)
    for setting, runs in by_setting([run for run in inputs.runs if not behind(run, crowds)], order):
        made += histories(setting, runs, palette)
    return made


def behind(row: Cell, crowds: Collection[str]) -> bool:
    """Is this one of many poisoned training sets, whose numbers stand in tables and have no chart each?"""
    return row.dataset in crowds and row.poison != "clean"


def crowded(rows: Sequence[Cell]) -> bool:
    """Are there more defenses than colours and a legend can tell apart?"""
    return len({row.defense for row in rows}) > FEW


def curves(
    setting: charts.Setting, at: tuple[str, str, str], rows: Sequence[Summary], palette: Palette
) -> list[Figure]:
    """Security curves of an attack, `at` = (attack, norm, axis), in figures of as many defenses as a legend holds."""
    defenses = [name for name in palette.names if any(row.defense == name for row in rows)]
    groups = parts(defenses, FEW)
    made = []
    for number, group in enumerate(groups):
        mine = [row for row in rows if row.defense in group]
        whole = security.curves(setting, at, mine, palette.among(group) if len(groups) > 1 else palette)
        name = "-".join([whole.name, *part_name(number, len(groups))])
        made.append(replace(whole, name=name, title=whole.title + part_of(number, len(groups))))
    return made


def headline(rows: Sequence[PerClass]) -> list[PerClass]:
    """Rates per class worth showing: without attack, and the worst case (or, lacking one, every attack)."""
    worst = any(row.attack == "worst_case" for row in rows)
    return [row for row in rows if not worst or condition(row)[1] in ("none", "worst_case")]


def by_setting(rows: Sequence[Placed], order: Order) -> list[tuple[tuple[str, str, str], list[Placed]]]:
    """Rows by (dataset, poison, model), in the order of the configuration."""
    ordered = sorted(rows, key=lambda row: order.cell(row.setting))
    return [(setting, list(group)) for setting, group in groupby(ordered, key=lambda row: row.setting)]


def grouped(rows: Sequence[Value], by: Callable[[Value], Any]) -> list[tuple[Any, list[Value]]]:
    """Rows by a key, in the order of the key."""
    return [(key, list(group)) for key, group in groupby(sorted(rows, key=by), key=by)]
