"""The ledger of claims: data in, verdicts out. A verdict rests on an interval, never on a point estimate."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deconfound.config import load_yaml
from deconfound.errors import ConfigError
from deconfound.experiment import CLEAN
from deconfound.fields import Real
from deconfound.registry import explain, nearest
from deconfound.results import FAILED, Bools, Cell, Key, Results, cell_of
from deconfound.statistics import Interval, mean, rate
from deconfound.tables import gate_of_both, paired

ANY = "any"  # every poison but none

COLUMNS = [
    "id", "paper", "statement", "dataset", "poison", "model", "treatment", "control", "metric", "attack", "effect",
    "low", "high", "margin", "direction", "published", "published_source", "verdict", "gate", "evidence", "seeds",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Strict):
    """One side of a comparison; what is not named is taken from the treatment's run."""

    defense: str
    poison: str | None = None


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
    """

    id: str
    statement: str
    metric: str
    treatment: Side
    control: Side | None = None
    attack: str | None = None
    norm: Literal["linf", "l2", "l1", "wasserstein"] | None = None
    direction: Literal["above", "below"]
    margin: Real
    premise: str | None = None
    published: str = ""
    published_source: str = ""


class Ledger(_Strict):
    """The claims of one source. premises: named conditions that a claim may lean on."""

    paper: str
    title: str
    source: str
    note: str = ""
    premises: dict[str, list[Condition]] = {}
    claims: list[Claim] = Field(min_length=1)


def read_ledger(path: Path) -> Ledger:
    """A ledger from YAML; raises ConfigError with a line per fault."""
    try:
        ledger = Ledger.model_validate(load_yaml(path))
    except ValidationError as error:
        lines = explain(error, at="", root=Ledger)
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None
    faults = []
    for index, claim in enumerate(ledger.claims):
        if claim.premise is not None and claim.premise not in ledger.premises:
            hint = nearest(claim.premise, ledger.premises)
            faults.append(f"{path}: claims.{index}.premise: unknown premise {claim.premise!r}{hint}")
        if claim.id in [earlier.id for earlier in ledger.claims[:index]]:
            faults.append(f"{path}: claims.{index}.id: {claim.id!r} stands twice")
    if faults:
        raise ConfigError("\n".join(faults))
    return ledger


def judge(ledgers: Iterable[Ledger], results: Results) -> pd.DataFrame:
    """A row per claim and cell it applies to; a claim without any run says `not run at this scale`."""
    rows = []
    for ledger in ledgers:
        for claim in ledger.claims:
            found = [
                row for cell in _cells(claim, results) for row in _verdicts(ledger, claim, cell, results)
            ]
            rows += found or [_row(ledger, claim, verdict="not run at this scale")]
    return pd.DataFrame(rows, columns=COLUMNS)


def verdict(interval: Interval, *, direction: str, margin: float, seeds: int) -> str:
    """`supported`, `contradicted` or `inconclusive`. One seed cannot carry a verdict."""
    if seeds < 2 or math.isnan(interval.value):
        return "inconclusive"
    if direction == "above":
        return _side(interval.low > margin, interval.high < margin)
    return _side(interval.high < margin, interval.low > margin)


def _side(supported: bool, contradicted: bool) -> str:
    return "supported" if supported else "contradicted" if contradicted else "inconclusive"


def _cells(claim: Claim, results: Results) -> list[tuple[str, str, str]]:
    """(dataset, poison, model) of every run of the treatment, in order."""
    wanted = claim.treatment.poison
    runs = {run for run in results.measures if run.defense == claim.treatment.defense}
    fits = {run for run in runs if wanted in (None, run.poison) or (wanted == ANY and run.poison != CLEAN)}
    return sorted({(run.dataset, run.poison, run.model) for run in fits})


def _verdicts(
    ledger: Ledger, claim: Claim, place: tuple[str, str, str], results: Results
) -> list[dict[str, Any]]:
    """One row per threat model under which the claim's metric was measured in this cell."""
    dataset, poison, model = place
    treated = Cell(dataset, poison, model, claim.treatment.defense)
    other = None
    if claim.control:
        other = Cell(dataset, claim.control.poison or poison, model, claim.control.defense)
    premise, met = _premise(ledger, claim, treated, results)
    rows = []
    for key in _keys(claim, treated, results):
        interval, seeds = _effect(treated, other, key, results)
        if interval is None:
            continue
        gate = gate_of_both(results, treated, other, key)
        said = verdict(interval, direction=claim.direction, margin=claim.margin, seeds=seeds)
        if not met:
            said = "premise not met"
        elif gate.startswith(FAILED):
            said = "gate not passed"
        attack = f"{key.attack} {key.norm} {key.eps:.3g}".strip() if key.norm else key.attack
        found: dict[str, Any] = {"dataset": dataset, "poison": poison, "model": model, "attack": attack}
        found |= {"effect": interval.value, "low": interval.low, "high": interval.high}
        found |= {"gate": "; ".join(text for text in (gate, premise) if text), "verdict": said}
        evidence = "; ".join("/".join(side) for side in (treated, other) if side)
        rows.append(_row(ledger, claim, **found, evidence=evidence, seeds=seeds))
    return rows


def _keys(claim: Claim, cell: Cell, results: Results) -> list[Key]:
    """The measured metrics that the claim speaks of."""
    found = set()
    for row in results.rows:
        key = row.key
        if cell_of(row.run) != cell or key.metric != claim.metric or key.curve:
            continue
        natural = {"robust_accuracy": "worst_case", "clean_accuracy": "none"}.get(key.metric, key.attack)
        if key.attack == (claim.attack or natural) and claim.norm in (None, key.norm):
            found.add(key)
    if not found and any(claim.metric in results.measures[run] for run in results.runs(cell)):
        found.add(Key(metric=claim.metric))
    return sorted(found)


def _effect(treated: Cell, other: Cell | None, key: Key, results: Results) -> tuple[Interval | None, int]:
    """The effect with its interval, and over how many seeds."""
    if not key.attack and not results.stacked(treated, key):
        values = _measured(treated, key.metric, results)
        if other is not None:
            against = _measured(other, key.metric, results)
            values = {seed: value - against[seed] for seed, value in values.items() if seed in against}
        return (mean(np.array(list(values.values()))), len(values)) if values else (None, 0)
    hits = results.stacked(treated, key)
    if other is None:
        return rate(np.stack(list(hits.values()))), len(hits)
    other_hits: dict[int, Bools] = results.stacked(other, key)
    shared = set(hits) & set(other_hits)
    return (paired(hits, other_hits), len(shared)) if shared else (None, 0)


def _measured(cell: Cell, measure: str, results: Results) -> dict[int, float]:
    """A measure by seed, where it was taken."""
    found = {run.seed: results.measures[run] for run in results.runs(cell)}
    return {seed: taken[measure] for seed, taken in found.items() if measure in taken}


def _premise(ledger: Ledger, claim: Claim, cell: Cell, results: Results) -> tuple[str, bool]:
    """What is said of the claim's premise, and whether the claim may be judged at all."""
    if claim.premise is None:
        return "", True
    runs = results.runs(cell)
    good = sum(_all_hold(ledger.premises[claim.premise], results.measures[run]) for run in runs)
    return f"premise {claim.premise} held in {good} of {len(runs)} seeds", good == len(runs)


def _all_hold(conditions: list[Condition], measures: Mapping[str, float]) -> bool:
    return all(c.measure in measures and c.holds(measures[c.measure]) for c in conditions)


def _row(ledger: Ledger, claim: Claim, **found: Any) -> dict[str, Any]:
    control = claim.control
    other = "" if control is None else control.defense + (f" on {control.poison}" if control.poison else "")
    said: dict[str, Any] = {
        "id": claim.id,
        "paper": ledger.paper,
        "statement": claim.statement,
        "treatment": claim.treatment.defense,
    }
    said |= {"control": other, "metric": claim.metric, "margin": claim.margin, "direction": claim.direction}
    return said | {"published": claim.published, "published_source": claim.published_source} | found
