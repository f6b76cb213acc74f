"""Tables of rates: a row per defense, a column per condition (metric, attack, budget)."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from deconfound.report.blocks import Block, column, difference, head, rate, table
from deconfound.report.gates import PASSED
from deconfound.report.inputs import Difference, PerClass, Summary
from deconfound.report.words import Order, budget, count, label, metric_label, radius, ranks

RANKED = (("clean_accuracy", "none"), ("robust_accuracy", "worst_case"), ("asr", "none"))
NOTES = {
    "quiet": "Grey: a paired test, corrected for all differences of the data set (Holm), does not tell the two apart.",
    "rank": "Ranks: the best and the worst place (1 is best) that a defense can take among those of its setting, by "
    "paired tests corrected for their number (Holm). Rows whose ranks overlap cannot be ranked.",
}


class Condition(NamedTuple):
    """What a column of numbers holds fixed; steps: of a point of a curve over steps, else 0."""

    metric: str
    attack: str
    norm: str
    eps: float
    steps: int = 0


Rows = Sequence[Summary] | Sequence[Difference]


def condition(row: Summary | Difference | PerClass) -> Condition:
    """What a column of numbers holds fixed. The trigger of a run's own poison needs no name in a column."""
    attack = "none" if row.attack == row.poison else row.attack
    steps = row.steps if isinstance(row, Summary) else 0
    return Condition(row.metric, attack, row.norm, row.eps if row.eps == row.eps else 0.0, steps)


def condition_key(order: Order) -> Any:
    """Sort key of conditions: by metric, then as the attacks are listed, the worst case last."""

    def place(at: Condition) -> tuple[Any, ...]:
        metric, attack, norm, *point = at
        first = METRIC_ORDER.get(metric, 9), metric, order.key("attacks", attack)
        return *first, NORM_ORDER.get(norm, 9), *point

    return place


NORM_ORDER = {"": 0, "linf": 1, "l2": 2, "l1": 3, "wasserstein": 4}
METRIC_ORDER = {
    name: place
    for place, name in enumerate(
        (
            *("clean_accuracy", "asr", "triggered_accuracy", "target_recall", "cross_accuracy"),
            *("robust_accuracy", "detection_rate", "false_alarm_rate", "auroc"),
        )
    )
}


def matrix(caption: str, rows: Rows, order: Order, *, curve: str = "", folded: str = "") -> list[Block]:
    """A row per defense (or difference) and a column per condition, with n at the head of each column; `curve` is the
    axis of a security curve, whose points are then the columns.
    """
    conditions = sorted({condition(row) for row in rows}, key=condition_key(order))
    lines: dict[tuple[Any, ...], dict[Condition, Summary | Difference]] = {}
    sizes: dict[Condition, list[tuple[int, int]]] = {}
    for row in rows:
        place = (*order.cell(row.setting, row.defense), against(row))
        lines.setdefault(place, {})[condition(row)] = row
        sizes.setdefault(condition(row), []).append((row.total, row.seeds))
    columns = [column("defense − control" if any(map(against, rows)) else "defense")]
    columns += [condition_column(at, sizes[at], curve=curve) for at in conditions]
    mixed = len({row.poison for row in rows}) > 1
    body = []
    for _, line in sorted(lines.items(), key=itemgetter(0)):
        first = next(iter(line.values()))
        cells = [head(first, against=against(first), poison=mixed)]
        body.append(cells + [number_cell(line.get(at)) for at in conditions])
    return table(caption, columns, body, folded=folded, notes=remarks(body))


def remarks(body: Sequence[Sequence[Block]]) -> list[str]:
    """What is to be said of grey numbers, ranks and the trust gate, where a table has them."""
    cells = [cell for line in body for cell in line]
    notes = [words for key, words in NOTES.items() if any(key in cell for cell in cells)]
    passed = any(str(cell.get("gate", "")).startswith(PASSED) for cell in cells)
    return [*notes, "Numbers without a mark passed the trust gate."] if passed else notes


def against(row: Summary | Difference) -> str:
    """Control of a difference; empty for a rate."""
    return row.control if isinstance(row, Difference) else ""


def number_cell(row: Summary | Difference | None) -> Block:
    """A rate or a difference over its interval, or a dash."""
    if row is None:
        return {"text": "–"}
    if isinstance(row, Difference):
        return difference(row)
    cell, words = rate(row), ranks(row.rank_low, row.rank_high)
    shown = words and not row.curve and condition(row)[:2] in RANKED
    return cell | {"rank": words} if shown else cell


def condition_column(at: Condition, sizes: Iterable[tuple[int, int]], *, curve: str = "") -> dict[str, str]:
    """Head of a column: what is measured, the budget, and n from the (examples, seeds) of its rows."""
    metric, attack, norm, eps, steps = at
    title, within = metric_label(metric), ""
    if curve:
        title = count(steps, "step") if curve == "steps" else f"eps {radius(eps)}"
    elif attack != "none":
        title = label(attack) if metric == "robust_accuracy" else f"{title}, {label(attack)}"
        within = budget(norm, eps) if eps else ""
    return column(title, " · ".join(note for note in (within, size_note(sizes)) if note))


def size_note(sizes: Iterable[tuple[int, int]]) -> str:
    """'n = 3 × 500' from (examples, seeds); a range where rows differ; empty without rows."""
    known = sorted(set(sizes))
    if not known:
        return ""
    totals, seeds = sorted({total for total, _ in known}), sorted({number for _, number in known})
    words = [str(v[0]) if len(v) == 1 else f"{v[0]}–{v[-1]}" for v in (seeds, totals)]
    return "n = {} × {}".format(*words).replace(" ", "\N{NO-BREAK SPACE}")


def class_names(rows: Sequence[PerClass]) -> list[str]:
    """Names of the classes in their own order; a condition that lacks some (no ASR of the target) has no say."""
    found: dict[tuple[object, str], list[str]] = {}
    for row in rows:
        found.setdefault((condition(row), row.defense), []).append(row.label)
    return max(found.values(), key=len, default=[])
