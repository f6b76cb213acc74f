"""Write the page of seconds and memory per rule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.report.timings import timings


def run(*, plan: Mapping[str, Any], folder: Path, out: Path) -> None:
    """Write timings.html and tables/timings.csv into `out` from the plan's benchmark files below `folder`."""
    timings(folder, out, plan["timings"])
