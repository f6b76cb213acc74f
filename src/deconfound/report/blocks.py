"""The pieces a report is made of, as plain JSON: text, tables, figures; both renderings draw only these.

A cell is {"text", "note"?, "run"?, "quiet"?, "rank"?, "gate"?}: what stands in it, the small print under it, the
anchor of the runs it rests on, True where an interval contains zero, its rank, and what the trust gate says of it.
Rates also carry value, low and high. A table adds "mark" and "doubt" to the cells that the gate does not vouch for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deconfound.report.gates import OPEN, doubt
from deconfound.report.inputs import Cell, Difference, PerClass, Summary
from deconfound.report.names import DAGGER
from deconfound.report.plotting import Figure
from deconfound.report.words import anchor, interval, is_rate, label, number

Block = dict[str, Any]
COLUMNS = 8  # number columns that fit a page
UNKNOWN = "?"  # mark of a number that the gate has not assessed, in a table with numbers that it has
UNASSESSED = "not assessed by the trust gate"


def text(content: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "text": content}


def heading(content: str) -> Block:
    """A title inside a section."""
    return {"kind": "heading", "text": content}


def section(name: str, title: str, lead: str, blocks: Sequence[Block]) -> Block:
    """A section with the sentence that opens it."""
    return {"id": name, "title": title, "lead": lead, "blocks": list(blocks)}


def table(
    caption: str,
    columns: Sequence[Mapping[str, str]],
    rows: Sequence[Sequence[Block]],
    *,
    folded: str = "",
    notes: Sequence[str] = (),
) -> list[Block]:
    """A table, split over several when it has more columns than a page holds; the first column repeats.

    `folded` is the line behind which the HTML page hides a long table. Below it stand a line per mark, and `notes`.
    """
    general = [{"mark": "", "text": note} for note in (*mark(rows), *notes)]
    chunks = -(-(len(columns) - 1) // COLUMNS)
    size = -(-(len(columns) - 1) // max(1, chunks))
    blocks = []
    for part in range(chunks):
        part_of = f" (part {part + 1} of {chunks})" if chunks > 1 else ""
        keep = [0, *range(1 + part * size, min(1 + (part + 1) * size, len(columns)))]
        kept = [[row[i] for i in keep] for row in rows]
        doubts = {cell["mark"]: cell["doubt"] for row in kept for cell in row if "mark" in cell}
        marked = [
            {"mark": name, "text": f"{words}."} for name, words in sorted(doubts.items(), key=by_length)
        ]
        blocks.append(
            {
                "kind": "table",
                "caption": caption + part_of,
                "columns": [dict(columns[i]) for i in keep],
                "rows": kept,
                "folded": folded and folded + part_of,
                "notes": marked + (general if part == chunks - 1 else []),
            }
        )
    return blocks


def mark(rows: Sequence[Sequence[Block]]) -> list[str]:
    """Mark the cells in doubt (a failed gate, a "doubt" of their own), and those not assessed where others are.

    Returns what is to be said of the table as a whole.
    """
    cells = [cell for row in rows for cell in row]
    for cell in cells:
        if words := doubt(cell.get("gate", "")):
            cell["doubt"] = words
    doubts = list(dict.fromkeys(cell["doubt"] for cell in cells if "doubt" in cell))
    for cell in cells:
        if "doubt" in cell:
            cell["mark"] = DAGGER + (str(doubts.index(cell["doubt"]) + 1) if doubts[1:] else "")
    judged = [cell for cell in cells if cell.get("gate")]
    unknown = [cell for cell in judged if cell["gate"].startswith(OPEN)]
    if unknown and len(unknown) == len(judged):
        return [f"These numbers are {UNASSESSED}."]
    for cell in unknown:
        cell |= {"mark": UNKNOWN, "doubt": UNASSESSED.capitalize()}
    return []


def by_length(item: tuple[str, str]) -> tuple[bool, int, str]:
    """Sort key of marks: †2 before †10, and the unknown last."""
    return item[0] == UNKNOWN, len(item[0]), item[0]


def fold(title: str, blocks: Sequence[Block]) -> Block:
    """Blocks that the HTML page hides behind a line."""
    return {"kind": "fold", "text": title, "blocks": list(blocks)}


def facts(items: Sequence[tuple[str, Sequence[str]]], folded: str = "") -> Block:
    """Names with what is said of each; `folded` is the line behind which the HTML page hides a long list."""
    named = [{"name": name, "values": list(values)} for name, values in items]
    return {"kind": "facts", "items": named, "folded": folded}


def figures(drawn: Sequence[Figure], name: str) -> list[Block]:
    """The figures of a section, side by side where there is room."""
    items = [
        {
            "name": figure.name,
            "file": f"figures/{figure.name}.svg",
            "title": figure.title,
            "caption": figure.caption,
            "alt": figure.alt,
        }
        for figure in drawn
        if figure.section == name
    ]
    return [{"kind": "figures", "items": items}] if items else []


def column(title: str, note: str = "", *, prose: bool = False) -> dict[str, str]:
    """Head of a column; prose is set to the left, numbers to the right."""
    return {"text": title, "note": note} | ({"align": "left"} if prose else {})


def head(row: Cell, *, against: str = "", poison: bool = False) -> Block:
    """First cell of a row: the defense, its model (and poison, if any or if asked) below, and its runs."""
    words = label(row.defense) + (f" − {label(against)}" if against else "")
    note = label(row.model)
    if poison or row.poison != "clean":
        note += f" · {label(row.poison)}"
    return {"text": words, "note": note, "run": anchor(row.group)}


def rate(row: Summary | PerClass) -> Block:
    """A value over its interval."""
    rated = is_rate(row.metric)
    return {
        "text": number(row.value, rate=rated),
        "note": interval(row.low, row.high, rate=rated),
        "gate": row.gate,
        **_raw(value=row.value, low=row.low, high=row.high),
    }


def difference(row: Difference) -> Block:
    """A difference over its interval; quiet when a paired test, corrected for its table, does not tell it from zero."""
    rated = is_rate(row.metric)
    cell = {
        "text": number(row.effect, rate=rated, sign=True),
        "note": interval(row.low, row.high, rate=rated, sign=True),
        "gate": row.gate,
        **_raw(value=row.effect, low=row.low, high=row.high),
    }
    return cell if row.p_holm < 0.05 else {**cell, "quiet": True}


def _raw(**values: float) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
