"""What the report reads: the CSV tables as typed rows, and the records of the runs behind them."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from deconfound.errors import DataError
from deconfound.storage import read_json

TABLES = ("results", "summary", "differences", "per_class", "measures", "claims", "trust", "costs")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A place in an experiment: which model, trained how, on what."""

    dataset: str
    poison: str
    model: str
    defense: str

    @property
    def group(self) -> str:
        """Run id without its seed."""
        return f"{self.dataset}/{self.poison}/{self.model}/{self.defense}"

    @property
    def setting(self) -> tuple[str, str, str]:
        """(dataset, poison, model): what a figure holds fixed while defenses vary."""
        return self.dataset, self.poison, self.model


@dataclass(frozen=True, kw_only=True)
class Result(Cell):
    """A row of results.csv: one run, one metric. curve: `eps`, `steps`, or empty; steps: of a point over steps."""

    seed: int
    attack: str
    norm: str
    eps: float
    curve: str
    steps: int
    metric: str
    hits: int
    total: int
    value: float
    gate: str


@dataclass(frozen=True, kw_only=True)
class Summary(Cell):
    """A row of summary.csv: mean and 95 % interval over seeds and examples. rank_low and rank_high: best and worst
    rank of the defense among those of its setting (1 is best); 0 where nothing is ranked.
    """

    attack: str
    norm: str
    eps: float
    curve: str
    steps: int
    metric: str
    value: float
    low: float
    high: float
    total: int
    seeds: int
    gate: str
    rank_low: int
    rank_high: int


@dataclass(frozen=True, kw_only=True)
class Difference(Cell):
    """A row of differences.csv: defense minus control, paired; fractions."""

    control: str
    attack: str
    norm: str
    eps: float
    metric: str
    effect: float
    low: float
    high: float
    p_holm: float
    total: int
    seeds: int
    gate: str


@dataclass(frozen=True, kw_only=True)
class PerClass(Cell):
    """A row of per_class.csv, pooled over seeds."""

    attack: str
    norm: str
    eps: float
    metric: str
    label: str
    hits: int
    total: int
    value: float
    low: float
    high: float
    gate: str


@dataclass(frozen=True, kw_only=True)
class Measure(Cell):
    """A row of measures.csv: a number that is not a rate over test examples."""

    seed: int
    measure: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Trust(Cell):
    """A row of trust.csv: one check of the trust gate on one run; norm is empty for a check of the model itself."""

    seed: int
    norm: str
    eps: float
    check: str
    verdict: str
    value: float
    low: float
    high: float
    limit: float
    total: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Cost(Cell):
    """A row of costs.csv: images that one attack (or member of an ensemble) attacked, broke and sent through."""

    seed: int
    attack: str
    member: str
    norm: str
    eps: float
    attacked: int
    broken: int
    forward: int
    backward: int
    fault: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of claims.csv; effect, low, high and margin are NaN when the claim was not run."""

    id: str
    paper: str
    statement: str
    dataset: str
    poison: str
    model: str
    treatment: str
    control: str
    metric: str
    attack: str
    effect: float
    low: float
    high: float
    margin: float
    direction: str
    published: str
    published_source: str
    verdict: str
    gate: str
    evidence: str
    seeds: str

    @property
    def ran(self) -> bool:
        """True when the claim has an effect to show."""
        return not math.isnan(self.effect)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of published.csv: a cell of a published table, or with obtained 0 a whole one; what is missing is NaN."""

    paper: str
    table: str
    title: str
    source: str
    provenance: str
    obtained: int
    dataset: str
    model: str
    metric: str
    unit: str
    row: str
    defense: str
    column: str
    column_source: str
    attack: str
    norm: str
    eps: float
    label: str
    value: float
    sd: float
    approximate: float
    error: float
    comment: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Erratum(Difference):
    """A row of errata.csv: paper (`says`) against code (`does`), per measured difference, else without a place."""

    paper: str
    id: str
    about: str
    says: str
    does: str
    followed: str
    switch: str
    reason: str
    ablation: str
    against: str


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
    claims: Sequence[Claim]
    trust: Sequence[Trust]
    costs: Sequence[Cost]
    runs: Sequence[Run]
    published: Sequence[Published] = ()
    errata: Sequence[Erratum] = ()


Row = TypeVar("Row", bound=Cell | Claim | Published)
PARSERS: Mapping[type, Any] = {
    str: str,
    int: lambda text: int(float(text)),
    float: lambda text: float(text) if text else math.nan,
}


def read(tables: Path, runs: Sequence[Path]) -> Inputs:
    """Read the tables of a folder and the records of the runs; DataError names what is wrong."""
    records = sorted((read_run(path) for path in runs), key=lambda run: (run.group, run.seed))
    return Inputs(
        results=read_rows(tables / "results.csv", Result),
        summary=read_rows(tables / "summary.csv", Summary),
        differences=read_rows(tables / "differences.csv", Difference),
        per_class=read_rows(tables / "per_class.csv", PerClass),
        measures=read_rows(tables / "measures.csv", Measure),
        claims=read_rows(tables / "claims.csv", Claim),
        trust=read_rows(tables / "trust.csv", Trust),
        costs=read_rows(tables / "costs.csv", Cost),
        runs=records,
        published=read_rows(path, Published) if (path := tables / "published.csv").exists() else (),
        errata=read_rows(path, Erratum) if (path := tables / "errata.csv").exists() else (),
    )


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
