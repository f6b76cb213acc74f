"""Progress of long work: a bar on a terminal, sparse lines in a log file."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SPARSE = 20.0  # seconds between lines of a log


class Tick(Protocol):
    """Advance by one unit of work."""

    def __call__(self, remark: str = "", advance: int = 1) -> None:
        """`remark` is shown beside the count."""


@contextmanager
def progress(label: str, total: int) -> Iterator[Tick]:
    """Show how much of `total` units is done, on standard error."""
    if sys.stderr.isatty():
        with _bar(label, total) as tick:
            yield tick
    else:
        yield _lines(label, total)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[remark]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, remark="")
        yield lambda remark="", advance=1: bar.update(task, advance=advance, remark=remark)


def _lines(label: str, total: int) -> Tick:
    start = time.monotonic()
    done, last = 0, start - SPARSE

    def tick(remark: str = "", advance: int = 1) -> None:
        nonlocal done, last
        done += advance
        now = time.monotonic()
        if now - last >= SPARSE or done >= total:
            last = now
            print(
                f"{label}: {done}/{total} {remark} ({now - start:.0f} s)".replace("  ", " "),
                file=sys.stderr,
                flush=True,
            )

    return tick
