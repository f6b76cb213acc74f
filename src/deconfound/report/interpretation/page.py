"""The page as one JSON document, drawn as HTML and PDF by the renderers of the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deconfound.report import html, pdf
from deconfound.report.blocks import Block
from deconfound.report.document import order_of
from deconfound.report.inputs import Inputs
from deconfound.report.interpretation.drawings import draw
from deconfound.report.interpretation.files import Interpreted, read_all
from deconfound.report.interpretation.footnotes import footnotes
from deconfound.report.interpretation.lights import lights
from deconfound.report.interpretation.origins import origins
from deconfound.report.interpretation.sections import missing, sections
from deconfound.report.interpretation.taxonomy import taxonomy
from deconfound.report.making import plain
from deconfound.report.plotting import Figure
from deconfound.report.words import count, label, listing
from deconfound.storage import atomic, write_text

INTRODUCTION = (
    "A map says which pixels the score of one class reacts to. Which class was asked for (the true one, the "
    "predicted one, the attacker's) changes the map, so every table and picture says it.",
    "A number about maps means nothing alone: maps also move under random noise, and maps of different images are "
    "alike where images share an empty border. So the same number under noise of the same size, and that of another "
    "image, stand beside it. What does not differ from noise shows nothing about the attack.",
    "The small range below a number is its 95 % interval over test images and seeds. With one seed the interval "
    "covers the images alone.",
    "Maps are evidence of what the model is sensitive to, not proof of a cause: they can be moved without touching a "
    "prediction, and some ignore the weights. So beside a map stands, where there is one, the number of an "
    "intervention: what happens when the region is really taken away.",
)


def write(
    inputs: Inputs, paths: Sequence[Path], experiment: Mapping[str, Any], root: Path, out: Path
) -> None:
    """Write interpretation.html and interpretation.pdf into `out`. paths: interpretation.json files; root: the folder
    that paths are written from.
    """
    records = read_all(paths)
    figures = draw(inputs, records, order_of(experiment))
    document = assemble(inputs, records, experiment, figures=figures, root=root)
    drawings = {figure.name: figure.svg for figure in figures}
    write_text(out / "interpretation.html", html.render(document, drawings))
    with atomic(out / "interpretation.pdf") as temporary:
        temporary.write_bytes(pdf.render(document, drawings))


def assemble(
    inputs: Inputs,
    records: Sequence[Interpreted],
    experiment: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
    root: Path = Path(),
) -> dict[str, Any]:
    """The page as plain JSON, of the same form as the report's."""
    config = experiment.get("config", experiment)
    order = order_of(experiment)
    measured = sections(inputs, records, figures, order)
    titles = {str(part["id"]): str(part["title"]) for part in measured}
    parts: list[Block] = [
        *lights(inputs, order),
        taxonomy([config, *(one.spec for one in records)], titles),
        *measured,
        missing(titles, inputs, records),
        footnotes(records),
        *origins(records, order, root, str(experiment.get("file", ""))),
    ]
    name = str(experiment.get("title") or experiment.get("name") or "the experiment")
    return {
        "name": str(experiment.get("name", "")),
        "title": "Interpretation",
        "description": f"What the models of “{name}” look at, whether maps can be believed, and whether explanations "
        "help to attack, to defend and to find poison.",
        "scope": scope(records),
        "reading": "How to read this page",
        "introduction": list(INTRODUCTION),
        "sections": parts,
        "footer": "Made by deconfound; the numbers are in tables/interpretation.csv, the pictures in the folders of "
        "the runs (pictures.npz). The same page is in interpretation.pdf.",
        "config": plain(config),
    }


def scope(records: Sequence[Interpreted]) -> str:
    """'8 runs on digits and scenes, seeds 0, 1 and 2.'"""
    if not records:
        return "No runs."
    datasets = listing(label(name) for name in sorted({one.dataset for one in records}))
    seeds = sorted({one.seed for one in records})
    return f"{count(len(records), 'run')} on {datasets}, seed{'s' * (len(seeds) > 1)} {listing(map(str, seeds))}."
