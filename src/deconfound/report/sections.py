"""The sections of measurements; each is a list that is empty when the experiment has nothing to show."""

from collections.abc import Callable, Sequence

from deconfound.report.backdoor import backdoor
from deconfound.report.blocks import Block, figures, fold, section
from deconfound.report.costs import costs
from deconfound.report.crossing import cross
from deconfound.report.details import classes, curves, histories
from deconfound.report.detection import detection
from deconfound.report.errata import errata
from deconfound.report.heatmaps import crowds
from deconfound.report.inputs import Difference, Inputs, Summary
from deconfound.report.interpretation.summary import interpretation
from deconfound.report.matrix import matrix
from deconfound.report.measured import PAIRED, by_dataset, definitions, measures
from deconfound.report.plotting import Figure
from deconfound.report.properties import properties
from deconfound.report.published import published
from deconfound.report.trust import trust
from deconfound.report.words import Order, label

DETECTED = ("detection_rate", "false_alarm_rate")
RATES = ("clean_accuracy", "robust_accuracy")


def evasion(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Clean and robust accuracy of every cell that was attacked at test time."""
    rows = [row for row in inputs.summary if not row.curve and row.metric in RATES]
    attacked = {row.group for row in rows if row.metric == "robust_accuracy"}
    rows = [row for row in rows if row.group in attacked]
    if not rows:
        return []
    blocks = figures(drawn, "evasion")
    crowd = crowds(inputs)
    for dataset, mine in by_dataset(rows, order):
        paired = [
            row
            for row in inputs.differences
            if row.dataset == dataset and row.group in attacked and row.metric in RATES
        ]
        poisons = sorted({row.poison for row in mine}, key=lambda name: order.key("poisons", name))
        if dataset not in crowd:
            blocks += accuracies(label(dataset), mine, paired, order)
            continue
        for poison in poisons:
            title = f"{label(dataset)}, {label(poison)}"
            sides = [r for r in mine if r.poison == poison], [r for r in paired if r.poison == poison]
            inner = accuracies(title, *sides, order)
            blocks += inner if poison == "clean" else [fold(f"{title}: accuracy under attack", inner)]
    backdoored = {row.dataset for row in inputs.summary if row.metric == "asr"}
    blocks += measures([row for row in inputs.measures if row.dataset not in backdoored], inputs, order)
    return [
        section(
            "evasion",
            "Evasion",
            "Images are changed at test time, within a budget, to be misread. "
            f"{definitions(rows)} In the worst case an image counts if it stays right under every attack.",
            blocks,
        )
    ]


def accuracies(
    title: str, rows: Sequence[Summary], paired: Sequence[Difference], order: Order
) -> list[Block]:
    """One table of accuracies, and one of differences where there are any."""
    blocks = matrix(f"{title}: accuracy in per cent, with 95 % intervals", rows, order)
    if paired:
        blocks += matrix(f"{title}: {PAIRED[0].lower()}{PAIRED[1:]}", paired, order)
    return blocks


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
    rows = [row for row in rows if row.metric not in DETECTED]
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


SECTIONS: Sequence[Callable[[Inputs, Sequence[Figure], Order], list[Block]]] = (
    evasion,
    trust,
    costs,
    properties,
    backdoor,
    detection,
    cross,
    interpretation,
    other,
    curves,
    classes,
    examples,
    histories,
    published,
    errata,
)
