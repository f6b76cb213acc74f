"""Commands around an experiment as a whole: plan it, judge it, report it.

Everything heavy is imported inside a command, so that help and errors in options are instant.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from deconfound.options import (
    Code,
    Out,
    PlanFile,
    Spec,
    Threads,
    listing,
    parse_json,
)


def plan(
    experiment: Annotated[Path, typer.Argument(help="An experiment (YAML).")] = Path("config.yaml"),
    out: Annotated[Path | None, typer.Option(help="Write the list of artifacts as JSON.")] = None,
    overrides: Annotated[
        Any, typer.Option(parser=parse_json, metavar="JSON", help="Keys laid over the file's.")
    ] = "{}",
) -> None:
    """Check an experiment, and say which runs it consists of.

    Example: deconfound plan experiments/mnist.yaml
    """
    from deconfound.config import read
    from deconfound.graph import Graph
    from deconfound.storage import write_json

    graph = Graph(read(experiment, overrides))
    if out:
        file = "" if experiment == Path("config.yaml") else str(experiment)
        write_json(out, graph.listing() | {"file": file})
        return
    for run in graph.runs:
        typer.echo(str(run))
    typer.echo(
        f"{len(graph.runs)} runs ({len(graph.base)} base), {len(graph.crafted)} adversarial sets", err=True
    )


def calibrate(spec: Spec, out: Out, threads: Threads = 1, code: Code = "") -> None:
    """Measure how far estimates of mutual information can be trusted, on Gaussians whose information is known.

    Example: deconfound calibrate --spec '{"seeds": 4}' --out calibration.json
    """
    from deconfound.device import setup
    from deconfound.steps import calibrate as step

    setup(threads=threads, gpu=False)
    step.run(spec=spec, out=out)


def claims(plan: PlanFile, out: Out, code: Code = "") -> None:
    """Tabulate all evaluations with intervals, and judge the claims of the ledgers.

    Example: deconfound claims --plan reports/plan.json --out reports/tables
    """
    from deconfound.steps import claims as step

    keys = ("evaluations", "interpretations", "ledgers", "calibration")
    found = listing(plan, *keys, "controls")
    paths = {key: [Path(path) for path in found[key]] for key in keys}
    step.run(**paths, controls=found["controls"], out=out)


def report(plan: PlanFile, out: Out, code: Code = "") -> None:
    """Write the report as HTML and PDF, with its figures, from the tables in OUT/tables.

    Example: deconfound report --plan reports/plan.json --out reports
    """
    from deconfound.steps import report as step

    keys = (
        "experiment",
        "file",
        "runs",
        "adversarial",
        "poisoned",
        "clean",
        "calibration",
        "interpretations",
    )
    step.run(plan=listing(plan, *keys), out=out)


def timings(
    plan: PlanFile,
    folder: Annotated[Path, typer.Option(help="Folder of the workflow's benchmark files.")],
    out: Out,
    code: Code = "",
) -> None:
    """Write a page with the seconds and the memory that each rule took (they differ from run to run)."""
    from deconfound.steps import timings as step

    step.run(plan=listing(plan, "timings"), folder=folder, out=out)
