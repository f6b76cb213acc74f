"""Everything that was evaluated, as hits per example, with what the trust gate says of it."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconfound.entries import unpack
from deconfound.errors import DataError
from deconfound.runs import Run
from deconfound.storage import read_json

Bools = NDArray[np.bool_]
Stored = Mapping[str, Any]  # something read from JSON

PASSED, FAILED, OPEN = "passed", "failed", "not assessed"


class Cell(NamedTuple):
    """A run without its seed."""

    dataset: str
    poison: str
    model: str
    defense: str


class Key(NamedTuple):
    """What was measured. curve: `eps` or `steps` for a point of a security curve; steps: of such a point."""

    attack: str = ""
    norm: str = ""
    eps: float = 0.0
    curve: str = ""
    steps: int = 0
    metric: str = ""


@dataclass(frozen=True)
class Row:
    """One metric of one run, with its hits (N,) and the true labels (N,) they belong to."""

    run: Run
    key: Key
    hits: Bools
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """One number per example (N,) of one run, with the true labels (N,) they belong to."""

    run: Run
    name: str
    values: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """What one interpretation read off one run: a number per test image (N,), NaN where there is none, or one number of
    the run (`once`). of: the name of its block, and kind, its method; subject, condition, metric: its place.
    """

    run: Run
    of: str
    kind: str
    subject: str
    condition: str
    metric: str
    values: NDArray[np.float64]
    once: bool

    @property
    def name(self) -> str:
        """By which a ledger asks for it."""
        return ".".join((self.of, self.subject, self.condition, self.metric))


@dataclass(frozen=True)
class Trust:
    """What the gate found on one run: checks of the model, and checks per threat model (norm, eps); None: not asked."""

    model: Sequence[Stored] | None = None
    threats: Mapping[tuple[str, float], Sequence[Stored]] = field(default_factory=dict)

    def failures(self, key: Key) -> list[str] | None:
        """Names of the failed checks that concern a metric; None where the gate was not asked about it."""
        if self.model is None or (key.norm and not self._threat(key)):
            return None
        checks = [*self.model, *(self._threat(key) if key.norm else ())]
        return [str(check["name"]) for check in checks if check["verdict"] == FAILED]

    def _threat(self, key: Key) -> Sequence[Stored]:
        """Checks of the metric's threat model; a point of a curve leans on those of the curve's norm."""
        if key.curve:
            return [
                check for (norm, _), checks in self.threats.items() if norm == key.norm for check in checks
            ]
        return self.threats.get((key.norm, key.eps), ())


@dataclass(frozen=True)
class Results:
    """All that was evaluated, ready to be tabulated and judged."""

    rows: tuple[Row, ...]
    measures: Mapping[Run, Mapping[str, float]]
    classes: Mapping[str, tuple[str, ...]]
    trust: Mapping[Run, Trust] = field(default_factory=dict)
    costs: Mapping[Run, Sequence[Stored]] = field(default_factory=dict)
    values: tuple[Values, ...] = ()
    readings: tuple[Reading, ...] = ()

    def measured(self, cell: Cell, name: str) -> dict[int, NDArray[np.float64]]:
        """Values (N,) per example by seed of one cell; NaN where an example has none."""
        found: list[Values | Reading] = [*self.values]
        found += [reading for reading in self.readings if not reading.once]
        return {v.run.seed: v.values for v in found if v.name == name and cell_of(v.run) == cell}

    def stacked(self, cell: Cell, key: Key) -> dict[int, Bools]:
        """Hits (N,) by seed of one cell and metric."""
        return {row.run.seed: row.hits for row in self.rows if row.key == key and cell_of(row.run) == cell}

    def gate(self, runs: Iterable[Run], key: Key) -> str:
        """The gate's verdict on a metric of some runs: `passed`, `failed: CHECKS` or `not assessed`."""
        found = [self.trust.get(run, Trust()).failures(key) for run in runs]
        failed = sorted({name for names in found if names for name in names})
        if failed:
            count = sum(bool(names) for names in found)
            where = "" if len(found) == 1 else f" in {count} of {len(found)} seeds"
            return f"{FAILED}{where}: {', '.join(failed).replace('_', ' ')}"
        return OPEN if not found or any(names is None for names in found) else PASSED

    def runs(self, cell: Cell) -> list[Run]:
        """The runs of a cell, by seed."""
        return sorted(run for run in self.measures if cell_of(run) == cell)


def cell_of(run: Run) -> Cell:
    """The run without its seed."""
    return Cell(run.dataset, run.poison, run.model, run.defense)


def load(paths: Iterable[Path]) -> Results:
    """Read evaluation.json files, in the order of their runs."""
    rows: list[Row] = []
    measures: dict[Run, Mapping[str, float]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    trust: dict[Run, Trust] = {}
    costs: dict[Run, Sequence[Stored]] = {}
    values: list[Values] = []
    for path in paths:
        try:
            found = read_json(path)
            run = Run(**found["run"])
            rows += _rows(run, found)
            values += _values(run, found)
            classes[run.dataset], measures[run] = tuple(found["classes"]), dict(found["measures"])
            trust[run], costs[run] = _trust(found.get("gate")), list(found.get("costs", ()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: expected the evaluation of a run: {error!r}; remove it and run again"
            ) from error
    rows.sort(key=lambda row: (row.run, row.key.metric, row.key))
    values.sort(key=lambda value: (value.run, value.name))
    return Results(tuple(rows), measures, classes, trust, costs, tuple(values))


def with_measures(results: Results, found: Mapping[str, float]) -> Results:
    """The same with further numbers for every run."""
    return replace(results, measures={run: {**own, **found} for run, own in results.measures.items()})


def _rows(run: Run, found: Stored) -> list[Row]:
    labels = {name: _decoded(text, "<u2") for name, text in found["subsets"].items()}
    return [
        Row(run, Key(*(entry[name] for name in Key._fields)), unpack(entry), labels[entry["subset"]])
        for entry in found["entries"]
    ]


def _values(run: Run, found: Stored) -> list[Values]:
    return [
        Values(
            run, one["name"], _decoded(one["values"], "<f4"), _decoded(found["subsets"][one["subset"]], "<u2")
        )
        for one in found.get("values", ())
    ]


def _decoded(text: str, kind: str) -> NDArray[Any]:
    wide = np.int64 if kind == "<u2" else np.float64
    return np.frombuffer(base64.b64decode(text), kind).astype(wide)


def _trust(found: Stored | None) -> Trust:
    if found is None:
        return Trust()
    return Trust(found["model"], {(t["norm"], t["eps"]): t["checks"] for t in found["threats"]})
