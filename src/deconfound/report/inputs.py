"""What the report reads: the CSV tables as typed rows, and the records of the runs behind them."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from deconfound.errors import DataError
from deconfound.report.rows import (
    Cell,
    Claim,
    Cost,
    Difference,
    Erratum,
    Measure,
    PerClass,
    Property,
    Published,
    Result,
    Summary,
    Trust,
)
from deconfound.report.rows_backdoor import Backdoor, Cross, Detection
from deconfound.report.rows_interpretation import Interpretation
from deconfound.storage import read_json

__all__ = [
    "Backdoor",
    "Cell",
    "Claim",
    "Cost",
    "Cross",
    "Detection",
    "Difference",
    "Erratum",
    "Inputs",
    "Interpretation",
    "Measure",
    "PerClass",
    "Property",
    "Published",
    "Result",
    "Run",
    "Summary",
    "Trust",
    "read",
]

TABLES: Mapping[str, type[Cell | Claim | Published]] = {
    "results": Result,
    "summary": Summary,
    "differences": Difference,
    "per_class": PerClass,
    "measures": Measure,
    "properties": Property,
    "claims": Claim,
    "trust": Trust,
    "costs": Cost,
    "backdoor": Backdoor,
    "cross": Cross,
    "detection": Detection,
    "interpretation": Interpretation,
    "published": Published,
    "errata": Erratum,
}


@dataclass(frozen=True, kw_only=True)
class Run(Cell):
    """A run.json: what was trained, how it went, and what it came from."""

    seed: int
    path: Path
    spec: Mapping[str, Any]
    history: Mapping[str, Sequence[Mapping[str, float]]]
    notes: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Run id."""
        return f"{self.group}/seed{self.seed}"


@dataclass(frozen=True)
class Inputs:
    """Everything the report knows, before a word is written about it."""

    results: Sequence[Result]
    summary: Sequence[Summary]
    differences: Sequence[Difference]
    per_class: Sequence[PerClass]
    measures: Sequence[Measure]
    properties: Sequence[Property]
    claims: Sequence[Claim]
    trust: Sequence[Trust]
    costs: Sequence[Cost]
    backdoor: Sequence[Backdoor]
    cross: Sequence[Cross]
    detection: Sequence[Detection]
    interpretation: Sequence[Interpretation]
    published: Sequence[Published]
    errata: Sequence[Erratum]
    runs: Sequence[Run]
    calibrated: bool = False  # estimates of mutual information have a page of their own


Row = TypeVar("Row", bound=Cell | Claim | Published)
PARSERS: Mapping[type, Any] = {
    str: str,
    int: lambda text: int(float(text)),
    float: lambda text: float(text) if text else math.nan,
}


def read(tables: Path, runs: Sequence[Path]) -> Inputs:
    """Read the tables of a folder and the records of the runs; DataError names what is wrong."""
    records = sorted((read_run(path) for path in runs), key=lambda run: (run.group, run.seed))
    found: dict[str, Any] = {name: read_rows(tables / f"{name}.csv", kind) for name, kind in TABLES.items()}
    return Inputs(**found, runs=records)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of a CSV file as `kind`; a missing file or column, or a foreign value, is a DataError."""
    types = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in names if name not in (reader.fieldnames or ())]:
                raise DataError(f"{path}: expected columns {', '.join(missing)}")
            return [kind(**{name: PARSERS[types[name]](row[name]) for name in names}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of this project ({error}); remove it and run again") from error


def read_run(path: Path) -> Run:
    """A run record; DataError when the file is something else."""
    value = read_json(path)
    try:
        place = {name: str(value["run"][name]) for name in ("dataset", "poison", "model", "defense")}
        return Run(
            **place,
            seed=int(value["run"]["seed"]),
            path=path,
            spec=value.get("spec", {}),
            history=value.get("history", {}),
            notes=value.get("notes", {}),
            provenance=value.get("provenance", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a run record of this project ({error!r})") from error
