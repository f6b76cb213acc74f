"""The section on detection: of poisoned training examples, of triggered inputs, of backdoored models."""

import math
from collections.abc import Sequence
from itertools import groupby

from deconfound.report.blocks import Block, column, facts, figures, head, section, table
from deconfound.report.heatmaps import by_place
from deconfound.report.inputs import Detection, Inputs
from deconfound.report.matrix import remarks
from deconfound.report.names import METRICS, PARTS
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, count, interval, label, number

LONG = 15  # rows from which a table is folded
LEAD = (
    "A detector is asked about a trained network and does not know what was poisoned; how well it does is scored "
    "afterwards. Detectors look in one of three ways: at training examples, at inputs at test time, or at the model as "
    "a whole. On clean data every alarm is false."
)
INPUTS = ("auroc", "detection_rate", "false_alarm_rate", "detected_at_1", "detected_at_10")
EXAMPLES = ("auroc", "precision", "recall", "share", "left")
MODEL = ("target_anomaly", "target_accused", "anomaly", "accused_any", "accused")
LOOKS = {
    "inputs": ("triggered inputs, in per cent", INPUTS),
    "examples": ("poisoned training examples, in per cent", EXAMPLES),
    "model": ("backdoored models", MODEL),
    "defense": ("training examples that a defense sets apart itself, in per cent", EXAMPLES),
}
BELOW = {"detected_at_1": "false_alarms_at_1", "detected_at_10": "false_alarms_at_10"}
PLAIN = ("target_anomaly", "anomaly", "accused")  # no shares


def detection(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """A table per data set, model and way of looking: a row per detector and network."""
    if not inputs.detection:
        return []
    blocks = figures(drawn, "detection")
    for look, (title, names) in LOOKS.items():
        rows = [row for row in inputs.detection if row.look == look]
        for place, mine in by_place(rows, order):
            where = f"{label(place[0])} · {label(place[1])}: {title}"
            blocks += detected(where, mine, names, order)
        if rows:
            shown = [name for name in names if not all(math.isnan(getattr(row, name)) for row in rows)]
            blocks.append(facts([means(name) for name in shown], folded=f"What the columns mean: {title}"))
    return [section("detection", "Detection", LEAD, blocks)]


def means(name: str) -> tuple[str, list[str]]:
    """A column and what it means."""
    words = METRICS.get(name) or PARTS[name]
    return words[0], [f"{words[1][0].upper()}{words[1][1:]}."]


def detected(title: str, rows: Sequence[Detection], names: Sequence[str], order: Order) -> list[Block]:
    """A row per detector and network (defense and poison), detectors one after the other."""
    shown = [name for name in names if not all(math.isnan(getattr(row, name)) for row in rows)]
    columns = [column("asked about"), column("detector", prose=True)]
    columns += [column(means(name)[0]) for name in shown]

    def place(row: Detection) -> tuple[object, ...]:
        return row.detector, order.cell(row.setting, row.defense)

    ordered = sorted(rows, key=place)
    body = []
    for _, mine in groupby(ordered, key=place):
        for row in mine:
            cells = [cell_of(row, name) for name in shown]
            body.append([head(row, poison=True), {"text": label(row.detector)}, *cells])
    seeds = sorted({row.seeds for row in rows})
    size = count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    notes = [
        f"Means over {size}; the small range is the 95 % interval, where there is one. A dash: not defined, as without "
        "poison."
    ]
    folded = title if len(body) > LONG else ""
    return table(title, columns, body, folded=folded, notes=[*notes, *remarks(body)])


def cell_of(row: Detection, name: str) -> Block:
    """A number over its interval, a rate over the false alarms at the same threshold, or a dash."""
    value = float(getattr(row, name))
    if math.isnan(value) and name not in BELOW:
        return {"text": "–"}
    cell: Block = {"text": number(value, rate=name not in PLAIN), "gate": row.gate}
    if not math.isnan(value):
        cell["value"] = value
    if name in BELOW:
        alarms = getattr(row, BELOW[name])
        return cell | {"note": f"false alarms {number(alarms)}"} if not math.isnan(alarms) else cell
    if (low := getattr(row, f"{name}_low", None)) is not None:
        cell["note"] = interval(low, getattr(row, f"{name}_high"))
    return cell
