"""Figures of more defenses than a legend can hold: rows with names, parts of a readable size, nothing that overlaps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layout import assert_nothing_overlaps, heads
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from synthetic_crowd import DIGITS, NAMES, ORDER, SETTING, SIGNS, accuracies, per_class, run, summary

from deconfound.report import classmap, dotplot, training_curves
from deconfound.report.details import checkpoints
from deconfound.report.figures import curves, draw
from deconfound.report.inputs import Inputs, Run
from deconfound.report.plotting import COLOURS, FEW, ROWS, Figure, Palette, parts
from deconfound.report.words import label


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The drawings behind the figures that a test makes, in their order."""
    kept: list[Canvas] = []
    for module in (dotplot, classmap, training_curves):

        def save(canvas: Canvas, *, _save: Callable[..., Figure] = module.save, **words: str) -> Figure:
            canvas.draw_without_rendering()
            kept.append(canvas)
            return _save(canvas, **words)

        monkeypatch.setattr(module, "save", save)
    return kept


@pytest.mark.parametrize(
    ("number", "endings", "kinds", "histories"),
    [
        (8, [""], ("Bars", "Accuracy"), [""]),
        (9, [""], ("Points", "Rates"), ["-1", "-2"]),
        (30, [""], ("Points", "Rates"), ["-1", "-2", "-3", "-4"]),
        (31, ["-1", "-2"], ("Points", "Rates"), ["-1", "-2", "-3", "-4"]),
    ],
)
def test_from_the_ninth_defense_on_figures_have_rows_and_from_the_thirty_first_parts(
    number: int, endings: list[str], kinds: tuple[str, str], histories: list[str]
) -> None:
    names = NAMES[:number]
    tables: dict[str, Any] = {name: [] for name in Inputs.__dataclass_fields__ if name != "calibrated"}
    tables |= {"summary": accuracies(names), "per_class": per_class(names, DIGITS)}
    drawn = draw(Inputs(**tables | {"runs": [run(name) for name in names]}), ORDER)
    assert [figure.name for figure in drawn] == [
        *(f"evasion-digits-clean-cnn{ending}" for ending in endings),
        *(f"classes-digits-clean-cnn{ending}" for ending in endings),
        *(f"history-digits-clean-cnn{ending}" for ending in histories),
    ]
    first = {figure.section: figure.alt.split()[0] for figure in drawn}
    assert (first["evasion"], first["classes"]) == kinds


def test_parts_are_few_even_and_in_order() -> None:
    for number in range(100):
        found = parts(range(number), 8)
        assert [item for part in found for item in part] == list(range(number))
        assert len(found) == (number + 7) // 8
        sizes = {len(part) for part in found}
        assert not found or (max(sizes) <= 8 and max(sizes) - min(sizes) <= 1)


def test_a_dot_plot_has_a_row_per_defense_in_the_configured_order(canvases: list[Canvas]) -> None:
    drawn = dotplot.dots(SETTING, accuracies(NAMES), Palette.of(NAMES, ORDER), ORDER)
    assert [figure.title for figure in drawn] == [
        f"digits · CNN · L∞\N{NO-BREAK SPACE}0.2 (part {number} of 3)" for number in (1, 2, 3)
    ]
    assert [len(heads(canvas)) for canvas in canvases] == [21, 21, 20]
    assert max(map(len, map(heads, canvases))) <= ROWS
    assert [head for canvas in canvases for head in heads(canvas)] == [label(name) for name in NAMES]
    tall, short = canvases[0].get_figheight(), canvases[2].get_figheight()
    assert tall - short == pytest.approx(dotplot.HEIGHT)


def test_every_accuracy_has_a_mark_of_its_attack_and_only_the_worst_case_an_interval(
    canvases: list[Canvas],
) -> None:
    rows = accuracies(NAMES[:9])
    dotplot.dots(SETTING, rows, Palette.of(NAMES[:9], ORDER), ORDER)
    axes, legend = canvases[0].axes[0], canvases[0].legends[0]
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["clean", "PGD", "PGD on the margin", "worst case"]
    shapes = {word: line.get_marker() for word, line in zip(words, legend.get_lines(), strict=True)}
    assert len(set(shapes.values())) == 4
    marks, intervals = set(), set()
    for line in axes.lines:
        x, y = (np.asarray(data, dtype=float).tolist() for data in line.get_data())
        if line.get_marker() == "None":
            intervals.add((y[0], *x))
        else:
            marks.add((line.get_marker(), x[0], y[0]))
    place = {name: float(at) for at, name in enumerate(NAMES)}
    assert marks == {(shapes[dotplot.entry(r.attack)], r.value, place[r.defense]) for r in rows}
    assert intervals == {(place[r.defense], r.low, r.high) for r in rows if r.attack == "worst_case"}
    assert axes.yaxis_inverted() and len(axes.lines) == 5 * 9


def test_a_dagger_follows_the_names_of_those_that_did_not_pass(canvases: list[Canvas]) -> None:
    rows = accuracies(NAMES)
    failed = summary(NAMES[3], 0.2, "pgd", "linf", 0.2, gate="failed: noise")
    drawn = dotplot.dots(SETTING, [*rows, failed], Palette.of(NAMES, ORDER), ORDER)
    marked = [head for canvas in canvases for head in heads(canvas) if "†" in head]
    assert marked == [f"{label(NAMES[3])} †"]
    assert ["†" in figure.caption for figure in drawn] == [True, False, False]


def test_each_budget_has_a_dot_plot_of_its_own_with_the_clean_accuracy(canvases: list[Canvas]) -> None:
    names = NAMES[:9]
    rows = accuracies(names) + [summary(name, 0.3, "worst_case", "l2", 1.5) for name in names[:2]]
    drawn = dotplot.dots(SETTING, rows, Palette.of(names, ORDER), ORDER)
    assert [figure.name for figure in drawn] == [
        f"evasion-digits-clean-cnn-{at}" for at in ("linf_0_2", "l2_1_5")
    ]
    legends = [[text.get_text() for text in canvas.legends[0].get_texts()] for canvas in canvases]
    assert legends == [["clean", "PGD", "PGD on the margin", "worst case"], ["clean", "worst case"]]
    assert len(canvases[1].axes[0].lines) == 9 + 2 * 2
    assert "L2\N{NO-BREAK SPACE}1.5" in drawn[1].caption and "L2" not in drawn[0].caption


@pytest.mark.parametrize("attacks", [0, 6])
def test_a_dot_plot_overlaps_nowhere(canvases: list[Canvas], attacks: int) -> None:
    more = [summary(NAMES[0], 0.5, f"pgd_of_many_words_{n}", "linf", 0.2) for n in range(attacks)]
    dotplot.dots(SETTING, accuracies(NAMES) + more, Palette.of(NAMES, ORDER), ORDER)
    for canvas in canvases:
        assert_nothing_overlaps(canvas)


def test_rows_keep_their_height_whatever_the_legend_takes(canvases: list[Canvas]) -> None:
    names = NAMES[:9]
    for attacks in (0, 7):
        more = [summary(names[0], 0.5, f"pgd_of_many_words_{n}", "linf", 0.2) for n in range(attacks)]
        dotplot.dots(SETTING, accuracies(names) + more, Palette.of(names, ORDER), ORDER)
    few, many = (canvas.axes[0].get_window_extent().height / canvas.dpi for canvas in canvases)
    assert few == pytest.approx(many, rel=0.05)
    assert many / len(names) > 0.85 * dotplot.HEIGHT


def test_a_class_map_has_a_row_per_defense_and_a_column_per_class(canvases: list[Canvas]) -> None:
    names = ["standard", *(f"trades_{n}" for n in range(9))]
    rows = per_class(names, DIGITS)
    gone = rows.pop()
    classmap.class_maps(SETTING, rows, Palette.of(names, ORDER), ORDER)
    (canvas,) = canvases
    assert heads(canvas) == [label(name) for name in names]
    clean, worst = canvas.axes[:2]
    titles = [" ".join(axes.get_title().split()) for axes in (clean, worst)]
    assert titles == ["clean accuracy", "worst case L∞ 0.2"]
    for axes, attack in ((clean, "none"), (worst, "worst_case")):
        assert [text.get_text() for text in axes.get_xticklabels()] == DIGITS
        assert not axes.texts
        cells: Any = np.ma.filled(np.ma.asarray(axes.collections[0].get_array()), np.nan).reshape(10, 10)
        wanted = np.full((10, 10), np.nan)
        for row in rows:
            if row.attack == attack:
                wanted[names.index(row.defense), DIGITS.index(row.label)] = row.value * 100
        assert np.array_equal(cells, wanted, equal_nan=True)
        assert np.isnan(wanted).sum() == (attack == gone.attack)
        assert axes.collections[0].get_clim() == (0, 100)


def test_many_classes_are_split_and_leave_the_clean_accuracy_to_the_table(canvases: list[Canvas]) -> None:
    names = NAMES[:31]
    drawn = classmap.class_maps(SETTING, per_class(names, SIGNS), Palette.of(names, ORDER), ORDER)
    assert all("clean" not in axes.get_title() for canvas in canvases for axes in canvas.axes)
    for group in parts(names, ROWS):
        mine = [canvas for canvas in canvases if heads(canvas) == [label(name) for name in group]]
        columns = [text.get_text() for canvas in mine for text in canvas.axes[0].get_xticklabels()]
        assert [text[:7] for text in columns] == [sign[:7] for sign in SIGNS]
    assert len(canvases) == len({figure.name for figure in drawn}) == 2 * len(mine) > 2


@pytest.mark.parametrize("labels", [DIGITS, SIGNS, ["airplane", "automobile", *DIGITS[2:]]])
@pytest.mark.parametrize("names", [NAMES[:31], ["standard", "awp", *(f"adml_{n}" for n in range(7))]])
def test_a_class_map_overlaps_nowhere(canvases: list[Canvas], names: list[str], labels: list[str]) -> None:
    classmap.class_maps(SETTING, per_class(names, labels), Palette.of(names, ORDER), ORDER)
    for canvas in canvases:
        assert_nothing_overlaps(canvas)


def test_every_defense_trains_in_one_figure_of_distinct_colours_below_the_legend(
    canvases: list[Canvas],
) -> None:
    runs = [run(name, second=name == NAMES[-1]) for name in NAMES]
    training_curves.histories(SETTING, runs, Palette.of(NAMES, ORDER))
    shown = []
    for canvas in canvases:
        (legend,) = canvas.legends
        words = [text.get_text() for text in legend.get_texts()]
        names = [word for word in words if not word.startswith("second network")]
        assert len(names) <= FEW
        assert len({to_hex(line.get_color()) for line in canvas.axes[1].lines}) == len(names)
        assert all(axes.get_legend() is None for axes in canvas.axes)
        assert all(axes.get_window_extent().height > 90 for axes in canvas.axes)
        assert_nothing_overlaps(canvas)
        shown += names
    assert [name[:39] for name in shown] == [label(name)[:39] for name in NAMES]
    assert words[-1] == "second network: standard"
    assert len({canvas.axes[1].get_ylim() for canvas in canvases}) == 1
    low, high = canvases[0].axes[1].get_ylim()
    assert low < 0.01 and high > 0.64


def test_a_palette_among_some_defenses_repeats_no_colour() -> None:
    palette = Palette.of(NAMES, ORDER)
    assert palette.among(NAMES[:9]) is palette
    clash = [NAMES[1], NAMES[9], NAMES[17]]
    assert len({palette.colour(name) for name in clash}) == 1
    assert len({palette.among(clash).colour(name) for name in clash}) == 3


def test_security_curves_are_drawn_for_eight_defenses_at_a_time() -> None:
    names, palette = NAMES[:9], Palette.of(NAMES, ORDER)
    rows = [summary(n, 0.5, "pgd", "linf", eps, curve="eps") for n in names for eps in (0.1, 0.2)]
    at = ("pgd", "linf", "eps")
    drawn = curves(SETTING, at, rows, palette)
    assert [figure.name for figure in drawn] == [f"curve-digits-clean-cnn-pgd-linf-{n}" for n in (1, 2)]
    assert [figure.title for figure in drawn] == [f"digits · CNN (part {n} of 2)" for n in (1, 2)]
    alike = [NAMES[0], *NAMES[1::8]]
    lines = [summary(name, 0.5, "pgd", "linf", eps, curve="eps") for name in alike for eps in (0.1, 0.2)]
    told = [{colour for colour in COLOURS if colour in f.svg} for f in curves(SETTING, at, lines, palette)]
    assert [len(colours) for colours in told] == [4, 4]  # standard is grey
    (whole,) = curves(SETTING, at, [row for row in rows if row.defense != names[0]], palette)
    assert (whole.name, whole.title) == ("curve-digits-clean-cnn-pgd-linf", "digits · CNN")


def test_the_same_rows_give_the_same_bytes() -> None:
    palette = Palette.of(NAMES, ORDER)

    def made() -> list[Figure]:
        return [
            *dotplot.dots(SETTING, accuracies(NAMES), palette, ORDER),
            *classmap.class_maps(SETTING, per_class(NAMES[:9], DIGITS), palette, ORDER),
            *training_curves.histories(SETTING, [run(name) for name in NAMES[:9]], palette),
        ]

    first = made()
    assert first == made()
    assert len({figure.svg for figure in first}) == len(first) == 6


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([run("standard")], "The checkpoint of the last epoch counts."),
        ([run("standard", validation="best")], "The checkpoint of the last epoch counts."),
        ([run("standard", validation="track", robust=True)], "The checkpoint of the last epoch counts."),
        (
            [run("standard", validation="best", robust=True)],
            "The checkpoint of the epoch with the highest accuracy on this split under attack counts, the first of "
            "equals.",
        ),
        (
            [run("standard"), run(NAMES[2], validation="best", robust=True)],
            f"The checkpoint of the last epoch counts; of runs with validation: best ({label(NAMES[2])}) that of the "
            "epoch with the highest accuracy on this split under attack, the first of equals.",
        ),
    ],
)
def test_the_report_says_which_epoch_counts(runs: list[Run], words: str) -> None:
    assert checkpoints(runs, ORDER) == words
