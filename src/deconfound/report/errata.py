"""The section on where paper and code disagree: what each says, what is followed here, and what the other way costs."""

from collections.abc import Sequence

from deconfound.report.blocks import Block, facts, section
from deconfound.report.inputs import Difference, Erratum, Inputs
from deconfound.report.matrix import matrix
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, count, label

LEAD = (
    "A paper and its released code often describe two methods. Each point says what either does, which one is followed "
    "here and why, and which option selects the other reading. Where an experiment runs the other reading as a defense "
    "of its own, its paired difference to the default stands in the table below."
)
RATES = (("clean_accuracy", "none"), ("robust_accuracy", "worst_case"), ("robust_accuracy", "pgd"))


def errata(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """The disagreements of each source, and the differences that were measured."""
    if not inputs.errata:
        return []
    blocks: list[Block] = []
    for paper in dict.fromkeys(row.paper for row in inputs.errata):
        mine = [row for row in inputs.errata if row.paper == paper]
        entries: dict[str, list[Erratum]] = {}
        for row in mine:
            entries.setdefault(row.id, []).append(row)
        folded = f"{paper}: {count(len(entries), 'point')}"
        blocks.append(facts([line for rows in entries.values() for line in said(rows)], folded=folded))
        if measured := differences(mine):
            caption = (
                f"{paper}: the other reading minus the default, in points, over the same examples and seeds"
            )
            blocks += matrix(caption, measured, order)
    return [section("errata", "Where paper and code disagree", LEAD, blocks)]


def said(rows: Sequence[Erratum]) -> list[tuple[str, list[str]]]:
    """The lines of one disagreement, in the order in which they are read; the first is named after it."""
    first = rows[0]
    words = [f"Paper: {first.says}", f"Code: {first.does}", f"Here: {first.followed}"]
    words.append(f"Switch: {first.switch}" if first.switch else f"No switch: {first.reason}")
    if first.ablation:
        where = "in the table below" if any(row.dataset for row in rows) else "not run in this experiment"
        words.append(f"Ablation: {label(first.ablation)} against {label(first.against)}, {where}.")
    return [(first.about if place == 0 else "", [text]) for place, text in enumerate(words)]


def differences(rows: Sequence[Erratum]) -> list[Difference]:
    """The headline differences of the ablations that ran."""
    return [row for row in rows if row.dataset and (row.metric, row.attack) in RATES]
