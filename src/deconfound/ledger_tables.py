"""Published numbers and errata of ledgers as tables, a row each."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from deconfound.ledger import Ledger, Published

PUBLISHED = [
    "paper", "table", "title", "source", "provenance", "obtained", "dataset", "model", "metric", "unit", "row",
    "defense", "column", "column_source", "poison", "attack", "norm", "eps", "label", "value", "sd", "approximate",
    "error", "comment", "note",
]  # fmt: skip
WORDS = [
    "paper", "id", "about", "says", "does", "followed", "switch", "reason", "ablation", "against",
]  # fmt: skip


def published_table(ledgers: Iterable[Ledger]) -> pd.DataFrame:
    """A row per published cell, obtained or not; of a table that was not obtained one row without row and column."""
    rows = [
        {"paper": ledger.paper, **row}
        for ledger in ledgers
        for table in ledger.published
        for row in _published(table)
    ]
    return pd.DataFrame(rows, columns=PUBLISHED)


def _published(table: Published) -> Iterator[dict[str, Any]]:
    named = (
        "title",
        "source",
        "provenance",
        "dataset",
        "model",
        "metric",
        "unit",
        "norm",
        "eps",
        "error",
        "note",
    )
    common = {name: getattr(table, name) for name in named}
    common |= {"table": table.id, "obtained": int(table.obtained)}
    if not table.obtained:
        yield common
    for line in table.rows:
        for place, (column, value) in enumerate(zip(table.columns, line.cells, strict=True)):
            own = {name: getattr(column, name) for name in ("norm", "eps", "metric", "unit")}
            own |= {"model": line.model, "provenance": line.provenance}
            yield (
                common
                | {name: said for name, said in own.items() if said is not None}
                | {
                    "row": line.label,
                    "defense": line.defense,
                    "column": column.name,
                    "column_source": column.source,
                    "poison": column.poison,
                    "attack": column.attack,
                    "label": column.label,
                    "value": value,
                    "sd": line.sd[place] if line.sd else None,
                    "approximate": int(column.name in line.approximate),
                    "comment": line.notes.get(column.name, ""),
                }
            )


def errata_words(ledgers: Iterable[Ledger]) -> pd.DataFrame:
    """A row per disagreement, in words: `says` is the paper's, `does` the code's."""
    rows = [
        {
            "paper": ledger.paper,
            **{name: getattr(entry, name) or "" for name in WORDS[1:] if name not in ("says", "does")},
            "says": entry.paper,
            "does": entry.code,
        }
        for ledger in ledgers
        for entry in ledger.errata
    ]
    return pd.DataFrame(rows, columns=WORDS)
