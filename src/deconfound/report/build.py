"""From the result tables to everything in reports/ that people read and that DVC compares."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deconfound.report import html, pdf
from deconfound.report.document import assemble, order_of
from deconfound.report.figures import draw
from deconfound.report.inputs import Summary, read
from deconfound.report.interpretation import page
from deconfound.report.matrix import condition
from deconfound.storage import atomic, write_json, write_text


def build(
    *,
    tables: Path,
    runs: Sequence[Path],
    adversarial: Sequence[Path],
    poisoned: Sequence[Path],
    clean: Mapping[str, Path],
    experiment: Mapping[str, Any],
    out: Path,
    interpretations: Sequence[Path] = (),
) -> None:
    """Write report.json, figures/*.svg, robustness.html and .pdf, metrics.json and plots.csv below `out`, and where
    there are interpretations pages/interpretation.html and .pdf.

    `runs` are run.json files, `interpretations` interpretation.json files, `adversarial` and `poisoned` npz files of
    kept image sets, `clean` maps a dataset to its test.npz. Figures of an earlier report that this one lacks are
    removed. Raises DataError.
    """
    inputs = read(tables, runs)
    figures = draw(inputs, order_of(experiment), adversarial=adversarial, poisoned=poisoned, clean=clean)
    report = assemble(tables, runs, experiment, figures=figures, inputs=inputs)
    drawings = {figure.name: figure.svg for figure in figures}
    for name, svg in drawings.items():
        write_text(out / "figures" / f"{name}.svg", svg)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for stale in sorted((out / "figures").glob("*.svg")):
        if stale.stem not in drawings:
            stale.unlink()
    write_json(out / "report.json", report)
    write_text(out / "robustness.html", html.render(report, drawings))
    with atomic(out / "robustness.pdf") as temporary:
        temporary.write_bytes(pdf.render(report, drawings))
    write_json(out / "metrics.json", headline_numbers(inputs.summary))
    write_text(out / "plots.csv", plots(inputs.summary))
    if interpretations:
        root = tables.resolve().parent.parent
        page.write(inputs, interpretations, experiment, root, out / "pages")


def headline_numbers(rows: Sequence[Summary]) -> dict[str, float]:
    """Flat numbers for `dvc metrics`: `digits.cnn.trades.robust_accuracy.linf_0_2` is the worst case.

    A poisoned training set stands between dataset and model: `scenes.badnets.cnn.cbd.asr`.
    """
    found = {}
    for row in rows:
        attack = condition(row)[1]
        if attack == ("worst_case" if row.metric == "robust_accuracy" else "none") and not row.curve:
            poison = [] if row.poison == "clean" else [row.poison]
            within = [f"{row.norm}_{row.eps:g}".replace(".", "_")] if row.norm else []
            place = [row.dataset, *poison, row.model, row.defense, row.metric, *within]
            found[".".join(place)] = row.value
    return dict(sorted(found.items()))


def plots(rows: Sequence[Summary]) -> str:
    """Tidy text for `dvc plots`: columns run, metric, value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("run", "metric", "value"))
    lines = {
        (row.group, " ".join([row.metric, *condition_words(row)]), row.value) for row in rows if not row.curve
    }
    writer.writerows(sorted(lines))
    return buffer.getvalue()


def condition_words(row: Summary) -> list[str]:
    """Attack and budget of a row, where it has them."""
    attack = condition(row)[1]
    budget = [row.norm, f"{row.eps:g}"] if row.norm else []
    return [] if attack == "none" else [attack, *budget]
