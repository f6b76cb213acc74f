"""Which maps of which model failed a check: they are marked wherever they stand."""

from collections.abc import Sequence

from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation.kinds import layout_of
from deconfound.report.words import listing

KIND, MARKED, PASSES = "map_trust", "marked", "passes_"


def marks_of(inputs: Inputs) -> dict[tuple[str, str], str]:
    """By cell and map: 'This map failed a check: randomised layers.'; maps that failed none are left out."""
    rows = [row for row in inputs.interpretation if row.kind == KIND]
    found = {}
    for row in rows:
        if row.metric == MARKED and row.value > 0:
            failed = failures(rows, row.group, row.subject)
            found[row.group, row.subject] = "This map failed a check" + (
                f": {listing(failed)}" if failed else ""
            )
    return found


def failures(rows: Sequence[Interpretation], group: str, subject: str) -> list[str]:
    """The checks that a map failed in some seed, as prose."""
    return [
        layout_of(KIND).word(row.metric, row.condition).name
        for row in rows
        if (row.group, row.subject) == (group, subject) and row.metric.startswith(PASSES) and row.value < 1
    ]
