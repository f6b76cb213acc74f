"""Tables of readings: rows and columns as the layout of their kind says, controls in the cell of what they control."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deconfound.report.blocks import Block, column, facts, fold, head, table
from deconfound.report.inputs import Interpretation
from deconfound.report.interpretation.layouts import Layout, Pick
from deconfound.report.interpretation.vocabulary import Form, shown, subject_words
from deconfound.report.words import Order, count, label

Rows = Sequence[Interpretation]
Marks = Mapping[tuple[str, str], str]  # (cell, attribution) -> why its maps are in doubt
MANY = 16  # rows from which a table is folded
VERDICTS = (Form.PASSED, Form.FAILED)
SLUGS = {"passed": "supported", "failed": "contradicted"}
OPEN = 1  # cells of which the whole table is in view


def of_kind(rows: Rows, layout: Layout, order: Order, marks: Marks) -> list[Block]:
    """Tables of one kind: the cells side by side, then the whole table of each."""
    blocks: list[Block] = []
    for where, mine in by_place(rows, order):
        names = list(dict.fromkeys(row.interpretation for row in mine))
        for name in names:
            title = where + (f" · {label(name)}" if len(names) > 1 or len(by_place(rows, order)) > 1 else "")
            blocks += of_block(
                [row for row in mine if row.interpretation == name], layout, order, marks, title
            )
    return [*blocks, *meanings(rows, layout)]


def of_block(rows: Rows, layout: Layout, order: Order, marks: Marks, title: str) -> list[Block]:
    """Tables of one block on one data set and model."""
    groups = by_cell(rows, order)
    if layout.across == "model":
        return models_across(groups, layout, title)
    blocks = compared(rows, layout, order, marks, title) if len(groups) > 1 or layout.each else []
    several = len({row.poison for row in rows}) > 1
    for number, mine in enumerate(groups):
        about = f"{title} · {cell_words(mine[0], poison=several)}"
        whole = [
            block for part in families(mine, layout) for block in detailed(part, mine, layout, about, marks)
        ]
        hidden = bool(blocks) or number >= OPEN
        blocks = [*blocks, *([fold(f"All readings: {about}", whole)] if hidden and whole else whole)]
    return blocks


def models_across(groups: Sequence[Rows], layout: Layout, title: str) -> list[Block]:
    """A row per reading, a column per cell; what stands below other numbers as their control has no row of its own."""
    everything = [row for mine in groups for row in mine]
    several = len({row.poison for row in everything}) > 1
    known = sorted({row.condition for row in everything})
    below = below_others(everything, layout, known)
    places = {(row.subject, row.condition, row.metric) for row in everything} - below

    def key(at: tuple[str, str, str]) -> tuple[Any, ...]:
        return layout.reading_key(at[1], at[2], at[0])

    body: list[list[Block]] = []
    for subject, condition, metric in sorted(places, key=key):
        word = layout.word(metric, condition, subject)
        unit = ", per cent" if word.form is Form.SHARE else ""
        about = " · ".join([subject_words(subject), *filter(None, [layout.condition_words(condition)])])
        line: list[Block] = [{"text": word.name + unit, "note": about}]
        for mine in groups:
            found = [r for r in mine if (r.subject, r.condition, r.metric) == (subject, condition, metric)]
            line.append(cell_of(found[0], mine, layout) if found else {"text": "–"})
        body.append(line)
    columns = [column("reading"), *(column(cell_words(mine[0], poison=several)) for mine in groups)]
    notes = [size_of(everything), *control_note(body, layout)]
    return table(title, columns, body, folded=title if len(body) > 3 * MANY else "", notes=notes)


def below_others(rows: Rows, layout: Layout, known: Sequence[str]) -> set[tuple[str, str, str]]:
    """Places (subject, condition, metric) whose numbers stand in the cells of others, as their controls."""
    return {
        (row.subject, name, row.metric) for row in rows for name, _ in layout.controls(row.condition, known)
    }


def families(rows: Rows, layout: Layout) -> list[list[Interpretation]]:
    """Rows parted by what shares no metric (subjects where conditions are columns, else subjects under a condition):
    each part makes a table without empty corners.
    """

    def place(row: Interpretation) -> tuple[str, str]:
        return row.subject, row.condition if layout.across == "metric" else ""

    metrics: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        metrics.setdefault(place(row), set()).add(row.metric)
    parts: list[tuple[set[tuple[str, str]], set[str]]] = []
    for at, mine in metrics.items():
        apart = [part for part in parts if not part[1] & mine]
        joined = [part for part in parts if part[1] & mine]
        places = {at}.union(*(part[0] for part in joined))
        parts = [*apart, (places, mine.union(*(part[1] for part in joined)))]
    found = [[row for row in rows if place(row) in places] for places, _ in parts]
    return sorted(found, key=len, reverse=True)


def cell_words(row: Interpretation, *, poison: bool) -> str:
    """'CBD', or with its training set."""
    return label(row.defense) + (f", {label(row.poison)}" if poison or row.poison != "clean" else "")


def compared(rows: Rows, layout: Layout, order: Order, marks: Marks, title: str) -> list[Block]:
    """A row per cell (and subject), a column per number that the layout holds up; nothing where it holds up none."""
    picks = [pick for pick in layout.headline if any(map(pick.takes, rows))]
    if not picks:
        return []
    groups = by_cell(rows, order)
    several = len({row.poison for row in rows}) > 1
    columns = [column("model"), *([column(layout.subjects, prose=True)] if layout.each else [])]
    columns += [column(pick.title, pick.note) for pick in picks]
    body: list[list[Block]] = []
    for mine in groups:
        subjects = sorted(
            {row.subject for row in mine if any(pick.takes(row) for pick in picks)}, key=layout.subject_key
        )
        for subject in subjects if layout.each else [""]:
            line = [row for row in mine if row.subject == subject] if subject else mine
            first = [head(mine[0], poison=several)]
            if subject:
                first.append({"text": subject_words(subject)} | doubted(marks, mine[0], subject))
            body.append([*first, *(picked(line, pick, layout) for pick in picks)])
    taken = [row for row in rows if any(pick.takes(row) for pick in picks)]
    notes = [size_of(taken), *control_note(body, layout)]
    caption = f"{title}: models side by side" if len(groups) > 1 else title
    return table(caption, columns, body, folded=caption if len(body) > MANY else "", notes=notes)


def doubted(marks: Marks, row: Interpretation, subject: str) -> Block:
    """The mark of a map that failed a check."""
    return {"doubt": why} if (why := marks.get((row.group, subject))) else {}


def picked(rows: Rows, pick: Pick, layout: Layout) -> Block:
    """The number that a column asks for: of several the best or worst, with its name, as the pick says."""
    found = [row for row in rows if pick.takes(row) and not math.isnan(row.value)]
    if not found:
        return {"text": "–"}
    chosen = pick.choose(found)
    cell = cell_of(chosen, rows, layout)
    if len({row.subject for row in found}) > 1:
        cell["rank"] = subject_words(chosen.subject) + (f" · {cell['rank']}" if "rank" in cell else "")
    return cell


def detailed(rows: Rows, everything: Rows, layout: Layout, title: str, marks: Marks) -> list[Block]:
    """All readings of a part of a cell, as the layout says. What stands below other numbers as their control has no row
    of its own.
    """
    below = below_others(rows, layout, sorted({row.condition for row in everything}))
    mine = [row for row in rows if (row.subject, row.condition, row.metric) not in below]
    under = {down_of(row, layout) for row in mine}
    found = {(row.subject, down_of(row, layout), across_of(row, layout)): row for row in mine}
    lines = sorted(
        {at[:2] for at in found}, key=lambda at: (layout.subject_key(at[0]), line_key(at[1], layout))
    )
    names = sorted({at[2] for at in found}, key=lambda name: column_key(name, layout))
    body = []
    for subject, second in lines:
        first = {"text": subject_words(subject), "note": line_words(second, layout) if len(under) > 1 else ""}
        cells = [found.get((subject, second, name)) for name in names]
        numbers = [cell_of(one, everything, layout) if one else {"text": "–"} for one in cells]
        body.append([first | doubted(marks, rows[0], subject), *numbers])
    if layout.across == "metric" and len(under) == 1:
        title += f": {line_words(next(iter(under)), layout)}"
    columns = [column(layout.subjects), *(column_head(name, layout) for name in names)]
    notes = [size_of(mine), *control_note(body, layout)]
    return table(title, columns, body, folded=title if len(body) > MANY else "", notes=notes)


def down_of(row: Interpretation, layout: Layout) -> str:
    """What tells the rows of a subject apart: its conditions or metrics; nothing where all are columns."""
    return {"metric": row.condition, "condition": row.metric}.get(layout.across, "")


def across_of(row: Interpretation, layout: Layout) -> tuple[str, str]:
    """The column of a reading as (condition, metric), either empty where it does not tell columns apart."""
    parts = {"metric": ("", row.metric), "condition": (row.condition, "")}
    return parts.get(layout.across, (row.condition, row.metric))


def line_key(second: str, layout: Layout) -> tuple[Any, ...]:
    """Sort key of the rows of a subject."""
    return layout.metric_key(second) if layout.across == "condition" else layout.condition_key(second)


def line_words(second: str, layout: Layout) -> str:
    """What stands below the subject of a row."""
    return layout.word(second).name if layout.across == "condition" else layout.condition_words(second)


def column_key(name: tuple[str, str], layout: Layout) -> tuple[Any, ...]:
    """Sort key of a column."""
    if layout.across == "condition":
        return layout.condition_key(name[0])
    return layout.reading_key(*name) if layout.across == "reading" else layout.metric_key(name[1])


def column_head(name: tuple[str, str], layout: Layout) -> Block:
    """Head of a column: the metric with its unit, or the condition."""
    condition, metric = name
    if not metric:
        return column(layout.condition_words(condition))
    word = layout.word(metric, condition)
    unit = "per cent" if word.form is Form.SHARE else ""
    about = (
        layout.condition_words(condition) if condition and f"{condition}.{metric}" not in layout.words else ""
    )
    return column(word.name, ", ".join(filter(None, [about, unit])))


def control_note(body: Sequence[Sequence[Block]], layout: Layout) -> list[str]:
    """What the last line of a cell says, where there is one."""
    if not layout.beside or not any("rank" in cell for line in body for cell in line):
        return []
    return [f"Last line of a cell: the same number of its control ({', '.join(layout.beside.values())})."]


def cell_of(row: Interpretation, rows: Rows, layout: Layout) -> Block:
    """A number over its interval, and below both the numbers of its controls (of its cell, subject and metric)."""
    form = layout.word(row.metric, row.condition, row.subject).form
    cell: Block = {"text": shown(row.value, form), "note": bounds(row, form)}
    if not math.isnan(row.value):
        cell["value"] = row.value
    if form in VERDICTS and not math.isnan(row.value):
        return cell | {"note": "", "slug": SLUGS.get(cell["text"], "inconclusive")}
    alike = {
        other.condition: other
        for other in rows
        if (other.group, other.subject, other.metric) == (row.group, row.subject, row.metric)
    }
    controls = layout.controls(row.condition, sorted(alike))
    said = [f"{words}\N{NO-BREAK SPACE}{shown(alike[name].value, form)}" for name, words in controls]
    return cell | ({"rank": ", ".join(said)} if said else {})


def bounds(row: Interpretation, form: Form) -> str:
    """'0.46 to 0.55'; empty without an interval, and in words when one seed leaves it unbounded."""
    if math.isnan(row.low) or math.isnan(row.high):
        return ""
    if math.isinf(row.low) or math.isinf(row.high):
        return "one seed"
    return f"{shown(row.low, form)} to {shown(row.high, form)}"


def size_of(rows: Rows) -> str:
    """On how many images and seeds the numbers of a table rest."""
    seeds = sorted({row.seeds for row in rows})
    images = sorted({row.total for row in rows if row.total})
    over = count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    if not images:
        return f"Numbers of a run, over {over}; the small range is the 95 % interval over seeds, where there is one."
    number = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
    return f"Over {number} test images and {over}; the small range is the 95 % interval."


def meanings(rows: Rows, layout: Layout) -> list[Block]:
    """What the metrics of some rows mean, folded."""
    places = {(row.subject, row.condition, row.metric) for row in rows}
    ordered = sorted(places, key=lambda at: layout.reading_key(at[1], at[2], at[0]))
    found = dict.fromkeys(layout.word(metric, condition, subject) for subject, condition, metric in ordered)
    known = [(word.name, [word.meaning]) for word in found if word.meaning]
    return [facts(known, folded="What the numbers mean")] if known else []


def by_place(rows: Rows, order: Order) -> list[tuple[str, list[Interpretation]]]:
    """Rows by data set and model, in the order of the configuration, with words."""
    places = sorted(
        {(row.dataset, row.model) for row in rows},
        key=lambda at: (order.key("datasets", at[0]), order.key("models", at[1])),
    )
    return [
        (f"{label(at[0])} · {label(at[1])}", [row for row in rows if (row.dataset, row.model) == at])
        for at in places
    ]


def by_cell(rows: Rows, order: Order) -> list[list[Interpretation]]:
    """Rows by cell, in the order of the configuration."""
    groups: dict[str, list[Interpretation]] = {}
    for row in sorted(rows, key=lambda row: order.cell(row.setting, row.defense)):
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())
