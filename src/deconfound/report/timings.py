"""Seconds and memory of every rule, from Snakemake's benchmark files.

They differ from run to run, while the report is the same for the same seeds: so they have their own page.
"""

import csv
import io
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from deconfound.errors import DataError
from deconfound.storage import write_text

TRAINED, DEFENDED, UNDEFENDED = "train", "defend", "standard"
COLUMNS = (
    *("rule", "jobs", "seconds_total", "seconds_median", "seconds_max"),
    *("cpu_seconds_total", "cpu_seconds_median", "cpu_seconds_max", "peak_mib_median", "peak_mib_max"),
)


@dataclass(frozen=True)
class Rule:
    """What the jobs of a rule took: lists of equal length; cpu and memory are NaN where not measured."""

    name: str
    seconds: Sequence[float]
    cpu: Sequence[float]
    peak: Sequence[float]

    def row(self) -> list[str]:
        """The rule as a row of timings.csv."""
        numbers = [*spread(self.seconds), *spread(self.cpu), *spread(self.peak)[1:]]
        return [self.name, str(len(self.seconds)), *("" if n != n else f"{n:.2f}" for n in numbers)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Total, median and maximum of what was measured; NaN when nothing was."""
    known = [value for value in values if not math.isnan(value)]
    return (sum(known), statistics.median(known), max(known)) if known else (math.nan,) * 3


def collect(folder: Path, only: Collection[str] | None = None) -> list[Rule]:
    """Rules of a folder {rule}/**.tsv, longest total first; a foreign file is a DataError.

    only: paths below the folder that count, so that files of jobs that are no more are left out.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        if only is not None and path.relative_to(folder).as_posix() not in only:
            continue
        name = path.relative_to(folder).parts[0].removesuffix(".tsv")
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    found.setdefault(name, []).append(
                        {key: value(row[key]) for key in ("s", "cpu_time", "max_rss")}
                    )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: not a benchmark file of Snakemake ({error!r}); remove it") from error
    rules = [
        Rule(name, [r["s"] for r in rows], [r["cpu_time"] for r in rows], [r["max_rss"] for r in rows])
        for name, rows in found.items()
    ]
    return sorted(rules, key=lambda rule: (-sum(rule.seconds), rule.name))


@dataclass(frozen=True)
class Price:
    """What the trainings of a defense took, over all poisons and seeds: seconds, and each as a multiple of the training
    of the undefended model on the same data with the same seed.
    """

    dataset: str
    model: str
    defense: str
    seconds: Sequence[float]
    ratios: Sequence[float]

    def row(self) -> list[str]:
        """The defense as a row of the page."""
        numbers = (
            *(statistics.median(self.seconds), statistics.median(self.ratios)),
            *(min(self.ratios), max(self.ratios)),
        )
        place = f"{self.dataset} / {self.model} / {self.defense}"
        return [place, str(len(self.ratios)), *(f"{number:.2f}" for number in numbers)]


def prices(folder: Path, only: Collection[str] | None = None) -> list[Price]:
    """A price per data set, model and defense whose undefended model was timed too, from the files
    {train,defend}/{dataset}/{poison}/{model}/{defense}/{seed}.tsv of a folder; only: as in `collect`.
    """
    taken: dict[tuple[str, ...], float] = {}
    for rule in (TRAINED, DEFENDED):
        for path in sorted((folder / rule).rglob("*.tsv")):
            place = path.relative_to(folder)
            if len(place.parts) != 6 or (only is not None and place.as_posix() not in only):
                continue
            with path.open(encoding="utf-8", newline="") as file:
                seconds = [value(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            taken[place.parts[1:]] = statistics.median(seconds)
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for (dataset, poison, model, defense, seed), spent in taken.items():
        plain = taken.get((dataset, poison, model, UNDEFENDED, seed), math.nan)
        if defense != UNDEFENDED and plain > 0 and not math.isnan(spent):
            found.setdefault((dataset, model, defense), []).append((spent, spent / plain))
    return [
        Price(*place, [s for s, _ in pairs], [r for _, r in pairs]) for place, pairs in sorted(found.items())
    ]


def value(text: str) -> float:
    """A field of a benchmark file; `-` and `NA` mean not measured."""
    return math.nan if text.strip() in ("-", "NA", "") else float(text)


def timings(folder: Path, out: Path, only: Collection[str] | None = None) -> list[Rule]:
    """Write out/timings.html and out/tables/timings.csv from the benchmark files of a folder."""
    rules = collect(folder, only)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([COLUMNS, *(rule.row() for rule in rules)])
    write_text(out / "tables" / "timings.csv", buffer.getvalue())
    environment = Environment(
        loader=PackageLoader("deconfound.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    largest = max((sum(rule.seconds) for rule in rules), default=1.0) or 1.0
    page = environment.get_template("timings.html.j2").render(
        columns=COLUMNS,
        prices=[price.row() for price in prices(folder, only)],
        rules=[(rule.row(), 100 * sum(rule.seconds) / largest) for rule in rules],
        seconds=sum(sum(rule.seconds) for rule in rules),
        jobs=sum(len(rule.seconds) for rule in rules),
    )
    write_text(out / "timings.html", page)
    return rules
