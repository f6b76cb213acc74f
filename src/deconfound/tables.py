"""From per-example hits to tables: a row per run, means with intervals, paired differences, classes, measures, what the
trust gate checked, and what the attacks cost.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deconfound.comparisons import common, holm, paired_p, rankable
from deconfound.results import Bools, Cell, Key, Results, Row, Values, cell_of
from deconfound.runs import Run
from deconfound.statistics import Interval, crossed_mean, difference, rate, wilson
from deconfound.storage import write_text

CELL = list(Cell._fields)
MEASURED = list(Key._fields)
LOWER = ("asr", "false_alarm_rate")  # metrics of which the lowest is the best
WITHOUT_CURVES = [name for name in MEASURED if name not in ("curve", "steps")]


def results_table(results: Results) -> pd.DataFrame:
    """A row per run and metric: hits, total, value, and the gate's verdict."""
    return pd.DataFrame(
        [
            _run(row.run) | _key(row.key) | _counts(row.hits) | {"gate": results.gate([row.run], row.key)}
            for row in results.rows
        ],
        columns=[*CELL, "seed", *MEASURED, "hits", "total", "value", "gate"],
    )


def summary_table(results: Results) -> pd.DataFrame:
    """Mean over seeds with the 95 % interval over seeds and examples, the gate's verdict, and the ranks that a defense
    may have among those of its setting; 0 where nothing is ranked.
    """
    rows = []
    groups = _groups(results)
    ranks = _ranks(groups)
    for (cell, key), seeds in groups.items():
        table = np.stack(list(seeds.values()))
        gate = results.gate([run for run in results.runs(cell) if run.seed in seeds], key)
        shape = {"total": table.shape[1], "seeds": table.shape[0], "gate": gate}
        best, worst = ranks.get((cell, key), (0, 0))
        shape |= {"rank_low": best, "rank_high": worst}
        rows.append(cell._asdict() | _key(key) | rate(table)._asdict() | shape)
    columns = [*CELL, *MEASURED, "value", "low", "high", "total", "seeds", "gate", "rank_low", "rank_high"]
    return pd.DataFrame(rows, columns=columns)


def _ranks(groups: Mapping[tuple[Cell, Key], Mapping[int, Bools]]) -> dict[tuple[Cell, Key], tuple[int, int]]:
    """Best and worst rank by Holm-corrected paired tests, where several defenses share a setting and a metric."""
    rivals: dict[tuple[Cell, Key], dict[str, Mapping[int, Bools]]] = {}
    for (cell, key), seeds in groups.items():
        if not key.curve:
            rivals.setdefault((cell._replace(defense=""), key), {})[cell.defense] = seeds
    found = {}
    for (setting, key), rows in rivals.items():
        if len(rows) > 1:
            for name, ranks in rankable(rows, higher_first=key.metric not in LOWER).items():
                found[setting._replace(defense=name), key] = (ranks.best, ranks.worst)
    return found


def differences_table(results: Results, controls: Mapping[tuple[str, ...], str]) -> pd.DataFrame:
    """Paired differences against the control of each cell; `controls` maps a cell to the name of its control. p_holm:
    of the paired test, corrected for all differences of the same data set.
    """
    groups = _groups(results)
    rows = []
    for (cell, key), seeds in groups.items():
        control = controls.get(cell)
        if control is None or control == cell.defense or key.curve:
            continue
        other_cell = cell._replace(defense=control)
        other = groups.get((other_cell, key), {})
        shared = sorted(set(seeds) & set(other))
        if not shared:
            continue
        found = paired(seeds, other)
        both = common(seeds, other)
        total = min(len(table[seed]) for table in (seeds, other) for seed in shared)
        shape = {"total": total, "seeds": len(shared), "gate": gate_of_both(results, cell, other_cell, key)}
        effect = {"effect": found.value, "low": found.low, "high": found.high}
        effect["p_holm"] = paired_p(*both) if both else float("nan")
        rows.append(cell._asdict() | {"control": control} | _key(key) | effect | shape)
    columns = [*CELL, "control", *WITHOUT_CURVES, "effect", "low", "high", "p_holm", "total", "seeds", "gate"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = table.groupby("dataset")["p_holm"].transform(lambda p: holm(list(p)))
    return table


def gate_of_both(results: Results, cell: Cell, other: Cell | None, key: Key) -> str:
    """The gate's verdict on a comparison: that of the side which is worse off, named."""
    sides = [side for side in (cell, other) if side is not None]
    said = {side.defense: results.gate(results.runs(side), key) for side in sides}
    for word in ("failed", "not assessed"):
        worse = [f"{name} {text}" for name, text in said.items() if text.startswith(word)]
        if worse and word == "failed":
            return f"failed ({'; '.join(worse)})"
        if worse:
            return word
    return "passed"


def paired(treatment: Mapping[int, Bools], control: Mapping[int, Bools]) -> Interval:
    """Difference over the seeds and the examples that both have: a shorter evaluation is a prefix of a longer one."""
    both = common(treatment, control)
    if both is None:
        raise ValueError("expected two rows that share a seed")
    return difference(*both)


def per_class_table(results: Results) -> pd.DataFrame:
    """Accuracy per true class, seeds pooled; the interval is over the class's examples."""
    groups: dict[tuple[Cell, Key], list[Row]] = {}
    for row in results.rows:
        if not row.key.curve and row.key.metric in ("clean_accuracy", "robust_accuracy", "asr"):
            groups.setdefault((cell_of(row.run), row.key), []).append(row)
    rows = []
    for (cell, key), members in groups.items():
        gate = results.gate([row.run for row in members], key)
        for label, name in enumerate(results.classes[cell[0]]):
            hits = np.concatenate([row.hits[row.labels == label] for row in members])
            if len(hits):
                one = len(hits) // len(members)
                bounds = wilson(round(float(hits.mean()) * one), one)
                counts = _counts(hits) | {"low": bounds.low, "high": bounds.high, "gate": gate}
                rows.append(cell._asdict() | _key(key) | {"label": name} | counts)
    columns = [*CELL, *WITHOUT_CURVES, "label", "hits", "total", "value", "low", "high", "gate"]
    return pd.DataFrame(rows, columns=columns)


def measures_table(results: Results) -> pd.DataFrame:
    """A row per run and scalar measure."""
    rows = [
        _run(run) | {"measure": name, "value": value}
        for run, found in sorted(results.measures.items())
        for name, value in sorted(found.items())
    ]
    return pd.DataFrame(rows, columns=[*CELL, "seed", "measure", "value"])


def properties_table(results: Results) -> pd.DataFrame:
    """Means over seeds and examples of what was measured per example, with the interval over both: of all examples
    (label empty) and of those of each true class.
    """
    groups: dict[tuple[Cell, str], list[Values]] = {}
    for value in results.values:
        groups.setdefault((cell_of(value.run), value.name), []).append(value)
    rows = []
    for (cell, name), members in groups.items():
        count = min(len(member.values) for member in members)
        table = np.stack([member.values[:count] for member in members])
        labels = members[0].labels[:count]
        parts = {"": np.ones(count, bool)} | {
            text: labels == place for place, text in enumerate(results.classes[cell.dataset])
        }
        for text, chosen in parts.items():
            if chosen.any():
                shape = {"total": int(chosen.sum()), "seeds": len(members)}
                found = crossed_mean(table[:, chosen])._asdict()
                rows.append(cell._asdict() | {"measure": name, "label": text} | found | shape)
    columns = [*CELL, "measure", "label", "value", "low", "high", "total", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def trust_table(results: Results) -> pd.DataFrame:
    """A row per run and check of the trust gate; norm is empty for checks of the model itself."""
    names = ["check", "verdict", "value", "low", "high", "limit", "total", "note"]
    rows = []
    for run, trust in sorted(results.trust.items()):
        threats = {("", 0.0): trust.model or ()} | dict(trust.threats)
        for (norm, eps), checks in threats.items():
            for check in checks:
                stored = {"check": check["name"]} | {name: check[name] for name in names[1:]}
                rows.append(_run(run) | {"norm": norm, "eps": eps} | stored)
    return pd.DataFrame(rows, columns=[*CELL, "seed", "norm", "eps", *names])


def costs_table(results: Results) -> pd.DataFrame:
    """A row per run and attack (or member of an ensemble): images attacked and broken, images forward and backward."""
    names = ["attack", "member", "norm", "eps", "attacked", "broken", "forward", "backward", "fault"]
    rows = [
        _run(run) | {name: cost[name] for name in names}
        for run, costs in sorted(results.costs.items())
        for cost in costs
    ]
    return pd.DataFrame(rows, columns=[*CELL, "seed", *names])


def write(table: pd.DataFrame, path: Path) -> None:
    """CSV with fractions to six digits; the same table gives the same bytes."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _groups(results: Results) -> dict[tuple[Cell, Key], dict[int, Bools]]:
    """Hits by seed, for every cell and metric, in the order of the rows."""
    groups: dict[tuple[Cell, Key], dict[int, Bools]] = {}
    for row in results.rows:
        groups.setdefault((cell_of(row.run), row.key), {})[row.run.seed] = row.hits
    return groups


def _run(run: Run) -> dict[str, Any]:
    return cell_of(run)._asdict() | {"seed": run.seed}


def _key(key: Key) -> dict[str, Any]:
    return key._asdict()


def _counts(hits: Bools) -> dict[str, Any]:
    return {
        "hits": int(hits.sum()),
        "total": len(hits),
        "value": float(hits.mean()) if len(hits) else float("nan"),
    }
