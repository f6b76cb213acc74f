"""Judging ledgers: claims in, verdicts out. A verdict rests on an interval, never on a point estimate."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deconfound.ledger import Claim, Condition, Ledger, Side, read_ledger
from deconfound.ledger_tables import errata_words
from deconfound.readings import ends_of, interval
from deconfound.results import FAILED, Cell, Key, Results, cell_of
from deconfound.runs import CLEAN
from deconfound.statistics import Interval, mean, rate
from deconfound.tables import differences_table, gate_of_both, paired

__all__ = ["COLUMNS", "Ledger", "errata_table", "judge", "read_ledger", "verdict"]

ANY = "any"  # every poison but none

COLUMNS = [
    "id", "paper", "statement", "dataset", "poison", "model", "treatment", "control", "metric", "attack", "effect",
    "low", "high", "margin", "direction", "published", "published_source", "verdict", "gate", "evidence", "seeds",
    "property", "applies", "note",
]  # fmt: skip


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
    if claim.treatment.model is not None:
        fits = {run for run in fits if run.model == claim.treatment.model}
    if claim.datasets is not None:
        fits = {run for run in fits if run.dataset in claim.datasets}
    return sorted({(run.dataset, run.poison, run.model) for run in fits})


def _verdicts(
    ledger: Ledger, claim: Claim, place: tuple[str, str, str], results: Results
) -> list[dict[str, Any]]:
    """One row per threat model under which the claim's metric was measured in this cell."""
    dataset, poison, model = place
    treated = Cell(dataset, poison, model, claim.treatment.defense)
    other = None
    if claim.control:
        side = claim.control
        other = Cell(dataset, side.poison or poison, side.model or model, side.defense)
    premise, met = _premise(ledger, claim, treated, results)
    rows = []
    for key in _keys(claim, treated, results):
        against = other and (other, _under(key, claim.control))
        interval, seeds = _effect((treated, key), against, results)
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
    numbers = any(claim.metric in results.measures[run] for run in results.runs(cell))
    if not found and (numbers or results.measured(cell, claim.metric)):
        found.add(Key(metric=claim.metric))
    return sorted(found)


def _under(key: Key, control: Side | None) -> Key:
    """The same budget under the control's own attack and metric, where it has them."""
    named = {name: getattr(control, name, None) for name in ("attack", "metric")}
    return key._replace(**{name: said for name, said in named.items() if said is not None})


def _effect(
    treatment: tuple[Cell, Key], control: tuple[Cell, Key] | None, results: Results
) -> tuple[Interval | None, int]:
    """The effect with its interval, and over how many seeds; paired by example where there are any, else by seed."""
    found = results.stacked(*treatment)
    if not found and not treatment[1].attack:
        return _of_values(treatment, control, results) or _of_seeds(treatment, control, results)
    if control is None:
        return rate(np.stack(list(found.values()))), len(found)
    against = results.stacked(*control)
    shared = set(found) & set(against)
    return (paired(found, against), len(shared)) if shared else (None, 0)


def _of_values(
    treatment: tuple[Cell, Key], control: tuple[Cell, Key] | None, results: Results
) -> tuple[Interval | None, int] | None:
    """The effect on a number per example, paired by seed and example; None where there is no such number."""
    values = results.measured(treatment[0], treatment[1].metric)
    if not values:
        return None
    if control is None:
        return interval(list(values.values()), metric=treatment[1].metric)[0], len(values)
    against = results.measured(control[0], control[1].metric)
    shared = sorted(set(values) & set(against))
    if not shared:
        return None, 0
    pair = [values[seed] for seed in shared], [against[seed] for seed in shared]
    return interval(*pair, metric=treatment[1].metric)[0], len(shared)


def _of_seeds(
    treatment: tuple[Cell, Key], control: tuple[Cell, Key] | None, results: Results
) -> tuple[Interval | None, int]:
    """The effect on a number per run, paired by seed."""
    cell, key = treatment
    values = _measured(cell, key.metric, results)
    lowest, highest = ends_of(key.metric)
    if control is not None:
        against = _measured(control[0], control[1].metric, results)
        values = {seed: value - against[seed] for seed, value in values.items() if seed in against}
        lowest, highest = lowest - highest, highest - lowest
    return (
        (mean(np.array(list(values.values()))).inside(lowest, highest), len(values)) if values else (None, 0)
    )


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
    if control is not None:
        other += f", {control.model}" if control.model else ""
        other += f" under {control.attack}" if control.attack else ""
        other += f": {control.metric}" if control.metric else ""
    said: dict[str, Any] = {
        "id": claim.id,
        "paper": ledger.paper,
        "statement": claim.statement,
        "treatment": claim.treatment.defense,
    }
    said |= {"control": other, "metric": claim.metric, "margin": claim.margin, "direction": claim.direction}
    also = ("published", "published_source", "property", "applies", "note")
    return said | {name: getattr(claim, name) for name in also} | found


def errata_table(ledgers: Iterable[Ledger], results: Results) -> pd.DataFrame:
    """A row per disagreement of paper and code and, where its ablation ran, per metric of each cell: the paired
    difference to the default, as in `differences_table`.
    """
    words = errata_words(ledgers)
    default = dict(zip(words["ablation"], words["against"], strict=True))
    cells = {cell_of(row.run) for row in results.rows}
    measured = differences_table(
        results, {cell: default[cell.defense] for cell in cells if cell.defense in default}
    )
    pairs = ["ablation", "against"], ["defense", "control"]
    table = words.merge(measured, how="left", left_on=pairs[0], right_on=pairs[1])
    counts = ["total", "seeds"]
    table[counts] = table[counts].astype(float).fillna(0).astype(int)
    return table
