"""The figures of the page: charts and sheets of pictures, for as many models as a page can hold."""

from collections.abc import Callable, Mapping, Sequence

from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation import (
    graphs,
    graphs_bars,
    graphs_classes,
    graphs_forensics,
    graphs_maps,
    graphs_points,
    graphs_robust,
)
from deconfound.report.interpretation.files import Interpreted, first_of_each
from deconfound.report.interpretation.galleries import sheets
from deconfound.report.interpretation.grids import by_cell
from deconfound.report.interpretation.strips import drawn
from deconfound.report.interpretation.trusted import marks_of
from deconfound.report.plotting import Figure
from deconfound.report.words import Order

SHOWN = 4  # models of a data set whose pictures are drawn, per block
FEWER: Mapping[str, int] = {"attribution_shift": 2, "poison_forensics": 2}  # a sheet per map takes room
OF_RUN: Mapping[str, Sequence[Callable[[Interpreted, str], list[Figure]]]] = {
    "attribution_shift": (graphs_maps.noise_beside_attack,),
    "map_trust": (graphs_maps.removal,),
    "adversarial_detection": (graphs.operating,),
    "components": (graphs_maps.changes, graphs_maps.selectivity),
    "robust_interpretability": (graphs_maps.alignment,),
    "poison_forensics": (graphs_forensics.scores,),
}
OF_RUNS: Mapping[str, Callable[[Sequence[Interpreted], str], list[Figure]]] = {
    "poison_forensics": graphs_forensics.features,
}
OF_CELL: Mapping[str, Callable[[Sequence[Interpretation], str], list[Figure]]] = {
    "adversarial_detection": graphs.matrix,
    "prune_curve": graphs.pruning,
}
OF_ALL: Sequence[Callable[[Inputs, Sequence[Interpreted], Order], list[Figure]]] = (
    graphs_bars.reliance,
    graphs_bars.displacement,
    graphs_points.evidence,
    graphs_robust.robustness,
    graphs_classes.vulnerable,
)


def draw(inputs: Inputs, records: Sequence[Interpreted], order: Order) -> list[Figure]:
    """All figures, each with the kind (or `gallery`) as its section."""
    marks = marks_of(inputs)
    made = [figure for chart in OF_ALL for figure in chart(inputs, records, order)]
    names = dict.fromkeys(name for one in records for name in one.spec)
    for name in sorted(names, key=lambda name: order.key("interpretations", name)):
        mine = chosen([one for one in records if name in one.spec], order)
        for one in mine:
            for chart in OF_RUN.get(one.kind(name), ()):
                made += chart(one, name)
        if chart_of_runs := OF_RUNS.get(mine[0].kind(name)):
            made += chart_of_runs(mine, name)
        groups = {one.group for one in mine}
        for rows in by_cell([row for row in inputs.interpretation if row.interpretation == name], order):
            if rows[0].group in groups and (chart_of := OF_CELL.get(rows[0].kind)):
                made += chart_of(rows, name)
        pictured = mine[: FEWER.get(mine[0].kind(name), SHOWN)]
        made += [drawn(sheet) for one in pictured for sheet in sheets(one, name, marks)]
    return made


def chosen(records: Sequence[Interpreted], order: Order) -> list[Interpreted]:
    """Of every data set and model the first few cells, one of each training set before a second one; lowest seed."""
    cells = sorted(first_of_each(records), key=lambda one: order.cell(one.setting, one.defense))
    place: dict[tuple[str, str, str], int] = {}
    ranked = []
    for one in cells:
        place[one.setting] = place.get(one.setting, -1) + 1
        ranked.append((place[one.setting], one))
    found = []
    for dataset, model in dict.fromkeys((one.dataset, one.model) for one in cells):
        mine = [(turn, one) for turn, one in ranked if (one.dataset, one.model) == (dataset, model)]
        found += [one for _, one in sorted(mine, key=lambda item: item[0])[:SHOWN]]
    return found
