"""The short form of the page in the report: verdict lights and the detectors, with a link."""

from collections.abc import Sequence

from deconfound.report.blocks import Block, section
from deconfound.report.inputs import Inputs
from deconfound.report.interpretation.grids import by_place, compared
from deconfound.report.interpretation.kinds import layout_of
from deconfound.report.interpretation.lights import lamps
from deconfound.report.plotting import Figure
from deconfound.report.words import Order

LEAD = (
    "What the models look at, whether maps can be believed, and whether attacked images are noticed. Here only a "
    "light per question, and the detectors; pictures, controls and everything else are on a page of their own."
)
DETECTION = "adversarial_detection"


def interpretation(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Lights per model and a table of detectors per data set and model; nothing without interpretations."""
    if not inputs.interpretation:
        return []
    blocks = lamps(inputs, order)
    layout = layout_of(DETECTION)
    rows = [row for row in inputs.interpretation if row.kind == DETECTION]
    for where, mine in by_place(rows, order):
        for name in dict.fromkeys(row.interpretation for row in mine):
            part = [row for row in mine if row.interpretation == name]
            blocks += compared(part, layout, order, {}, f"{where}: {layout.title.lower()}")
    link = {"kind": "link", "text": "Everything else: ", "file": "pages/interpretation.html"}
    return [section("interpretation", "Interpretation", LEAD, [*blocks, link])]
