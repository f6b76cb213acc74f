"""What several sections share: tables of measures, definitions, data sets in order."""

from collections.abc import Collection, Sequence

from deconfound.report.blocks import Block, column, facts, head, table
from deconfound.report.figures import grouped
from deconfound.report.inputs import Inputs, Measure, Summary
from deconfound.report.names import MEANINGS, METRICS, PARTS
from deconfound.report.properties import over_seeds, shown_here, unit_of
from deconfound.report.words import Order, is_rate, label, metric_label

PAIRED = "Paired differences to the control, in points, over the same examples and seeds"
GAINS = ("der", "rir", "worst_class_drop")


def measures(
    rows: Sequence[Measure], inputs: Inputs, order: Order, *, without: Collection[str] = (), caption: str = ""
) -> list[Block]:
    """Numbers that are not rates over test examples and have no other place: mean over seeds, and their range; and what
    they mean, where that needs words.
    """
    elsewhere = {*without, *detected(inputs), *(row.reading for row in inputs.interpretation)}
    rows = [row for row in rows if not shown_here(row.measure) and row.measure not in elsewhere]
    places = list(MEANINGS)
    names = sorted({row.measure for row in rows}, key=lambda n: (places.index(n) if n in places else 99, n))
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
    blocks = table(
        f"{caption or 'Measures'}: mean over seeds, with the range over seeds below", columns, body
    )
    return [*blocks, *meanings(names)]


def meanings(names: Sequence[str], title: str = "What these measures mean") -> list[Block]:
    """What some measures mean, folded; nothing for names that speak for themselves."""
    known = [(metric_label(name), [MEANINGS[name]]) for name in names if name in MEANINGS]
    return [facts(known, folded=title)] if known else []


def detected(inputs: Inputs) -> set[str]:
    """Measures that the section on detection shows."""
    names = {row.detector for row in inputs.detection}
    return {f"{name}_{part}" for name in names for part in PARTS}


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
