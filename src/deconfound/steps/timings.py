"""Write the page of seconds and memory per rule."""

from pathlib import Path

from deconfound.report.timings import timings


def run(*, folder: Path, out: Path) -> None:
    """Write timings.html and tables/timings.csv into `out` from the benchmark files below `folder`."""
    timings(folder, out)
