"""The ledger of a source: its claims, its published numbers, and where its text and its code disagree; data only.

Every number of a source enters with the mark of where it comes from; a cell that was not obtained stays null.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deconfound.errors import ConfigError
from deconfound.fields import Count, NonNegative, Real
from deconfound.registry import explain, nearest
from deconfound.yaml_files import load_yaml

Norm = Literal["linf", "l2", "l1", "wasserstein"]
Mark = Literal["P", "C", "D", "S", "M", "H", "A", "F", "N"]  # the report explains them


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Strict):
    """One side of a comparison; what is not named is taken from the treatment's run. attack, metric: of a control only,
    where it is not the claim's.
    """

    defense: str
    poison: str | None = None
    model: str | None = None
    attack: str | None = None
    metric: str | None = None


class Condition(_Strict):
    """A bound on a measure that must hold in every seed before a claim means anything."""

    measure: str
    above: Real | None = None
    below: Real | None = None

    def holds(self, value: float) -> bool:
        """Is the value inside the bounds (ends included)?"""
        return (self.above is None or value >= self.above) and (self.below is None or value <= self.below)


class Claim(_Strict):
    """effect = metric of the treatment, minus that of the control if there is one; supported when the whole
    interval lies on the `direction` side of the margin. metric may be a measure. attack: the name of an
    attack, `worst_case`, or none for the natural one of the metric. premise: names of a ledger's premises.
    property: the number of the claim among the properties of the method's specification. datasets: the only ones
    it may be judged on, and applies: why. note: how the margin was chosen.
    """

    id: str
    statement: str
    metric: str
    treatment: Side
    control: Side | None = None
    attack: str | None = None
    norm: Norm | None = None
    direction: Literal["above", "below"]
    margin: Real
    premise: str | None = None
    property: Count | None = None
    applies: str = ""
    datasets: list[str] | None = None
    note: str = ""
    published: str = ""
    published_source: str = ""


class Column(_Strict):
    """A column of a published table. attack, poison: the names that an experiment would give them, `clean` or nothing
    for no poison; label: the class that it is about; what is not said (norm, eps, metric, unit) is the table's.
    source: where it differs from the table's.
    """

    name: str
    poison: str = ""
    attack: str = ""
    norm: Norm | None = None
    eps: NonNegative | None = None
    metric: str | None = None
    unit: str | None = None
    label: str = ""
    source: str = ""


class Line(_Strict):
    """A row of a published table: a cell per column, null where it was not obtained, and standard deviations.

    defense: the name that an experiment would give it; approximate: columns whose value the source rounds; notes:
    what is to be said of single columns.
    """

    label: str
    defense: str = ""
    model: str | None = None
    provenance: Mark | None = None
    cells: list[Real | None]
    sd: list[NonNegative | None] | None = None
    approximate: list[str] = []
    notes: dict[str, str] = {}


class Published(_Strict):
    """A table of published numbers; obtained: false for one that is known to exist and nothing more.

    provenance: how the numbers came here. eps: in pixel units. error: reading error of digitised numbers, in `unit`.
    """

    id: str
    title: str
    source: str
    provenance: Mark
    obtained: bool = True
    dataset: str = ""
    model: str = ""
    metric: str = ""
    norm: Norm | None = None
    eps: NonNegative | None = None
    unit: str = ""
    error: NonNegative | None = None
    note: str = ""
    columns: list[Column] = []
    rows: list[Line] = []


class Erratum(_Strict):
    """Where paper and code disagree, or leave a choice: what each says, what is followed here and why.

    switch: the option that selects the other reading, `kind.field=value`, or null and the reason why there is none.
    ablation: the defense that runs another reading; against: the defense that it is compared with.
    """

    id: str
    about: str
    paper: str
    code: str
    followed: str
    switch: str | None = Field(default=None, pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)+=\S+$")
    reason: str = ""
    ablation: str | None = None
    against: str | None = None


class Ledger(_Strict):
    """All of one source. premises: named conditions that a claim may lean on."""

    paper: str
    title: str
    source: str
    note: str = ""
    premises: dict[str, list[Condition]] = {}
    claims: list[Claim] = Field(min_length=1)
    published: list[Published] = []
    errata: list[Erratum] = []


def read_ledger(path: Path) -> Ledger:
    """A ledger from YAML; raises ConfigError with a line per fault."""
    try:
        ledger = Ledger.model_validate(load_yaml(path))
    except ValidationError as error:
        lines = explain(error, at="", root=Ledger)
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None
    if faults := list(_faults(ledger)):
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return ledger


def _faults(ledger: Ledger) -> Iterator[str]:
    """What the format allows and the content does not."""
    for section in ("claims", "published", "errata"):
        ids = [entry.id for entry in getattr(ledger, section)]
        yield from (f"{section}.{n}.id: {name!r} stands twice" for n, name in _repeated(ids))
    for index, claim in enumerate(ledger.claims):
        if claim.premise is not None and claim.premise not in ledger.premises:
            hint = nearest(claim.premise, ledger.premises)
            yield f"claims.{index}.premise: unknown premise {claim.premise!r}{hint}"
        for key in ("attack", "metric"):
            if getattr(claim.treatment, key) is not None:
                yield f"claims.{index}.treatment.{key}: expected it in the claim, or in its control"
        if bool(claim.applies) != (claim.datasets is not None):
            yield f"claims.{index}.applies: expected it together with datasets, got one without the other"
    for index, table in enumerate(ledger.published):
        yield from (f"published.{index}.{fault}" for fault in _table_faults(table))
    defaults: dict[str, str | None] = {}
    for index, erratum in enumerate(ledger.errata):
        if (erratum.switch is None) != bool(erratum.reason):
            yield f"errata.{index}.reason: expected a switch, or else the reason why there is none"
        if (erratum.ablation is None) != (erratum.against is None):
            yield f"errata.{index}.against: expected it together with ablation, got one without the other"
        name = erratum.ablation
        if name and defaults.setdefault(name, erratum.against) != erratum.against:
            yield f"errata.{index}.against: {name!r} is compared with {defaults[name]!r} elsewhere"


def _table_faults(table: Published) -> Iterator[str]:
    names = [column.name for column in table.columns]
    yield from (f"columns.{n}.name: {name!r} stands twice" for n, name in _repeated(names))
    labels = [row.label for row in table.rows]
    yield from (f"rows.{n}.label: {name!r} stands twice" for n, name in _repeated(labels))
    if table.obtained != bool(table.rows and table.columns):
        yield f"rows: expected {'rows and columns' if table.obtained else 'none in a table not obtained'}"
    for index, row in enumerate(table.rows):
        lists: dict[str, Sequence[object]] = {"cells": row.cells, "sd": row.sd or names}
        for key, values in lists.items():
            if len(values) != len(names):
                yield f"rows.{index}.{key}: expected {len(names)} values, one per column, got {len(values)}"
        pairs = zip(row.cells, row.sd or (), strict=False)
        if any(cell is None and sd is not None for cell, sd in pairs):
            yield f"rows.{index}.sd: expected none where the cell is null"
        for key, used in {"approximate": row.approximate, "notes": row.notes}.items():
            for name in used:
                if name not in names:
                    yield f"rows.{index}.{key}: unknown column {name!r}{nearest(name, names)}"


def _repeated(names: Sequence[str]) -> Iterator[tuple[int, str]]:
    return ((n, name) for n, name in enumerate(names) if name in names[:n])
