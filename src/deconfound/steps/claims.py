"""Tabulate all evaluations and judge the claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deconfound import backdoor_tables, tables
from deconfound.claims import errata_table, judge
from deconfound.effectiveness import with_effectiveness
from deconfound.ledger import read_ledger
from deconfound.ledger_tables import published_table
from deconfound.readings import interpretation_table, with_readings
from deconfound.results import load, with_measures
from deconfound.storage import read_json


def run(
    *,
    evaluations: Sequence[Path],
    ledgers: Sequence[Path],
    controls: Mapping[str, str],
    out: Path,
    calibration: Sequence[Path] = (),
    interpretations: Sequence[Path] = (),
) -> None:
    """Write results, summary, differences, per_class, measures, properties, trust, costs, backdoor, cross, detection,
    interpretation, claims, published and errata as CSV into `out`.

    controls: name of the control by `dataset/poison/model/defense`. calibration: what `calibrate` wrote, if it ran; how
    far each bound is usable becomes a measure of every run, for premises to lean on.
    """
    results = with_readings(load(evaluations), interpretations)
    for path in calibration:
        results = with_measures(results, usable(read_json(path)))
    sources = [read_ledger(path) for path in ledgers]
    by_cell = {tuple(cell.split("/")): control for cell, control in controls.items()}
    results = with_effectiveness(results, by_cell)
    found = {
        "results": tables.results_table(results),
        "summary": tables.summary_table(results),
        "differences": tables.differences_table(results, by_cell),
        "per_class": tables.per_class_table(results),
        "measures": tables.measures_table(results),
        "properties": tables.properties_table(results),
        "trust": tables.trust_table(results),
        "costs": tables.costs_table(results),
        "backdoor": backdoor_tables.backdoor_table(results, by_cell),
        "cross": backdoor_tables.cross_table(results),
        "detection": backdoor_tables.detection_table(results),
        "interpretation": interpretation_table(results),
        "claims": judge(sources, results),
        "published": published_table(sources),
        "errata": errata_table(sources, results),
    }
    for name, table in found.items():
        tables.write(table, out / f"{name}.csv")


def usable(found: Mapping[str, Any]) -> dict[str, float]:
    """How far each bound of a calibration may be read, nats; 0 where it may not be at all."""
    return {f"{bound['name']}_usable_to": float(bound["usable_to"] or 0.0) for bound in found["bounds"]}
