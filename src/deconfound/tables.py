"""From per-example hits to tables: a row per run, means with intervals, paired differences, classes,
measures.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deconfound.errors import DataError
from deconfound.evaluation import unpack
from deconfound.plan import Run
from deconfound.statistics import Interval, difference, rate, wilson
from deconfound.storage import read_json, write_text

CELL = ["dataset", "poison", "model", "defense"]
MEASURED = ["attack", "norm", "eps", "curve", "metric"]
GATE = "not assessed"  # until the trust gate (architecture section 5) has looked at a model

Key = tuple[Any, ...]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One metric of one run, with its hits (N,) and the true labels (N,) they belong to."""

    run: Run
    key: Key  # attack, norm, eps, curve, metric
    hits: Bools
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Results:
    """All that was evaluated, ready to be tabulated and judged."""

    rows: tuple[Row, ...]
    measures: Mapping[Run, Mapping[str, float]]
    classes: Mapping[str, tuple[str, ...]]

    def stacked(self, cell: Key, key: Key) -> dict[int, Bools]:
        """Hits (N,) by seed of one cell (dataset, poison, model, defense) and metric."""
        return {
            row.run.seed: row.hits
            for row in self.rows
            if row.key == key and (row.run.dataset, row.run.poison, row.run.model, row.run.defense) == cell
        }


def load(paths: Iterable[Path]) -> Results:
    """Read evaluation.json files, in the order of their runs."""
    rows: list[Row] = []
    measures: dict[Run, Mapping[str, float]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for path in paths:
        try:
            run, found, taken, names = _read(path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: expected the evaluation of a run: {error!r}; remove it and run again"
            ) from error
        classes[run.dataset] = names
        measures[run] = taken
        rows += found
    rows.sort(key=lambda row: (row.run, row.key[4], row.key[0], row.key[1:4]))
    return Results(tuple(rows), measures, classes)


def _read(path: Path) -> tuple[Run, list[Row], Mapping[str, float], tuple[str, ...]]:
    """Run, rows, measures and class names of one evaluation."""
    found = read_json(path)
    run = Run(**found["run"])
    labels = {
        name: np.frombuffer(base64.b64decode(text), "<u2").astype(np.int64)
        for name, text in found["subsets"].items()
    }
    rows = []
    for entry in found["entries"]:
        key = tuple(entry[name] for name in MEASURED)
        rows.append(Row(run, key, unpack(entry), labels[entry["subset"]]))
    return run, rows, dict(found["measures"]), tuple(found["classes"])


def results_table(results: Results) -> pd.DataFrame:
    """A row per run and metric: hits, total, value."""
    return pd.DataFrame(
        [_run(row.run) | _key(row.key) | _counts(row.hits) for row in results.rows],
        columns=[*CELL, "seed", *MEASURED, "hits", "total", "value"],
    )


def summary_table(results: Results) -> pd.DataFrame:
    """Mean over seeds with the 95 % interval over seeds and examples, and the gate's verdict."""
    rows = []
    for (cell, key), seeds in _groups(results).items():
        table = np.stack(list(seeds.values()))
        shape = {"total": table.shape[1], "seeds": table.shape[0], "gate": GATE}
        rows.append(dict(zip(CELL, cell, strict=True)) | _key(key) | rate(table)._asdict() | shape)
    return pd.DataFrame(rows, columns=[*CELL, *MEASURED, "value", "low", "high", "total", "seeds", "gate"])


def differences_table(results: Results, controls: Mapping[Key, str]) -> pd.DataFrame:
    """Paired differences against the control of each cell; `controls` maps a cell to the name of its control."""
    groups = _groups(results)
    rows = []
    for (cell, key), seeds in groups.items():
        control = controls.get(cell)
        other = groups.get(((*cell[:3], control), key), {})
        shared = sorted(set(seeds) & set(other))
        if control is None or control == cell[3] or key[3] or not shared:
            continue
        found = paired(seeds, other)
        total = min(len(table[seed]) for table in (seeds, other) for seed in shared)
        shape = {"total": total, "seeds": len(shared)}
        effect = {"effect": found.value, "low": found.low, "high": found.high}
        rows.append(dict(zip(CELL, cell, strict=True)) | {"control": control} | _key(key) | effect | shape)
    names = [name for name in MEASURED if name != "curve"]
    return pd.DataFrame(rows, columns=[*CELL, "control", *names, "effect", "low", "high", "total", "seeds"])


def paired(treatment: Mapping[int, Bools], control: Mapping[int, Bools]) -> Interval:
    """Difference over the seeds and the examples that both have: a shorter evaluation is a prefix of a longer one."""
    shared = sorted(set(treatment) & set(control))
    count = min(min(len(treatment[s]), len(control[s])) for s in shared)
    return difference(
        np.stack([treatment[s][:count] for s in shared]), np.stack([control[s][:count] for s in shared])
    )


def per_class_table(results: Results) -> pd.DataFrame:
    """Accuracy per true class, seeds pooled; the interval is over the class's examples."""
    groups: dict[tuple[Key, Key], list[Row]] = {}
    for row in results.rows:
        if not row.key[3] and row.key[4] in ("clean_accuracy", "robust_accuracy", "asr"):
            groups.setdefault((_cell(row.run), row.key), []).append(row)
    rows = []
    for (cell, key), members in groups.items():
        for label, name in enumerate(results.classes[cell[0]]):
            hits = np.concatenate([row.hits[row.labels == label] for row in members])
            if len(hits):
                one = len(hits) // len(members)
                bounds = wilson(round(float(hits.mean()) * one), one)
                counts = _counts(hits) | {"low": bounds.low, "high": bounds.high}
                rows.append(dict(zip(CELL, cell, strict=True)) | _key(key) | {"label": name} | counts)
    names = [name for name in MEASURED if name != "curve"]
    return pd.DataFrame(rows, columns=[*CELL, *names, "label", "hits", "total", "value", "low", "high"])


def measures_table(results: Results) -> pd.DataFrame:
    """A row per run and scalar measure."""
    rows = [
        _run(run) | {"measure": name, "value": value}
        for run, found in sorted(results.measures.items())
        for name, value in sorted(found.items())
    ]
    return pd.DataFrame(rows, columns=[*CELL, "seed", "measure", "value"])


def write(table: pd.DataFrame, path: Path) -> None:
    """CSV with fractions to six digits; the same table gives the same bytes."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _groups(results: Results) -> dict[tuple[Key, Key], dict[int, Bools]]:
    """Hits by seed, for every cell and metric, in the order of the rows."""
    groups: dict[tuple[Key, Key], dict[int, Bools]] = {}
    for row in results.rows:
        groups.setdefault((_cell(row.run), row.key), {})[row.run.seed] = row.hits
    return groups


def _cell(run: Run) -> Key:
    return (run.dataset, run.poison, run.model, run.defense)


def _run(run: Run) -> dict[str, Any]:
    return dict(zip(CELL, _cell(run), strict=True)) | {"seed": run.seed}


def _key(key: Key) -> dict[str, Any]:
    return dict(zip(MEASURED, key, strict=True))


def _counts(hits: Bools) -> dict[str, Any]:
    return {
        "hits": int(hits.sum()),
        "total": len(hits),
        "value": float(hits.mean()) if len(hits) else float("nan"),
    }
