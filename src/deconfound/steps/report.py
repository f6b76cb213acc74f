"""Write the report from the tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.report.build import build


def run(*, plan: Mapping[str, Any], out: Path) -> None:
    """Write robustness.html, robustness.pdf, report.json, metrics.json, plots.csv and figures into `out`.

    plan: what `deconfound plan` wrote; the tables are expected in out/tables.
    """
    build(
        tables=out / "tables",
        runs=[Path(path) for path in plan["runs"]],
        adversarial=[Path(path) for path in plan["adversarial"]],
        poisoned=[Path(path) for path in plan["poisoned"]],
        clean={name: Path(path) for name, path in plan["clean"].items()},
        experiment=plan["experiment"] | {"config": plan["experiment"], "file": plan["file"]},
        out=out,
    )
