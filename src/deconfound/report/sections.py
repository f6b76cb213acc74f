"""The sections of measurements; each is a list that is empty when the experiment has nothing to show."""

from collections.abc import Callable, Sequence

from deconfound.report.blocks import Block, column, figures, head, section, table
from deconfound.report.costs import costs
from deconfound.report.details import classes, curves, histories
from deconfound.report.errata import errata
from deconfound.report.figures import grouped
from deconfound.report.inputs import Inputs, Measure, Summary
from deconfound.report.matrix import matrix
from deconfound.report.plotting import Figure
from deconfound.report.properties import over_seeds, properties, shown_here, unit_of
from deconfound.report.published import published
from deconfound.report.trust import trust
from deconfound.report.words import METRICS, Order, is_rate, label, metric_label

PAIRED = "Paired differences to the control, in points, over the same examples and seeds"
RATES = ("clean_accuracy", "robust_accuracy")


def evasion(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Clean and robust accuracy of every cell that was attacked at test time."""
    rows = [row for row in inputs.summary if not row.curve and row.metric in RATES]
    attacked = {row.group for row in rows if row.metric == "robust_accuracy"}
    rows = [row for row in rows if row.group in attacked]
    if not rows:
        return []
    blocks = figures(drawn, "evasion")
    for dataset, mine in by_dataset(rows, order):
        title = label(dataset)
        blocks += matrix(f"{title}: accuracy in per cent, with 95 % intervals", mine, order)
        paired = [
            row
            for row in inputs.differences
            if row.dataset == dataset and row.group in attacked and row.metric in RATES
        ]
        if paired:
            blocks += matrix(f"{title}: {PAIRED[0].lower()}{PAIRED[1:]}", paired, order)
    backdoored = {row.dataset for row in inputs.summary if row.metric == "asr"}
    blocks += measures([row for row in inputs.measures if row.dataset not in backdoored], order)
    return [
        section(
            "evasion",
            "Evasion",
            "Images are changed at test time, within a budget, to be misread. "
            f"{definitions(rows)} In the worst case an image counts if it stays right under every attack.",
            blocks,
        )
    ]


def backdoor(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Backdoor metrics of every dataset that was poisoned, beside the same defenses on clean data."""
    datasets = {row.dataset for row in inputs.summary if row.metric == "asr"}
    rows = [
        row
        for row in inputs.summary
        if row.dataset in datasets and not row.curve and row.metric != "robust_accuracy"
    ]
    if not rows:
        return []
    blocks = figures(drawn, "backdoor")
    for dataset, mine in by_dataset(rows, order):
        title = label(dataset)
        blocks += matrix(f"{title}: rates in per cent, with 95 % intervals", mine, order)
        paired = [
            row for row in inputs.differences if row.dataset == dataset and row.metric != "robust_accuracy"
        ]
        if paired:
            blocks += matrix(f"{title}: {PAIRED[0].lower()}{PAIRED[1:]}", paired, order)
    blocks += measures([row for row in inputs.measures if row.dataset in datasets], order)
    lead = f"Training data are poisoned so that a trigger decides the prediction. {definitions(rows)}"
    return [section("backdoor", "Backdoor", lead, blocks)]


def other(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Cells that were neither attacked nor poisoned, and so appear in no other section."""
    datasets = {row.dataset for row in inputs.summary if row.metric == "asr"}
    attacked = {row.group for row in inputs.summary if row.metric == "robust_accuracy"}
    rows = [
        r for r in inputs.summary if not r.curve and r.dataset not in datasets and r.group not in attacked
    ]
    rows += [
        r
        for r in inputs.summary
        if not r.curve and r.dataset not in datasets and r.group in attacked and r.metric not in RATES
    ]
    if not rows:
        return []
    blocks = [block for name, mine in by_dataset(rows, order) for block in matrix(label(name), mine, order)]
    return [section("other", "Other measurements", definitions(rows), blocks)]


def examples(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Example images."""
    blocks = figures(drawn, "examples")
    lead = (
        "The first test image of each class. Changes are magnified, and grey means no change. "
        "Predictions were stored when the images were made."
    )
    return [section("examples", "Example images", lead, blocks)] if blocks else []


def measures(rows: Sequence[Measure], order: Order) -> list[Block]:
    """Numbers that are not rates over test examples and have no other place: mean over seeds, and their range."""
    rows = [row for row in rows if not shown_here(row.measure)]
    names = sorted({row.measure for row in rows})
    if not names:
        return []
    columns = [column("defense"), *(column(metric_label(name), unit_of(name)) for name in names)]
    body = []
    for _, mine in grouped(rows, lambda row: (row.dataset, order.cell(row.setting, row.defense))):
        cells = [head(mine[0])]
        cells[0]["note"] = f"{label(mine[0].dataset)} · {cells[0]['note']}"
        for name in names:
            cells.append(over_seeds([r.value for r in mine if r.measure == name], rate=is_rate(name)))
        body.append(cells)
    return table("Measures: mean over seeds, with the range over seeds below", columns, body)


def definitions(rows: Sequence[Summary]) -> str:
    """One sentence that defines each rate of some rows."""
    parts = [
        f"{METRICS[name][0]}: {METRICS[name][1]}"
        for name in METRICS
        if any(row.metric == name for row in rows)
    ]
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else ""


def by_dataset(rows: Sequence[Summary], order: Order) -> list[tuple[str, list[Summary]]]:
    """Rows by dataset, in the order of the configuration."""
    found = grouped(rows, lambda row: order.key("datasets", row.dataset))
    return [(mine[0].dataset, mine) for _, mine in found]


SECTIONS: Sequence[Callable[[Inputs, Sequence[Figure], Order], list[Block]]] = (
    evasion,
    trust,
    costs,
    properties,
    backdoor,
    other,
    curves,
    classes,
    examples,
    histories,
    published,
    errata,
)
