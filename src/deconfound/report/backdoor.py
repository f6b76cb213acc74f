"""The section on backdoors: one table where there are few poisons, else tables of colours above a table per poison."""

import math
from collections.abc import Sequence

from deconfound.report.blocks import Block, column, facts, figures, fold, head, section, table
from deconfound.report.figures import by_setting, grouped
from deconfound.report.gates import has_failed
from deconfound.report.heatmaps import by_place, crowds
from deconfound.report.inputs import Backdoor, Inputs, Summary
from deconfound.report.matrix import (
    Condition,
    condition,
    condition_column,
    condition_key,
    matrix,
    number_cell,
    remarks,
)
from deconfound.report.measured import GAINS, PAIRED, by_dataset, definitions, meanings, measures
from deconfound.report.plotting import Figure
from deconfound.report.properties import over_seeds, unit_of
from deconfound.report.words import Order, count, interval, label, metric_label, number

ELSEWHERE = ("robust_accuracy", "detection_rate", "false_alarm_rate")
LEAD = "Training data are poisoned so that a trigger decides the prediction."


def backdoor(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Backdoor metrics of every dataset that was poisoned, beside the same defenses on clean data."""
    datasets = {row.dataset for row in inputs.summary if row.metric == "asr"}
    rows = [
        row
        for row in inputs.summary
        if row.dataset in datasets and not row.curve and row.metric not in ELSEWHERE
    ]
    if not rows:
        return []
    blocks = figures(drawn, "backdoor")
    said = [name for name in order.remarks if name in {row.poison for row in rows}]
    if said:
        blocks.append(facts([(label(name), [order.remarks[name]]) for name in said]))
    crowd = crowds(inputs)
    for dataset, mine in by_dataset(rows, order):
        blocks += many(mine, inputs, order) if dataset in crowd else few(dataset, mine, inputs, order)
    blocks += measures([row for row in inputs.measures if row.dataset in datasets - crowd], inputs, order)
    return [section("backdoor", "Backdoor", f"{LEAD} {definitions(rows)}", blocks)]


def few(dataset: str, rows: Sequence[Summary], inputs: Inputs, order: Order) -> list[Block]:
    """One table of rates, and one of differences."""
    title = label(dataset)
    blocks = matrix(f"{title}: rates in per cent, with 95 % intervals", rows, order)
    paired = [row for row in inputs.differences if row.dataset == dataset and row.metric not in ELSEWHERE]
    if paired:
        blocks += matrix(f"{title}: {PAIRED[0].lower()}{PAIRED[1:]}", paired, order)
    return blocks


def many(rows: Sequence[Summary], inputs: Inputs, order: Order) -> list[Block]:
    """What each defense reaches over all poisons, and behind a line for each poison its numbers."""
    gains = [row for row in inputs.backdoor if row.dataset == rows[0].dataset]
    blocks = []
    for _, mine in by_place(gains, order):
        blocks += overview(mine, order)
    blocks += meanings(["der", "rir", "worst_class_drop", "training_cost"])
    for setting, mine_ in by_setting(rows, order):
        words = count(len({row.defense for row in mine_}), "defense")
        inner = of_setting(mine_, inputs, order)
        blocks.append(fold(f"{setting_label_of(setting)}: {words} in numbers", inner))
    return blocks


def setting_label_of(setting: tuple[str, str, str]) -> str:
    """(dataset, poison, model) as prose, with the poison first, and with words for clean data."""
    dataset, poison, model = setting
    return " · ".join(label(part) for part in (poison, dataset, model))


def overview(rows: Sequence[Backdoor], order: Order) -> list[Block]:
    """A row per defense: the most successful poison, and means over poisons."""
    columns = [
        column("defense"),
        column("highest attack success rate", "under which poison"),
        column("attack success rate", "mean, range"),
        column("clean accuracy", "mean, range"),
        column("DER", "mean, range"),
        column("lowest DER", "under which poison"),
        column("training cost", unit_of("training_cost")),
    ]
    body = []
    for _, mine in grouped(rows, lambda row: order.key("defenses", row.defense)):
        gate = next((row.gate for row in mine if has_failed(row.gate)), mine[0].gate)
        first = {"text": label(mine[0].defense), "note": count(len(mine), "poison")}
        means = [
            spread([getattr(row, name) for row in mine], gate) for name in ("asr", "clean_accuracy", "der")
        ]
        cost = spread([row.training_cost for row in mine], "", rate=False)
        body.append(
            [first, extreme(mine, "asr", highest=True), *means, extreme(mine, "der", highest=False), cost]
        )
    where = f"{label(rows[0].dataset)} · {label(rows[0].model)}"
    note = (
        "Means over poisons and seeds, with the range over poisons; they carry no interval, since the poisons are no "
        "sample of all poisons."
    )
    return table(f"{where}: each defense over all poisons, in per cent", columns, body, notes=[note])


def spread(values: Sequence[float], gate: str, *, rate: bool = True) -> Block:
    """Mean over poisons over their range."""
    known = [value for value in values if not math.isnan(value)]
    cell = over_seeds(known, rate=rate)
    if not known[1:]:
        cell.pop("note", None)
    return cell | {"gate": gate} if gate and known else cell


def extreme(rows: Sequence[Backdoor], name: str, *, highest: bool) -> Block:
    """The highest or lowest value over poisons, over the poison; a dash where there is none."""
    known = [row for row in rows if not math.isnan(getattr(row, name))]
    if not known:
        return {"text": "–"}
    row = sorted(known, key=lambda row: (getattr(row, name), row.poison))[-1 if highest else 0]
    value = getattr(row, name)
    return {"text": number(value), "note": label(row.poison), "value": value, "gate": row.gate}


def of_setting(rows: Sequence[Summary], inputs: Inputs, order: Order) -> list[Block]:
    """Rates and gains, paired differences, and measures of one training set."""
    group = rows[0].setting
    title = setting_label_of(group)
    gains = {row.group: row for row in inputs.backdoor if row.setting == group}
    what = "rates and gains" if gains else "rates"
    blocks = effects(f"{title}: {what} in per cent, with 95 % intervals", rows, gains, order)
    paired = [row for row in inputs.differences if row.setting == group and row.metric not in ELSEWHERE]
    if paired:
        blocks += matrix(f"{title}: {PAIRED[0].lower()}{PAIRED[1:]}", paired, order)
    mine = [row for row in inputs.measures if row.setting == group]
    left_out = (*GAINS, "training_cost") if gains else ()
    return blocks + measures(mine, inputs, order, without=left_out, caption=f"{title}, measures")


def effects(caption: str, rows: Sequence[Summary], gains: dict[str, Backdoor], order: Order) -> list[Block]:
    """A row per defense of one training set: its rates, then DER, RIR and the worst class's drop."""
    found: dict[str, dict[Condition, Summary]] = {}
    for row in rows:
        found.setdefault(row.defense, {})[condition(row)] = row
    conditions = sorted({condition(row) for row in rows}, key=condition_key(order))
    columns = [column("defense")]
    for at in conditions:
        columns.append(condition_column(at, [(r.total, r.seeds) for r in rows if condition(r) == at]))
    if gains:
        columns += [column("DER"), column("RIR"), column(metric_label("worst_class_drop"), "points")]
    body = []
    for name in sorted(found, key=lambda name: order.key("defenses", name)):
        line = found[name]
        first = next(iter(line.values()))
        cells = [head(first), *(number_cell(line.get(at)) for at in conditions)]
        body.append(cells + (gain_cells(gains.get(first.group)) if gains else []))
    notes = ["DER, RIR and the drop are against the control of the same seed, over seeds."] if gains else []
    return table(caption, columns, body, notes=[*notes, *remarks(body)])


def gain_cells(row: Backdoor | None) -> list[Block]:
    """DER and RIR over their intervals, and the mean drop of the worst class; dashes for a control."""
    if row is None or math.isnan(row.worst_class_drop):
        return [{"text": "–"} for _ in range(3)]
    cells: list[Block] = []
    for name in ("der", "rir"):
        value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
        cells.append({"text": number(value), "note": interval(low, high), "value": value, "gate": row.gate})
    drop = row.worst_class_drop
    return [*cells, {"text": number(drop), "value": drop, "gate": row.gate}]
