"""The pieces a report is made of, as plain JSON: text, tables, figures; both renderings draw only these.

A cell is {"text", "note"?, "run"?, "quiet"?}: what stands in it, the small print under it, the anchor of
the runs it rests on, and True where an interval contains zero. Rates also carry value, low and high.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deconfound.report.inputs import Cell, Difference, PerClass, Summary
from deconfound.report.plotting import Figure
from deconfound.report.words import (
    anchor,
    interval,
    is_rate,
    label,
    number,
)

Block = dict[str, Any]
COLUMNS = 8  # number columns that fit a page


def text(content: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "text": content}


def section(name: str, title: str, lead: str, blocks: Sequence[Block]) -> Block:
    """A section with the sentence that opens it."""
    return {"id": name, "title": title, "lead": lead, "blocks": list(blocks)}


def table(
    caption: str,
    columns: Sequence[Mapping[str, str]],
    rows: Sequence[Sequence[Block]],
    *,
    folded: str = "",
) -> list[Block]:
    """A table, split over several when it has more columns than a page holds; the first column repeats.

    `folded` is the line behind which the HTML page hides a long table.
    """
    chunks = -(-(len(columns) - 1) // COLUMNS)
    size = -(-(len(columns) - 1) // max(1, chunks))
    blocks = []
    for part in range(chunks):
        part_of = f" (part {part + 1} of {chunks})" if chunks > 1 else ""
        keep = [0, *range(1 + part * size, min(1 + (part + 1) * size, len(columns)))]
        blocks.append(
            {
                "kind": "table",
                "caption": caption + part_of,
                "columns": [dict(columns[i]) for i in keep],
                "rows": [[row[i] for i in keep] for row in rows],
                "folded": folded and folded + part_of,
            }
        )
    return blocks


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


def column(title: str, note: str = "") -> dict[str, str]:
    """Head of a column."""
    return {"text": title, "note": note}


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
        **_raw(value=row.value, low=row.low, high=row.high),
    }


def difference(row: Difference) -> Block:
    """A difference over its interval; quiet when the interval contains zero."""
    rated = is_rate(row.metric)
    cell = {
        "text": number(row.effect, rate=rated, sign=True),
        "note": interval(row.low, row.high, rate=rated, sign=True),
        **_raw(value=row.effect, low=row.low, high=row.high),
    }
    return {**cell, "quiet": True} if row.low <= 0 <= row.high else cell


def _raw(**values: float) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
