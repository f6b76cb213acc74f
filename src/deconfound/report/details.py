"""The sections behind the headline: security curves, classes, training."""

from collections.abc import Sequence
from typing import Any

from deconfound.report.blocks import Block, column, figures, head, rate, section, table
from deconfound.report.figures import behind, by_setting, grouped, headline
from deconfound.report.heatmaps import crowds
from deconfound.report.inputs import Inputs, Run, Summary
from deconfound.report.matrix import class_names, condition, condition_column, condition_key, matrix
from deconfound.report.plotting import Figure
from deconfound.report.training_curves import averaged
from deconfound.report.words import (
    Order,
    budget,
    interval,
    label,
    listing,
    metric_label,
    number,
    setting_label,
)

AXES = {
    "eps": "Over eps, its budget grows: a line that does not fall, or that stays above zero when the budget covers "
    "the whole range of pixels, shows an attack that is fooled, not a robust model.",
    "steps": "Over steps, its budget stays and it searches longer: a line that still falls at its right end shows an "
    "attack that has not converged, so that more steps would break more.",
}


def curves(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Robust accuracy over eps and over steps."""
    rows = [row for row in inputs.summary if row.curve]
    if not rows:
        return []
    blocks = figures(drawn, "curves")
    for (dataset, attack, norm, metric, axis), line in grouped(
        rows, lambda row: (row.dataset, row.attack, row.norm, row.metric, row.curve)
    ):
        blocks += matrix(
            f"{label(dataset)}: {metric_label(metric)} under {label(attack)} ({within(line)}) by {axis}, in per cent",
            line,
            order,
            curve=axis,
            folded=f"Numbers behind the curves over {axis}: {label(dataset)}, {label(attack)}"
            + (f" {label(norm)}" if norm else ""),
        )
    axes = {row.curve for row in rows}
    lead = " ".join(
        ["Robust accuracy as an attack is given more.", *(AXES[name] for name in AXES if name in axes)]
    )
    return [section("curves", "Security curves", lead, blocks)]


def within(rows: Sequence[Summary]) -> str:
    """What a curve holds fixed: the norm over eps, the whole budget over steps."""
    budgets = sorted({(row.norm, row.eps) for row in rows})
    if rows[0].curve == "steps":
        return listing(budget(norm, eps) for norm, eps in budgets)
    return label(rows[0].norm) if rows[0].norm else "no norm"


def classes(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Rates of every class."""
    if not inputs.per_class:
        return []
    blocks = figures(drawn, "classes")
    for setting, rows in by_setting(inputs.per_class, order):
        rows = headline(rows)
        keys = sorted(
            {(condition(row), row.defense) for row in rows},
            key=lambda at: (condition_key(order)(at[0]), order.key("defenses", at[1])),
        )
        columns = [column("class")]
        for at, defense in keys:
            totals = sorted({row.total for row in rows if (condition(row), row.defense) == (at, defense)})
            words = condition_column(at, [])
            size = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{totals[0]}" + (
                f"–{totals[-1]}" if totals[1:] else ""
            )
            columns.append(column(label(defense), " · ".join(w for w in (*words.values(), size) if w)))
        lines: dict[str, dict[Any, Block]] = {}
        for row in rows:
            lines.setdefault(row.label, {})[condition(row), row.defense] = rate(row)
        body = [
            [{"text": name}, *(lines[name].get(key, {"text": "–"}) for key in keys)]
            for name in class_names(rows)
        ]
        title_of = setting_label(setting)
        blocks += table(
            f"{title_of}: per class, in per cent", columns, body, folded=f"Numbers per class: {title_of}"
        )
    lead = (
        "A mean can hide a class that a defense gives up. Seeds are pooled; "
        "intervals are wide, since each class has few examples."
    )
    return [section("classes", "Classes", lead, blocks)]


def histories(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """How training went."""
    rows = [run for run in inputs.runs if run.history]
    if not rows:
        return []
    blocks = figures(drawn, "histories")
    crowd = crowds(inputs)
    for setting, mine in by_setting(rows, order):
        body = []
        for _, group in grouped(mine, lambda run: order.cell(run.setting, run.defense)):
            for network in sorted({name for run in group for name in run.history}):
                body.append(history_row(group, network))
        columns = [
            column("defense"),
            *map(column, ("network", "epochs", "last training loss", "last validation, %")),
        ]
        caption = f"{setting_label(setting)}: end of training, range over seeds below"
        blocks += table(caption, columns, body, folded=caption if behind(mine[0], crowd) else "")
    lead = (
        "Training loss, and accuracy on the validation split, which is cut from the training data. "
        f"{checkpoints(rows, order)}"
    )
    return [section("histories", "Training", lead, blocks)]


def checkpoints(runs: Sequence[Run], order: Order) -> str:
    """Which epoch's weights count: the last, or the best where the specification of a run asks for it."""
    best = [run for run in runs if keeps_best(run)]
    if not best:
        return "The checkpoint of the last epoch counts."
    chosen = "the epoch with the highest accuracy on this split under attack"
    if len(best) == len(runs):
        return f"The checkpoint of {chosen} counts, the first of equals."
    names = sorted({run.defense for run in best}, key=lambda name: order.key("defenses", name))
    return (
        "The checkpoint of the last epoch counts; of runs with validation: best "
        f"({listing(map(label, names))}) that of {chosen}, the first of equals."
    )


def keeps_best(run: Run) -> bool:
    """Did the accuracy on the validation split under attack choose the epoch? It cannot where it was not measured."""
    asked = run.spec.get("defense", {}).get("validation") == "best"
    return asked and any("val_robust" in entry for entries in run.history.values() for entry in entries)


def history_row(runs: Sequence[Run], network: str) -> list[Block]:
    """Last values of one network of one defense, over its seeds."""
    cells = [head(runs[0]), {"text": label(network)}]
    curve = {name: averaged(runs, network, name) for name in ("loss", "val_accuracy")}
    last = max((points[-1][0] for points in curve.values() if points), default=0)
    cells.append({"text": f"{last:g}"})
    for name, rated in (("loss", False), ("val_accuracy", True)):
        if points := curve[name]:
            _, mean, low, high = points[-1]
            cells.append(
                {"text": number(mean, rate=rated), "note": interval(low, high, rate=rated), "value": mean}
            )
        else:
            cells.append({"text": "–"})
    return cells
