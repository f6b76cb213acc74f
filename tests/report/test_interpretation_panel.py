"""Figures across models and of distributions: what is drawn is what was measured, and too little is not drawn."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from deconfound.report.inputs import Interpretation
from deconfound.report.interpretation import (
    graphs_bars,
    graphs_classes,
    graphs_maps,
    graphs_points,
    graphs_robust,
)
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.plotting import COLOURS, Figure
from deconfound.report.words import Order

ORDER = Order({"defenses": ["standard", "cbd", "placebo", "trades"], "datasets": ["low", "high"]})
NAN = float("nan")


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The drawings, before they become text."""
    seen: list[Canvas] = []

    def keep(figure: Canvas, **words: str) -> Figure:
        figure.draw_without_rendering()
        seen.append(figure)
        return Figure(**words, svg="")

    for module in (graphs_bars, graphs_classes, graphs_maps, graphs_points, graphs_robust):
        monkeypatch.setattr(module, "save", keep)
    return seen


def reading(place: str, value: float, *, kind: str, **cell: Any) -> Interpretation:
    subject, condition, metric = place.split(".")
    where = {"dataset": "low", "poison": "clean", "model": "cnn", "defense": "standard"} | cell
    about = {"kind": kind, "interpretation": kind, "subject": subject, "condition": condition}
    numbers = {"value": value, "low": value - 0.01, "high": value + 0.01, "total": 9, "seeds": 2}
    return Interpretation(**where, **about, metric=metric, **numbers)


def given(rows: Iterable[Interpretation]) -> Any:
    return SimpleNamespace(interpretation=list(rows))


def record(
    kind: str, values: Mapping[str, Sequence[float]], arrays: Mapping[str, Any], **cell: Any
) -> Interpreted:
    where = {"dataset": "low", "poison": "clean", "model": "cnn", "defense": "standard", "seed": 0} | cell
    names = ("subject", "condition", "metric")
    readings = [
        dict(zip(names, place.split("."), strict=True))
        | {"of": kind, "values": base64.b64encode(np.asarray(numbers, "<f4").tobytes()).decode()}
        for place, numbers in values.items()
    ]
    made = Interpreted(
        **where,
        path=Path("nowhere"),
        classes=["a", "b", "c", "d"],
        spec={kind: {"kind": kind}},
        notes={},
        readings=readings,
        provenance={},
    )
    made.__dict__["pictures"] = {f"{kind}.{name}": np.asarray(array) for name, array in arrays.items()}
    return made


def points(axis: Any) -> list[tuple[float, float]]:
    """What is marked, without lines."""
    lines = [line for line in axis.lines if line.get_linestyle() == "None"]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def lengths(axis: Any) -> list[float]:
    """Bars from above to below."""
    bars = sorted(axis.patches, key=lambda bar: bar.get_y() + bar.get_height() / 2)
    return [round(float(bar.get_width()), 6) for bar in bars]


def shown(figure: Canvas) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_visible()]


# Evidence against accuracy


def models(count: int, *, dataset: str = "low", shift: float = 0.0) -> Iterator[Interpretation]:
    names = ["standard", "cbd", "placebo", "trades"][:count]
    for turn, defense in enumerate(names):
        at = {"dataset": dataset, "defense": defense}
        yield reading("saliency.clean_true.ratio", 1.0 + turn + shift, kind="object_mass", **at)
        yield reading("grad_cam.clean_true.ratio", 2.0 - turn / 4, kind="object_mass", **at)
        yield reading("saliency.clean_pred.ratio", 9.0, kind="object_mass", **at)
        yield reading("model.do_style.right_after", 0.3 + turn / 10, kind="style_dependence", **at)
        yield reading("model.do_style.right_before", 0.9 - turn / 10, kind="style_dependence", **at)


def test_the_points_of_the_evidence_are_the_readings_of_the_models(canvases: list[Canvas]) -> None:
    (figure,) = graphs_points.evidence(given(models(4)), [], ORDER)
    first, second = shown(canvases[0])
    wanted = [(1.0, 0.3), (2.0, 0.4), (3.0, 0.5), (4.0, 0.6)]
    assert np.allclose(points(first), wanted)
    assert np.allclose(points(second), [(2 - turn / 4, y) for turn, (_, y) in enumerate(wanted)])
    assert first.get_title() == "saliency: ρ = 1.00" and second.get_title() == "Grad-CAM: ρ = −1.00"
    assert "saliency 1.00, Grad-CAM −1.00 (n = 4 models)" in figure.caption
    assert "before do(style) in its place: saliency −1.00, Grad-CAM 1.00" in figure.caption
    assert figure.section == "object_mass" and "Among the models of one" not in figure.caption
    lines = [line.get_xydata().tolist() for line in first.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(line, [[0.99, 0.3], [1.01, 0.3]]) for line in lines)
    assert any(np.allclose(line, [[1.0, 0.29], [1.0, 0.31]]) for line in lines)


def test_two_models_or_two_that_share_a_map_are_no_scatter() -> None:
    assert graphs_points.evidence(given(models(2)), [], ORDER) == []
    assert graphs_points.evidence(given([]), [], ORDER) == []
    rows = [row for row in models(4) if row.subject != "grad_cam" or row.defense in ("standard", "cbd")]
    (figure,) = graphs_points.evidence(given(rows), [], ORDER)
    assert "Grad-CAM" not in figure.caption
    rows = [row for row in models(4) if row.subject != "grad_cam" or row.defense != "cbd"]
    (figure,) = graphs_points.evidence(given(rows), [], ORDER)
    assert "saliency 1.00 (n = 4), Grad-CAM −1.00 (n = 3)." in figure.caption
    styleless = [row for row in models(4) if row.kind == "object_mass"]
    assert graphs_points.evidence(given(styleless), [], ORDER) == []


def test_data_sets_share_a_figure_with_a_marker_each_and_a_correlation_of_their_own(
    canvases: list[Canvas],
) -> None:
    rows = [*models(4), *models(3, dataset="high", shift=-5.0)]
    (figure,) = graphs_points.evidence(given(rows), [], ORDER)
    assert len(points(shown(canvases[0])[0])) == 7
    marks = {line.get_marker() for line in shown(canvases[0])[0].lines if line.get_linestyle() == "None"}
    assert len(marks) == 2
    assert "(n = 7 models)" in figure.caption
    assert "low −1.00 to 1.00 (n = 4) and high −1.00 to 1.00 (n = 3)" in figure.caption


def test_models_with_other_classes_have_a_figure_of_their_own() -> None:
    rows = [*models(3), *models(3, dataset="high")]
    other = record("object_mass", {}, {}, dataset="high")
    records = [
        record("object_mass", {}, {}, defense=name, dataset=dataset)
        for dataset in ("low", "high")
        for name in ("standard", "cbd", "placebo")
    ]
    assert len(graphs_points.evidence(given(rows), records, ORDER)) == 1
    for one in records:
        if one.dataset == "high":
            one.__dict__["classes"] = [*other.classes, "e"]
    figures = graphs_points.evidence(given(rows), records, ORDER)
    assert len({figure.name for figure in figures}) == 2


# The trigger, the twin and the network without poison


def triggers(start: str = "", size: float = 1.0, **cell: Any) -> Iterator[Interpretation]:
    at = {"kind": "trigger_mass", "poison": "badnets"} | cell
    for place, name in enumerate(("saliency", "occlusion", "grad_cam", "lrp")):
        value = size * (8.0 if name != "grad_cam" else 0.5) + place
        yield reading(f"{name}.{start}stamped_hoped.ratio", value, **at)
    yield reading(f"trigger.{start}inserted.hoped_logit", 10 * size, **at)


def test_networks_stand_in_order_each_with_its_twin_and_the_clean_one_last(canvases: list[Canvas]) -> None:
    rows = [
        *triggers(size=1, defense="placebo"),
        *triggers(size=0.2, defense="cbd"),
        *triggers("biased_", size=2, defense="cbd"),
        *triggers("reference_", size=0.1, defense="cbd"),
        *triggers(size=1.5),
        *triggers("reference_", size=0.1),
    ]
    (figure,) = graphs_bars.reliance(given(rows), [], ORDER)
    left, right = shown(canvases[0])
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names == ["standard", "CBD", "its biased twin", "placebo", "trained without poison"]
    assert lengths(right) == [15, 2, 20, 10, 1]
    maps = (8.0, 0), (8.0, 3), (8.0, 1)  # saliency, LRP, occlusion; Grad-CAM sees the trigger least
    assert lengths(left) == [round(s * v + p, 6) for s in (1.5, 0.2, 2, 1, 0.1) for v, p in maps]
    assert "Not here" not in figure.caption and figure.section == "trigger_mass"


def test_what_was_not_read_is_said_and_without_maps_there_is_no_figure(canvases: list[Canvas]) -> None:
    (figure,) = graphs_bars.reliance(given(triggers()), [], ORDER)
    assert "no biased twin (f_B) was kept; no network without poison (R) was asked for" in figure.caption
    rows = [row for row in triggers() if row.metric != "ratio"]
    assert graphs_bars.reliance(given(rows), [], ORDER) == []


def test_the_style_part_is_drawn_beside_chance_and_another_label(canvases: list[Canvas]) -> None:
    def split(name: str, share: float, **cell: Any) -> Iterator[Interpretation]:
        for condition, value in (("do_style", share), ("chance", 0.8), ("other_label", 0.1)):
            yield reading(f"{name}.{condition}.style_share", value, kind="style_dependence", **cell)

    rows = [*split("head", 0.3), *split("head", 0.6, defense="cbd"), *split("defense", 0.7, defense="cbd")]
    (figure,) = graphs_bars.displacement(given(rows), [], ORDER)
    own, head = shown(canvases[0])
    assert lengths(own) == [1, 0.7] and lengths(head) == [1, 0.3, 1, 0.6]
    assert points(own) == [(0.1, 1.0)] and points(head) == [(0.1, 0.0), (0.1, 1.0)]
    assert [t.get_text() for t in own.get_yticklabels()] == ["standard", "CBD"]
    assert figure.section == "style_dependence"
    assert graphs_bars.displacement(given([rows[1], rows[2]]), [], ORDER) == []


# Classes


def shifts(fooled: Sequence[float], agreement: Sequence[float], **cell: Any) -> Interpreted:
    """Eight images, two of each class; where the attack turned an image its map is a success, else a failure."""
    turned = np.array(fooled) == 1
    values = {
        "prediction.attack.fooled": fooled,
        "lrp.success_true.spearman": np.where(turned, agreement, NAN),
        "lrp.failure.spearman": np.where(turned, NAN, agreement),
        "occlusion.success_pred.spearman": agreement,
    }
    return record("attribution_shift", values, {"labels": [0, 1, 2, 3, 0, 1, 2, 3]}, **cell)


def test_a_class_is_a_point_of_its_means_over_images_and_seeds(canvases: list[Canvas]) -> None:
    one = shifts([1, NAN, 0, NAN, 1, 1, 0, NAN], [0.2, NAN, 0.9, NAN, 0.4, 0.8, 0.7, NAN])
    other = shifts([1, 0, 0, 0, 0, 0, 0, 0], [0.2, 0.4, 0.9, 0, 0.4, 0.8, 0.7, 0], seed=1)
    (figure,) = graphs_classes.vulnerable(given([]), [one, other], ORDER)
    (axis,) = shown(canvases[0])
    assert np.allclose(points(axis), [(0.75, 0.7), (0.5, 0.3), (0.0, 0.2)])
    assert axis.get_title() == "LRP: ρ = 1.00" and "over the 3 classes" in figure.caption
    assert figure.section == "attribution_shift"


def test_classes_without_labels_or_fewer_than_three_are_not_drawn() -> None:
    one = shifts([1, 0, NAN, NAN] * 2, [0.5] * 8)
    assert graphs_classes.vulnerable(given([]), [one], ORDER) == []
    two = shifts([1, 0, 1, 0] * 2, [0.5] * 8)
    assert graphs_classes.vulnerable(given([]), [two], ORDER)
    two.__dict__["pictures"] = {}
    assert graphs_classes.vulnerable(given([]), [two], ORDER) == []


# Figures of one run


def test_a_violin_spans_its_numbers_and_marks_their_quartiles(canvases: list[Canvas]) -> None:
    states = {"success_true": [0.0, 0.1, 0.2, 0.6, 0.9], "noise_true": [0.5] * 4, "floor": [0.1, 0.3]}
    values = {f"lrp.{name}.spearman": [*numbers, NAN] for name, numbers in states.items()}
    one = record("attribution_shift", values, {})
    (figure,) = graphs_maps.noise_beside_attack(one, "attribution_shift")
    (axis,) = shown(canvases[0])
    (body,) = axis.collections  # the other two: all alike, too few
    ends = body.get_paths()[0].vertices[:, 0]
    assert ends.min() == pytest.approx(0.0) and ends.max() == pytest.approx(0.9)
    lines = [(line.get_color(), line.get_xdata().tolist()) for line in axis.lines]
    halves = [x for colour, x in lines if colour in COLOURS]
    middles = [x[0] for colour, x in lines if colour not in COLOURS]
    assert np.allclose(halves, [[0.1, 0.6], [0.5, 0.5], [0.15, 0.25]])
    assert np.allclose(middles, [0.2, 0.5, 0.2])
    heights = [line.get_ydata()[0] for line in axis.lines[::2]]
    assert heights == sorted(heights) and figure.name.startswith("shift-noise-low")


def test_bars_of_selectivity_are_the_counts_and_empty_ones_are_left_out(canvases: list[Canvas]) -> None:
    counts = [0, 3, 1, 0]
    one = record("components", {}, {"last_conv_selectivity": counts, "penultimate_selectivity": [0, 0, 0, 0]})
    (figure,) = graphs_maps.selectivity(one, "components")
    (axis,) = shown(canvases[0])
    assert [bar.get_height() for bar in axis.patches] == counts
    assert [bar.get_x() for bar in axis.patches] == [0, 0.25, 0.5, 0.75] and figure.section == "components"
    assert graphs_maps.selectivity(record("components", {}, {}), "components") == []


def test_alignment_says_the_rank_correlation_of_the_images(canvases: list[Canvas]) -> None:
    values = {
        "boundary.attacked.l2": [1.0, 2.0, 3.0, NAN],
        "boundary.linearised.l2": [1.0, 2.0, 3.0, 4.0],
        "gradient.clean.alpha": [3.0, 2.0, 1.0, 0.0],
    }
    graphs_maps.alignment(record("panel", values, {}), "panel")
    assert [axis.get_title() for axis in shown(canvases[0])] == ["ρ = 1.00 (n = 3)", "ρ = −1.00 (n = 3)"]


def test_ties_share_their_rank_and_a_constant_has_no_correlation() -> None:
    assert graphs_points.spearman([1, 2, 2, 4], [1, 3, 3, 9]) == pytest.approx(1.0)
    assert np.isnan(graphs_points.spearman([1, 1, 1], [1, 2, 3]))
    assert np.isnan(graphs_points.spearman([1, 2], [1, 2]))


# Robustness against interpretability


def gradients(count: int, **cell: Any) -> Iterator[Interpretation]:
    kind = "robust_interpretability"
    for turn, defense in enumerate(["standard", "cbd", "placebo", "trades"][:count]):
        at = {"defense": defense} | cell
        yield reading("boundary.attacked.l2", 0.2 + turn / 10, kind=kind, **at)
        yield reading("gradient.clean.alpha", 1.0 + turn, kind=kind, **at)
        yield reading("gradient.other_image.cosine", 0.5 - turn / 10, kind=kind, **at)
        if turn < 2:
            yield reading("gradient.clean.cosine", 0.1, kind=kind, **at)


def test_the_points_of_robustness_are_a_distance_and_a_reading_of_each_model(canvases: list[Canvas]) -> None:
    (figure,) = graphs_robust.robustness(given(gradients(4)), [], ORDER)
    first, second = shown(canvases[0])  # a cosine of two models is no scatter
    assert np.allclose(points(first), [(1 + turn, 0.2 + turn / 10) for turn in range(4)])
    assert np.allclose(points(second), [(0.5 - turn / 10, 0.2 + turn / 10) for turn in range(4)])
    assert first.get_title() == "ρ = 1.00" and second.get_title() == "ρ = −1.00"
    assert "over 4 models: alignment α 1.00, the same for another image −1.00." in figure.caption
    looks = {(line.get_color(), line.get_marker()) for line in first.lines if line.get_linestyle() == "None"}
    assert len(looks) == 4 and figure.section == "robust_interpretability"


def test_two_models_or_models_of_two_training_sets_are_no_scatter_of_robustness() -> None:
    assert graphs_robust.robustness(given(gradients(2)), [], ORDER) == []
    rows = [*gradients(2), *gradients(2, dataset="high")]
    assert graphs_robust.robustness(given(rows), [], ORDER) == []
    unmeasured = [row for row in gradients(4) if row.subject != "boundary"]
    assert graphs_robust.robustness(given(unmeasured), [], ORDER) == []
