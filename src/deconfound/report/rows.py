"""Rows of the CSV tables that the report reads, as they stand in the files."""

import builtins
import math
from dataclasses import dataclass


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
class Property(Cell):
    """A row of properties.csv: mean of a number per example with its 95 % interval over seeds and examples; label: the
    class whose images it is about, empty for all.
    """

    measure: str
    label: str
    value: float
    low: float
    high: float
    total: int
    seeds: int


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
    """A row of claims.csv; effect, low, high and margin are NaN when the claim was not run.

    property: its number among the testable properties of the method, NaN without one; applies: on which data it may be
    judged and why; note: how the margin was chosen.
    """

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
    property: float
    applies: str
    note: str

    @builtins.property
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
    poison: str
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
