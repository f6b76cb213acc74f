"""The cross matrix: evasion robustness of models that a backdoor defense trained, and backdoors in robust models."""

import math
from collections.abc import Sequence

from deconfound.report.blocks import Block, column, figures, head, section, table
from deconfound.report.figures import grouped
from deconfound.report.heatmaps import by_place, threats
from deconfound.report.inputs import Cross, Inputs
from deconfound.report.matrix import remarks
from deconfound.report.plotting import Figure, parts
from deconfound.report.words import Order, budget, interval, label, listing, metric_label, number

TOGETHER = 3  # poisons whose columns fit a page
LEAD = (
    "Two attacks on the same models: one changes images at test time, within a budget (robust accuracy, in the worst "
    "case of all attacks: higher is better), the other poisons the training data (attack success rate: lower is "
    "better). A defense against one may help, or hurt, against the other. The first columns are models trained on data "
    "that nobody poisoned."
)
NUMBERS = ("clean_accuracy", "robust_accuracy", "asr", "triggered_accuracy")


def cross(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """A matrix per data set, model and threat model: rows are defenses, columns training sets; all numbers behind a
    line.
    """
    if not inputs.cross:
        return []
    blocks = figures(drawn, "cross")
    for place, rows in by_place(inputs.cross, order):
        for threat in threats(rows):
            mine = [row for row in rows if (row.norm, row.eps) == threat]
            where = f"{label(place[0])} · {label(place[1])} · {budget(*threat)}"
            blocks += crossed(where, mine, order) + everything(where, mine, order)
    return [section("cross", "Cross matrix", LEAD, blocks)]


def crossed(where: str, rows: Sequence[Cross], order: Order) -> list[Block]:
    """Clean and robust accuracy without poison, then robust accuracy and attack success rate of each poison."""
    found = {(row.defense, row.poison): row for row in rows}
    defenses = sorted({row.defense for row in rows}, key=lambda name: order.key("defenses", name))
    poisons = sorted(
        {row.poison for row in rows if row.poison != "clean"}, key=lambda n: order.key("poisons", n)
    )
    clean = any(row.poison == "clean" for row in rows)
    pieces = parts(poisons, TOGETHER)
    blocks: list[Block] = []
    for group in pieces:
        places = [("clean", name) for name in ("clean_accuracy", "robust_accuracy") if clean]
        places += [(poison, name) for poison in group for name in ("robust_accuracy", "asr")]
        columns = [column("defense"), *(column(metric_label(name), label(poison)) for poison, name in places)]
        body = []
        for defense in defenses:
            line = [number_of(found.get((defense, poison)), name) for poison, name in places]
            body.append([{"text": label(defense)}, *line])
        which = f", {listing(map(label, group))}" if len(pieces) > 1 else ""
        title = f"{where}: evasion and backdoors, in per cent{which}"
        folded = title if len(pieces) > 1 else ""
        blocks += table(title, columns, body, folded=folded, notes=remarks(body))
    return blocks


def everything(where: str, rows: Sequence[Cross], order: Order) -> list[Block]:
    """A row per defense and training set, which leads to its runs."""
    columns = [column("defense"), *(column(metric_label(name)) for name in NUMBERS)]
    body = []
    for _, mine in grouped(
        rows, lambda row: (order.key("defenses", row.defense), order.key("poisons", row.poison))
    ):
        body.append([head(mine[0], poison=True), *(number_of(mine[0], name) for name in NUMBERS)])
    title = f"{where}: every training set, in per cent, with 95 % intervals"
    return table(title, columns, body, folded=title, notes=remarks(body))


def number_of(row: Cross | None, name: str) -> Block:
    """A rate over its interval, or a dash."""
    value = math.nan if row is None else float(getattr(row, name))
    if row is None or math.isnan(value):
        return {"text": "–"}
    ends = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    return {"text": number(value), "note": interval(*ends), "value": value, "gate": row.gate}
