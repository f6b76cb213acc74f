"""Write the report from the tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.report.build import build
from deconfound.report.calibration import page
from deconfound.storage import read_json


def run(*, plan: Mapping[str, Any], out: Path) -> None:
    """Write robustness.html, robustness.pdf, report.json, metrics.json, plots.csv and figures into `out`, and beside
    them pages/interpretation.html and .pdf where the plan has interpretations, and pages/calibration.html where it has
    a calibration.

    plan: what `deconfound plan` wrote; the tables are expected in out/tables.
    """
    build(
        tables=out / "tables",
        runs=[Path(path) for path in plan["runs"]],
        adversarial=[Path(path) for path in plan["adversarial"]],
        poisoned=[Path(path) for path in plan["poisoned"]],
        clean={name: Path(path) for name, path in plan["clean"].items()},
        interpretations=[Path(path) for path in plan["interpretations"]],
        experiment=plan["experiment"] | {"config": plan["experiment"], "file": plan["file"]},
        out=out,
    )
    for path in plan["calibration"]:
        page(read_json(Path(path)), out / "pages")
