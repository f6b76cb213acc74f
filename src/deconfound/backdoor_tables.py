"""Tables of backdoors: effect and price of each defense, evasion beside backdoors, and what detectors find."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deconfound.measures import SPLITS, ends
from deconfound.results import Bools, Cell, Key, Results, cell_of
from deconfound.runs import CLEAN, Run
from deconfound.statistics import Interval, mean, rate

CELL = list(Cell._fields)
NONE = Interval(float("nan"), float("nan"), float("nan"))
CLEAN_KEY = Key("none", metric="clean_accuracy")
RATES = ("asr", "clean_accuracy", "triggered_accuracy", "target_recall", "cross_accuracy")
GAINS = ("der", "rir")
PRICES = ("worst_class_drop", "training_cost")
CROSSED = ("clean_accuracy", "robust_accuracy", "asr", "triggered_accuracy")
INPUTS, EXAMPLES, MODEL, DEFENSE = "inputs", "examples", "model", "defense"  # at what a detector looks
SEEN = ("detection_rate", "false_alarm_rate")
POINTS = ("detected_at_1", "false_alarms_at_1", "detected_at_10", "false_alarms_at_10")
TOLD = ("share", "left", "anomaly", "accused", "accused_any", "target_anomaly", "target_accused")
WITH_INTERVAL = ("auroc", *SEEN, "precision", "recall")

Groups = Mapping[Cell, Mapping[Key, Mapping[int, Bools]]]


def backdoor_table(results: Results, controls: Mapping[tuple[str, ...], str]) -> pd.DataFrame:
    """A row per cell with a poison: rates with intervals over seeds and examples, DER and RIR against the control with
    Student's interval over seeds, and means over seeds of the worst class's drop and of the cost. Empty: not measured.
    """
    rows = []
    for cell, found in _groups(results).items():
        by_metric = {key.metric: table for key, table in found.items() if key.attack in ("none", cell.poison)}
        if cell.poison == CLEAN or "asr" not in by_metric:
            continue
        taken = _taken(results, cell)
        control = controls.get(cell, "")
        row: dict[str, Any] = cell._asdict() | {"control": "" if control == cell.defense else control}
        for name in RATES:
            row |= _spread(name, _rate(by_metric.get(name)))
        for name in GAINS:
            row |= _spread(name, _mean(taken, name))
        row |= {name: _mean(taken, name).value for name in PRICES}
        rows.append(row | _foot(results, cell, Key(cell.poison, metric="asr")))
    columns = [*CELL, "control", *_columns((*RATES, *GAINS)), *PRICES, "seeds", "gate"]
    return pd.DataFrame(rows, columns=columns)


def cross_table(results: Results) -> pd.DataFrame:
    """Evasion beside backdoors: for each data set and model with both, a row per training set (clean, or a poison),
    defense and threat model, with the worst case of all attacks within it. Empty: not measured.
    """
    groups = _groups(results)
    robust: dict[tuple[str, str], set[tuple[str, float]]] = {}
    poisoned = set()
    for cell, found in groups.items():
        place = cell.dataset, cell.model
        robust.setdefault(place, set()).update((k.norm, k.eps) for k in found if k.attack == "worst_case")
        if any(key.metric == "asr" for key in found):
            poisoned.add(place)
    rows = []
    for cell, found in groups.items():
        place = cell.dataset, cell.model
        for norm, eps in sorted(robust[place]) if place in poisoned else ():
            worst = Key("worst_case", norm, eps, metric="robust_accuracy")
            row: dict[str, Any] = cell._asdict() | {"norm": norm, "eps": eps}
            attack = {name: Key(cell.poison, metric=name) for name in ("asr", "triggered_accuracy")}
            keys = {"clean_accuracy": CLEAN_KEY, "robust_accuracy": worst} | attack
            for name in CROSSED:
                row |= _spread(name, _rate(found.get(keys[name])))
            rows.append(row | _foot(results, cell, worst if worst in found else CLEAN_KEY))
    return pd.DataFrame(rows, columns=[*CELL, "norm", "eps", *_columns(CROSSED), "seeds", "gate"])


def detection_table(results: Results) -> pd.DataFrame:
    """A row per cell, detector and look: at training `examples`, at test `inputs`, at the `model`; or a `defense` that
    sets training examples apart itself. Rates of inputs have intervals over seeds and examples; AUROC, precision and
    recall Student's over seeds; the rest are means over seeds. accused_any: share of seeds in which a scan accuses some
    class, target_accused: the class that the attacker wants. Empty: not measured.
    """
    groups = _groups(results)
    known = _detectors(results)
    rows = []
    for cell in sorted({cell_of(run) for run in results.measures}):
        taken, found = _taken(results, cell), groups.get(cell, {})
        for name, look in known:
            row: dict[str, Any] = cell._asdict() | {"detector": name, "look": look}
            numbers = {
                part: [run[f"{name}_{part}"] for run in taken if f"{name}_{part}" in run]
                for part in OF_LOOK[look]
            }
            if look == MODEL:
                numbers["accused_any"] = [float(count > 0) for count in numbers["accused"]]
            tables = {part: found.get(Key(name, metric=part)) for part in SEEN} if look == INPUTS else {}
            if not any(numbers.values()) and not any(tables.values()):
                continue
            for part in WITH_INTERVAL:
                shown = _rate(tables.get(part)) if part in SEEN else _of(numbers.get(part, ()))
                row |= _spread(part, shown.inside(*ends(part)))
            row |= {part: _of(numbers.get(part, ())).value for part in (*POINTS, *TOLD)}
            rows.append(row | _foot(results, cell, CLEAN_KEY))
    columns = [*CELL, "detector", "look", *_columns(WITH_INTERVAL), *POINTS, *TOLD, "seeds", "gate"]
    return pd.DataFrame(rows, columns=columns)


OF_LOOK: Mapping[str, tuple[str, ...]] = {
    EXAMPLES: ("auroc", "precision", "recall", "share", "left"),
    INPUTS: ("auroc", *POINTS),
    MODEL: ("anomaly", "accused", "target_anomaly", "target_accused"),
    DEFENSE: ("auroc", "precision", "recall", "share", "left"),
}


def _detectors(results: Results) -> list[tuple[str, str]]:
    """(name, look) of every detector, by what it left: rates of inputs, a scan of the model, or a share of training
    examples with its recall, which no other measure has.
    """
    found = {(row.key.attack, INPUTS) for row in results.rows if row.key.metric in SEEN}
    names = {name for measures in results.measures.values() for name in measures}
    scans = _stems(names, "anomaly", "accused")
    found |= {(name, MODEL) for name in scans if name.removesuffix("_target") not in scans - {name}}
    found |= {(name, DEFENSE if name in SPLITS else EXAMPLES) for name in _stems(names, "share", "recall")}
    return sorted(found)


def _stems(names: Iterable[str], *ends: str) -> set[str]:
    """What stands before each of the ends."""
    stems = [{name.removesuffix(f"_{end}") for name in names if name.endswith(f"_{end}")} for end in ends]
    return set.intersection(*stems)


def _groups(results: Results) -> Groups:
    """Hits by seed of every metric of each cell but the points of curves, in the order of the rows."""
    groups: dict[Cell, dict[Key, dict[int, Bools]]] = {}
    for row in results.rows:
        if not row.key.curve:
            groups.setdefault(cell_of(row.run), {}).setdefault(row.key, {})[row.run.seed] = row.hits
    return groups


def _taken(results: Results, cell: Cell) -> list[Mapping[str, float]]:
    """Measures of the runs of a cell."""
    return [results.measures[run] for run in results.runs(cell)]


def _rate(table: Mapping[int, Bools] | None) -> Interval:
    return rate(np.stack(list(table.values()))) if table else NONE


def _mean(taken: Iterable[Mapping[str, float]], name: str) -> Interval:
    return _of([run[name] for run in taken if name in run])


def _of(values: Iterable[float]) -> Interval:
    numbers = np.array(list(values), float)
    return mean(numbers) if len(numbers) else NONE


def _spread(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _columns(names: Iterable[str]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _foot(results: Results, cell: Cell, key: Key) -> dict[str, Any]:
    runs: list[Run] = results.runs(cell)
    return {"seeds": len(runs), "gate": results.gate(runs, key)}
