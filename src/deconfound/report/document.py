"""report.json: every number, label, caption and sentence of the report, and where it comes from.

The HTML page and the PDF are two drawings of this one value, so they cannot disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconfound.report.blocks import Block
from deconfound.report.inputs import Inputs, read
from deconfound.report.making import evidence, making, plain
from deconfound.report.names import DAGGER
from deconfound.report.plotting import Figure
from deconfound.report.sections import SECTIONS
from deconfound.report.verdicts import verdicts
from deconfound.report.words import Order, count, label, listing

INTRODUCTION = (
    "Every rate is a share of test images, averaged over seeds; each seed trains its own model from scratch. "
    "The small range below a number is its 95 % interval, which covers the choice of test images and the "
    "choice of seeds; n is seeds × images. Where two intervals overlap, look at the paired difference: "
    "it compares the two on the same images.",
    "A verdict never rests on a single number. Each claim says beforehand by how much a treatment has to "
    "differ from its control, which is often the same method without the part that is said to help; the "
    "verdict then asks on which side of that margin the interval of the difference lies. A number with a dagger "
    f"({DAGGER}) did not pass the trust gate: the attacks behind it are not to be believed, so it decides nothing.",
    "The name at the head of a row leads to the runs behind its numbers: command, commit and checksums.",
)


def assemble(
    tables: Path,
    runs: Sequence[Path],
    experiment: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
    inputs: Inputs | None = None,
) -> dict[str, Any]:
    """The report as plain JSON.

    `tables` is the folder of the CSV files, `runs` the run.json files, `experiment` has name, title,
    description, seeds, config (the whole configuration) and file (where it is not the default one). Paths are
    written as seen from the folder above the reports. Raises DataError when a file is not what it should be.
    """
    config = experiment.get("config", experiment)
    calibrated = isinstance(config, Mapping) and config.get("calibration") is not None
    known = replace(inputs or read(tables, runs), calibrated=calibrated)
    order = order_of(experiment)
    root = tables.resolve().parent.parent
    sections: list[Block] = [
        *verdicts(known, figures),
        *(block for build in SECTIONS for block in build(known, figures, order)),
        *evidence(known, order, str(experiment.get("file", ""))),
        *making(known, experiment, tables, root),
    ]
    seeds = [int(seed) for seed in experiment.get("seeds", ())]
    return {
        "name": str(experiment.get("name", "")),
        "title": str(experiment.get("title") or experiment.get("name") or "Robustness report"),
        "description": str(experiment.get("description", "")).strip(),
        "seeds": seeds,
        "scope": scope(known, seeds),
        "reading": "How to read an interval and a verdict",
        "introduction": list(INTRODUCTION),
        "sections": sections,
        "footer": "Made by deconfound from the tables beside it; the same numbers are in report.json and "
        "robustness.pdf.",
        "config": plain(config),
    }


def order_of(experiment: Mapping[str, Any]) -> Order:
    """The order in which an experiment's configuration lists its parts."""
    config = experiment.get("config", experiment)
    return Order(config if isinstance(config, Mapping) else {})


def scope(inputs: Inputs, seeds: Sequence[int]) -> str:
    """'36 runs on digits and scenes, seeds 0, 1 and 2.'"""
    found = {(row.dataset, row.group, row.seed) for row in inputs.results}
    found |= {(run.dataset, run.group, run.seed) for run in inputs.runs}
    datasets, total = [label(name) for name in sorted({at[0] for at in found})], len(found)
    words = f"{count(total, 'run')} on {listing(datasets)}" if datasets else "No runs"
    if seeds:
        words += f", seed{'s' if len(seeds) > 1 else ''} {listing(map(str, seeds))}"
    return words + "."
