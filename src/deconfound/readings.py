"""What interpretations read off the models, as rows with intervals."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deconfound.errors import DataError
from deconfound.measures import ends
from deconfound.results import Cell, Reading, Results, cell_of
from deconfound.runs import Run
from deconfound.statistics import Floats, Interval, crossed_mean, difference, mean, rate
from deconfound.storage import read_json

CHANCES = re.compile(
    r"(.+\.)?(accuracy|accused|agrees|area|auroc_(high|low)|changed_share|convincing|half_asr_(clean|share)|marked"
    r"|null_(high|low)|p|passes_\w+|poisoned|selectivity_above_half|share|significant|silent|style_by_chance|success)"
)
"""Numbers of a run that lie in [0, 1], besides those of `measures.ends`."""
DIFFERENCES = {"asr_drop", "gain", "gap"}
"""Numbers per image that are a hit minus a hit: -1, 0 or 1, of which a run may happen to hold no -1."""
PLACE = ["interpretation", "kind", "subject", "condition", "metric"]


def with_readings(results: Results, paths: Iterable[Path]) -> Results:
    """The same with what was read off the models; its numbers of a run become measures of the run.

    Raises DataError for a file that is no interpretation.json.
    """
    readings: list[Reading] = []
    for path in paths:
        try:
            readings += _readings(read_json(path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: expected the interpretation of a run: {error!r}; remove it and run again"
            ) from error
    readings.sort(key=lambda one: (one.run, one.name))
    measures = {run: dict(found) for run, found in results.measures.items()}
    for reading in readings:
        if reading.once and reading.run in measures:
            measures[reading.run][reading.name] = float(reading.values[0])
    return replace(results, measures=measures, readings=tuple(readings))


def interpretation_table(results: Results) -> pd.DataFrame:
    """A row per cell and reading: the mean with its interval, over how many images (0 for a number of the run) and
    seeds.
    """
    groups: dict[tuple[Cell, str], list[Reading]] = {}
    for reading in results.readings:
        groups.setdefault((cell_of(reading.run), reading.name), []).append(reading)
    rows = []
    for (cell, _), members in groups.items():
        first = members[0]
        place = dict(
            zip(PLACE, (first.of, first.kind, first.subject, first.condition, first.metric), strict=True)
        )
        if first.once:
            found, total = (
                mean(np.concatenate([one.values for one in members])).inside(*ends_of(first.metric)),
                0,
            )
        else:
            found, total = interval([one.values for one in members], metric=first.metric)
        rows.append(cell._asdict() | place | found._asdict() | {"total": total, "seeds": len(members)})
    columns = [*Cell._fields, *PLACE, "value", "low", "high", "total", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def ends_of(metric: str) -> tuple[float, float]:
    """The least and the greatest value that a number of a run, a reading among them, can have."""
    return (0.0, 1.0) if CHANCES.fullmatch(metric) else ends(metric)


def interval(
    members: Sequence[Floats], against: Sequence[Floats] | None = None, *, metric: str = ""
) -> tuple[Interval, int]:
    """Mean of numbers per image (N,), one array per seed, with an interval; and how many images it rests on. against:
    numbers of the same seeds and images that are subtracted first; metric: what the numbers are called.

    Over seeds and images where at least half of the images with a number in some seed have one in every seed. Where
    fewer do (say, images on which an attack succeeded), over the means of the seeds, or over the images of a single
    seed. Numbers that are all 0 or 1 are hits: their mean is a rate, and its interval stays inside its bounds. So does
    that of a difference of hits, whether it is taken here or the metric is one.
    """
    count = min(len(values) for values in (*members, *(against or ())))
    table = np.stack([np.asarray(values[:count], float) for values in members])
    already = metric.rpartition(".")[2] in DIFFERENCES
    signed, hits = already or against is not None, _are_all(table, (-1, 0, 1) if already else (0, 1))
    if against is not None:
        other = np.stack([np.asarray(values[:count], float) for values in against])
        table, hits = table - other, hits and not already and _are_all(other, (0, 1))
    known = np.isfinite(table)
    common, some = known.all(0), known.any(0)
    if not some.any():
        return Interval(float("nan"), float("nan"), float("nan")), 0
    if 2 * common.sum() >= some.sum():
        return _crossed_interval(table[:, common], hits, signed=signed), int(common.sum())
    found = mean(np.array([row[seen].mean() for row, seen in zip(table, known, strict=True) if seen.any()]))
    return found.inside(-1.0 if signed else 0.0, 1.0) if hits else found, int(some.sum())


def _crossed_interval(table: Floats, hits: bool, *, signed: bool) -> Interval:
    """Of a table (S, N) without gaps."""
    if not hits:
        return crossed_mean(table)
    return difference(table == 1, table == -1) if signed else rate(table == 1)


def _are_all(table: Floats, of: tuple[int, ...]) -> bool:
    """Are its numbers, where it has any, among these?"""
    return bool(np.isin(table[np.isfinite(table)], of).all())


def _readings(found: Any) -> list[Reading]:
    run = Run(**found["run"])
    read = []
    for one in found["readings"]:
        once = "number" in one
        values = [one["number"]] if once else np.frombuffer(base64.b64decode(one["values"]), "<f4")
        place = (one["of"], one["kind"], one["subject"], one["condition"], one["metric"])
        read.append(Reading(run, *place, np.asarray(values, np.float64), once))
    return read
