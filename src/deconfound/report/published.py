"""The section of published numbers: every table of the ledgers, with what was measured here beside it."""

import math
import re
from collections.abc import Mapping, Sequence

from deconfound.report.blocks import Block, column, facts, section, table
from deconfound.report.figures import grouped
from deconfound.report.gates import has_failed
from deconfound.report.inputs import Inputs, PerClass, Published, Summary
from deconfound.report.matrix import condition
from deconfound.report.names import DAGGER, METRICS
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, budget, interval, is_rate, label, listing, metric_label, number

MARKS: Mapping[str, str] = {
    "P": "the paper, read",
    "A": "its abstract or first page, read",
    "C": "its official code, read",
    "H": "the history of its official repository",
    "F": "figures of its official repository",
    "D": "digitised from a figure, with the reading error that stands beside it",
    "S": "second hand: public reading notes of the paper",
    "N": "checked numerically by this project",
    "M": "from memory, not checked",
}
BACKDOOR = ("asr", "triggered_accuracy")  # metrics of stamped images
EMPTY = {"text": "–", "note": "not obtained"}
LEAD = (
    "Every number that the sources published and that could be obtained, with the mark of how it came here; a dash "
    "stands where a number is known to exist and was not obtained. A measured value stands beside a published one only "
    "where this experiment has the same data set, network, defense, metric, attack and budget. That is not yet the "
    "same experiment: epochs, steps of the attack and the choice of the checkpoint may differ."
)


def published(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """The tables of each source, folded, and those that are only known to exist."""
    if not inputs.published:
        return []
    used = {row.provenance for row in inputs.published} | set(
        re.findall(r"\[([A-Z])\]", " ".join(row.note + row.comment for row in inputs.published))
    )
    blocks = [facts([(f"[{mark}]", [words]) for mark, words in MARKS.items() if mark in used])]
    for paper, mine in by(inputs.published, "paper"):
        for _, rows in by([row for row in mine if row.obtained], "table"):
            blocks += numbers(rows, inputs)
        missing = [row for row in mine if not row.obtained]
        if missing:
            blocks.append(facts([about_missing(row) for row in missing], folded=f"{paper}: not obtained"))
    return [section("published", "Published numbers", LEAD, blocks)]


def by(rows: Sequence[Published], name: str) -> list[tuple[str, list[Published]]]:
    """Rows by one of their fields, in the order of the ledgers."""
    places = {value: place for place, value in enumerate(dict.fromkeys(getattr(row, name) for row in rows))}
    found = grouped(rows, lambda row: places[getattr(row, name)])
    return [(getattr(mine[0], name), mine) for _, mine in found]


def about_missing(row: Published) -> tuple[str, list[str]]:
    """A table that was not obtained: its place in the paper, its title, and what is said of it."""
    said = [f"{row.title} [{row.provenance}]", "–, not obtained"]
    return row.source, said + ([row.note] if row.note else [])


def numbers(rows: Sequence[Published], inputs: Inputs) -> list[Block]:
    """One published table: a row per line of the source, a column per column."""
    first = rows[0]
    unit, mark = most_common([row.unit for row in rows]), most_common([row.provenance for row in rows])
    within = most_common([budget(row.norm, row.eps) for row in rows])
    lines = by(rows, "row")
    columns = [column("row")]
    for row in lines[0][1]:
        own = [row.column_source, "" if row.unit == unit else row.unit]
        if (threat := budget(row.norm, row.eps)) != within:
            own.append(threat)
        columns.append(column(row.column, " · ".join(word for word in own if word)))
    body: list[list[Block]] = []
    compared = False
    for name, line in lines:
        own_mark = line[0].provenance
        body.append([{"text": name} if own_mark == mark else {"text": name, "note": f"[{own_mark}]"}])
        for row in line:
            beside = measured(row, inputs)
            compared = compared or bool(beside)
            body[-1].append(cell(row, decimals(row, rows), beside))
    models = list(dict.fromkeys(row.model for row in rows))
    where = " · ".join(word for word in (first.dataset, *models[: len(models) == 1], within) if word)
    title = first.title + (f" ({where})" if where else "") + (f", {unit_words(unit)}" if unit else "")
    source = f"Source: {first.source} [{mark}]."
    if not math.isnan(first.error):
        source += f" Reading error ±{first.error:g}."
    notes = [source, first.note, "" if compared else reason(rows, inputs)]
    return table(
        f"{first.paper}: {title}",
        columns,
        body,
        folded=f"{first.paper}, {first.source}: {title}",
        notes=[words for words in notes if words],
    )


def most_common(words: Sequence[str]) -> str:
    """The word that stands most often."""
    return max(dict.fromkeys(words), key=words.count)


def unit_words(unit: str) -> str:
    """A unit as a caption ends with it."""
    return {"%": "in per cent", "fraction": "as fractions"}.get(unit, f"in {unit}")


def decimals(row: Published, rows: Sequence[Published]) -> int:
    """Decimals of a number: those of its table's numbers of the same unit and mark; of its line's if rounded."""
    alike = [
        f"{other.value:.6g}"
        for other in rows
        if (other.unit, other.provenance, other.approximate) == (row.unit, row.provenance, row.approximate)
        and (not row.approximate or other.row == row.row)
        and not math.isnan(other.value)
    ]
    return max((len(text.partition(".")[2]) for text in alike), default=0)


def cell(row: Published, places: int, beside: str) -> Block:
    """A published number with its standard deviation, what is said of it, and what was measured here."""
    if math.isnan(row.value):
        return {**EMPTY, "note": " · ".join(word for word in (EMPTY["note"], row.comment, beside) if word)}
    spread = "" if math.isnan(row.sd) else f"± {row.sd:.{places}f}"
    notes = [word for word in (spread, row.comment, beside) if word]
    text = f"{'≈' if row.approximate else ''}{row.value:.{places}f}".replace("-", "−")
    return {"text": text, "value": row.value} | ({"note": " · ".join(notes)} if notes else {})


def fold(name: str) -> str:
    """A name without what people write in different ways: 'CIFAR-10' and `cifar10` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def measured(row: Published, inputs: Inputs) -> str:
    """'measured 51.2 (49.0 to 53.1)' where the experiment has the same quantity; else empty."""
    rows: Sequence[Summary | PerClass] = inputs.per_class if row.label else inputs.summary
    for found in rows:
        if candidate(row, found) and budgeted(row, found) and condition(found)[1] == attack(row):
            if isinstance(found, PerClass) and found.label != row.label:
                continue
            words = f"{number(found.value)} ({interval(found.low, found.high)})"
            return f"measured {words}{' %' if row.unit != '%' else ''}{DAGGER * has_failed(found.gate)}"
    return ""


def candidate(row: Published, found: Summary | PerClass) -> bool:
    """Are data set, network, defense and metric of a measured row those of a published one?"""
    curve = isinstance(found, Summary) and found.curve
    place = (fold(found.dataset), found.defense, found.metric, found.poison)
    same = place == (fold(row.dataset), row.defense, row.metric, row.poison or "clean")
    return same and not curve and fold(found.model) in networks(row)


def networks(row: Published) -> set[str]:
    """What an experiment may call a published number's network: ResNet-18 is `resnet18` or `resnet18_namid`."""
    return {fold(row.model), fold(row.model + row.paper)}


def attack(row: Published) -> str:
    """The name of a published number's attack in an experiment; clean images have none, and a run's own poison needs
    none.
    """
    return "none" if row.metric in ("clean_accuracy", *BACKDOOR) else row.attack


def budgeted(row: Published, found: Summary | PerClass) -> bool:
    """Was it measured within the published budget? Clean images and triggers have none."""
    return row.metric in ("clean_accuracy", *BACKDOOR) or (
        row.norm == found.norm and math.isclose(row.eps, found.eps, rel_tol=1e-3)
    )


def reason(rows: Sequence[Published], inputs: Inputs) -> str:
    """Why nothing measured stands in a published table: the first thing that the experiment does not share with it."""
    rated = [row for row in rows if is_rate(row.metric) and row.metric in METRICS]
    if not rated:
        return "Not compared: the experiment does not measure this quantity."
    found = [row for row in inputs.summary if not row.curve]
    datasets = sorted({row.dataset for row in rated})
    here = [row for row in found if fold(row.dataset) in map(fold, datasets)]
    if not here:
        return f"Not compared: the experiment has no run on {listing(datasets) or 'such data'}."
    models = {name for row in rated for name in networks(row)}
    if not (here := [row for row in here if fold(row.model) in models]):
        names = list(dict.fromkeys(row.model for row in rated))
        words = f"no {names[0]}" if len(names) == 1 and names[0] else "none of these networks"
        return f"Not compared: the experiment trains {words} on {listing(datasets)}."
    named = {row.defense for row in rated if row.defense}
    if not named or not (here := [row for row in here if row.defense in named]):
        return "Not compared: the experiment trains none of these defenses" + (
            f" ({listing(label(name) for name in sorted(named))})." if named else "."
        )
    if not any(budgeted(row, other) for row in rated for other in here if row.metric == other.metric):
        threats = sorted({budget(row.norm, row.eps) for row in rated if row.norm and row.eps == row.eps})
        return f"Not compared: nothing was measured within {listing(threats) or 'a budget that is stated'}."
    kinds = listing(dict.fromkeys(metric_label(row.metric) for row in rated))
    return f"Not compared: the experiment has no {kinds} under these attacks."
