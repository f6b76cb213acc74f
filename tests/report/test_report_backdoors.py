"""Many backdoors, the cross matrix and detectors in the report: numbers of a made-up crowd, known by their places."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layout import assert_nothing_overlaps, heads
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from pages import Page, cells, report_of, section, squeezed, table, tables_of, words_of
from pypdf import PdfReader
from synthetic_backdoors import (
    CONFIG,
    DEFENSES,
    DETECTORS,
    DOUBTED,
    MISSING,
    POISONS,
    accuracy,
    asr,
    crowd,
    der,
)
from synthetic_experiment import Experiment

from deconfound.report import heatmaps
from deconfound.report.backdoor import backdoor
from deconfound.report.build import build
from deconfound.report.inputs import Inputs, read
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, label

ORDER = Order(CONFIG)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return read(crowd(tmp_path_factory.mktemp("crowd")).arguments()["tables"], [])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Four poisons (the last failed the gate under one defense), three defenses."""
    return crowd(tmp_path_factory.mktemp("small"), poisons=4, defenses=3)


@pytest.fixture(scope="module")
def document(small: Experiment) -> dict[str, Any]:
    return report_of(small)


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    kept: list[Canvas] = []

    def save(canvas: Canvas, *, _save: Callable[..., Figure] = heatmaps.save, **words: str) -> Figure:
        canvas.draw_without_rendering()
        kept.append(canvas)
        return _save(canvas, **words)

    monkeypatch.setattr(heatmaps, "save", save)
    return kept


def numbers(canvas: Canvas) -> dict[tuple[str, str], str]:
    """What stands in the cells, by row and column."""
    axes = canvas.axes[0]
    columns = [text.get_text() for text in axes.get_xticklabels()]
    lines = heads(canvas)
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found[lines[int(y)], columns[int(x)]] = text.get_text()
    return found


def test_a_crowd_of_backdoors_is_drawn_as_three_tables_of_numbers(
    inputs: Inputs, canvases: list[Canvas]
) -> None:
    drawn = heatmaps.backdoor_maps(inputs, ORDER)
    assert [figure.name for figure in drawn] == [
        f"backdoor-scenes-cnn-{kind}" for kind in ("asr", "clean_accuracy", "der")
    ]
    success, clean, gain = map(numbers, canvases)
    assert heads(canvases[0]) == [label(name) for name in DEFENSES]
    assert heads(canvases[2]) == [label(name) for name in DEFENSES[1:]]  # a control gains nothing over itself
    for poison in POISONS:
        for defense in DEFENSES:
            at, mark = (label(defense), label(poison)), "†" * ((poison, defense) == DOUBTED)
            if (poison, defense) == MISSING:
                assert at not in success and at not in clean and at not in gain
                continue
            assert success[at] == f"{100 * asr(poison, defense):.0f}{mark}"
            assert clean[at] == f"{100 * accuracy(defense):.0f}{mark}"
            assert gain.get(at, "") == ("" if defense == "standard" else f"{100 * der(defense):.0f}{mark}")
    assert {at for at in clean if at[1] == "not poisoned"} == {(label(d), "not poisoned") for d in DEFENSES}
    assert "not poisoned" not in {at[1] for at in success}
    assert all(canvas.axes[0].collections[0].get_clim() == (0, 100) for canvas in canvases)
    assert all("empty" in figure.caption and "†" in figure.caption for figure in drawn)


def test_tables_of_colours_overlap_nowhere_and_are_the_same_each_time(
    inputs: Inputs, canvases: list[Canvas]
) -> None:
    first = [
        figure
        for draw in (heatmaps.backdoor_maps, heatmaps.cross_maps, heatmaps.detection_maps)
        for figure in draw(inputs, ORDER)
    ]
    assert len({figure.name for figure in first}) == len({figure.svg for figure in first}) == 8
    assert first[5:] == heatmaps.detection_maps(inputs, ORDER)
    for canvas in canvases:
        assert_nothing_overlaps(canvas)


def test_more_poisons_than_a_figure_holds_are_parted(canvases: list[Canvas]) -> None:
    values = {(f"defense_{d}", f"poison_{p:02d}"): (p / 40, "passed") for d in range(31) for p in range(40)}
    drawn = heatmaps.draw(heatmaps.ASR, ("d", "m"), values, Order({}))
    assert [figure.title.rpartition(" (")[2] for figure in drawn] == [f"part {n} of 6)" for n in range(1, 7)]
    shown = [at for canvas in canvases for at in numbers(canvas)]
    assert len(shown) == len(set(shown)) == 31 * 40
    for canvas in canvases:
        assert_nothing_overlaps(canvas)


def test_numbers_stand_out_from_their_cells(inputs: Inputs, canvases: list[Canvas]) -> None:
    """Contrast of WCAG 2, level AA: 4.5."""
    heatmaps.backdoor_maps(inputs, ORDER)
    luminance = heatmaps.relative_luminance
    assert (luminance((0, 0, 0)), luminance((1, 1, 1))) == (0, pytest.approx(1))
    for canvas in canvases:
        axes = canvas.axes[0]
        mesh: Any = axes.collections[0]
        assert axes.texts
        for text in axes.texts:
            x, y = text.get_position()
            cell = mesh.cmap(mesh.norm(mesh.get_array()[int(y), int(x)]))
            low, high = sorted((luminance(to_rgb(text.get_color())), luminance(cell)))
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_few_poisons_keep_a_chart_and_one_table(experiment: Experiment, assembled: dict[str, Any]) -> None:
    blocks = section(assembled, "backdoor")["blocks"]
    assert [block["kind"] for block in blocks] == ["table", "table", "table", "facts"]
    inputs = read(experiment.tables, [])
    assert heatmaps.crowds(inputs) == set() and heatmaps.backdoor_maps(inputs, ORDER) == []
    ids = [part["id"] for part in assembled["sections"]]
    assert "detection" not in ids and "cross" not in ids


def test_each_poison_has_its_numbers_behind_a_line(document: dict[str, Any]) -> None:
    blocks = section(document, "backdoor")["blocks"]
    folds = {block["text"]: block["blocks"] for block in blocks if block["kind"] == "fold"}
    names = ["not poisoned", *(label(name) for name in POISONS[:4])]
    assert list(folds) == [f"{name} · scenes · CNN: 3 defenses in numbers" for name in names]
    first = folds["BadNets · scenes · CNN: 3 defenses in numbers"]
    assert [b["caption"].rpartition(": ")[2].split(" ")[0] for b in first if b["kind"] == "table"] == [
        *("rates", "paired", "mean")
    ]
    found = {(row, column): cell for row, column, cell in cells(first[0])}
    gains = {at[1]: cell["text"] for at, cell in found.items() if at[0].startswith("CBD CNN")}
    assert (gains["DER"], gains["RIR"], gains["worst class's drop"]) == ("52.0", "51.0", "12.0")
    assert found["CBD CNN · BadNets", "DER"]["note"] == "50.0 to 54.0"
    assert {
        cell["text"] for at, cell in found.items() if at[0].startswith("standard") and at[1] in gains
    } >= {"–"}
    doubted = folds["SIG · scenes · CNN: 3 defenses in numbers"][0]
    marked = {(row.split(" ·")[0], column) for row, column, cell in cells(doubted) if cell.get("mark") == "†"}
    assert {column for _, column in marked} >= {"attack success rate", "DER", "RIR"}
    assert {row for row, _ in marked} == {"CBD shuffled CNN"}


def test_what_an_experiment_remarks_on_a_poison_stands_in_the_section(small: Experiment) -> None:
    first = next(row["poison"] for row in small.rows["summary"] if row["metric"] == "asr")
    remarks = {first: {"kind": "x", "remark": "Too faint at this size."}, "absent": {"remark": "Not here."}}
    order = Order({"poisons": remarks})
    (found,) = backdoor(read(small.arguments()["tables"], []), [], order)
    items = [item for block in found["blocks"] if block["kind"] == "facts" for item in block["items"]]
    assert [item["values"] for item in items if item["name"] == label(first)] == [["Too faint at this size."]]
    assert "Not here." not in str(found)


def test_a_defense_is_summed_up_over_all_poisons(document: dict[str, Any]) -> None:
    found = table(document, "backdoor", "scenes · CNN: each defense over all poisons")
    line = {column: cell for row, column, cell in cells(found) if row == "CBD 4 poisons"}
    assert [line[name]["text"] for name in ("highest attack success rate", "attack success rate", "DER")] == [
        *("95.0", "93.5", "52.0")  # 0.95 - 0.01 j over j = 0 to 3
    ]
    assert (line["highest attack success rate"]["note"], line["attack success rate"]["note"]) == (
        *("BadNets", "92.0 to 95.0"),
    )
    assert line["training cost"]["text"] == "1.1"
    control = {column: cell["text"] for row, column, cell in cells(found) if row == "standard 4 poisons"}
    assert (control["DER"], control["lowest DER"], control["training cost"]) == ("–", "–", "1")


def test_the_cross_matrix_sets_evasion_beside_each_poison(document: dict[str, Any]) -> None:
    blocks = [b for b in section(document, "cross")["blocks"] if b["kind"] == "table"]
    assert [len(block["columns"]) for block in blocks] == [1 + 2 + 2 * 2, 1 + 2 + 2 * 2, 1 + 4]
    assert "BadNets and Trojan" in blocks[0]["caption"] and "Blend and SIG" in blocks[1]["caption"]
    heads_ = [(head["text"], head["note"]) for head in blocks[0]["columns"][1:]]
    assert heads_ == [
        *(("clean accuracy", "not poisoned"), ("robust accuracy", "not poisoned")),
        *(("robust accuracy", "BadNets"), ("attack success rate", "BadNets")),
        *(("robust accuracy", "Trojan"), ("attack success rate", "Trojan")),
    ]
    lines = {row[0]["text"]: [cell["text"] for cell in row[1:]] for row in blocks[0]["rows"]}
    assert lines["standard"] == ["95.0", "5.0", "5.0", "100.0", "5.0", "99.0"]
    assert lines["CBD"] == ["94.0", "9.0", "9.0", "95.0", "9.0", "94.0"]
    assert len(blocks[2]["rows"]) == 3 * 5 and all("run" in row[0] for row in blocks[2]["rows"])
    assert all(block["folded"] for block in blocks)


def test_two_poisons_make_one_matrix_in_sight(tmp_path: Path) -> None:
    made = report_of(crowd(tmp_path, poisons=2, defenses=2))
    blocks = [b for b in section(made, "cross")["blocks"] if b["kind"] == "table"]
    assert [bool(block["folded"]) for block in blocks] == [False, True]
    assert blocks[0]["caption"].endswith("evasion and backdoors, in per cent")


def test_detectors_are_tabulated_by_what_they_look_at(document: dict[str, Any]) -> None:
    blocks = section(document, "detection")["blocks"]
    found = {b["caption"].rpartition(": ")[2].split(",")[0]: b for b in blocks if b["kind"] == "table"}
    assert list(found) == ["triggered inputs", "poisoned training examples", "backdoored models"]
    seen = {(row[0]["note"], row[1]["text"]): row for row in found["triggered inputs"]["rows"]}
    names = [head["text"] for head in found["triggered inputs"]["columns"][2:]]
    assert names == ["AUROC", "detection rate", "false alarm rate", "detected at 1 %", "detected at 10 %"]
    line = seen["CNN · Trojan", "STRIP"]
    assert [cell["text"] for cell in line[2:]] == ["88.0", "80.0", "5.0", "50.0", "90.0"]
    assert [cell["note"] for cell in line[2:]] == [
        *("86.0 to 90.0", "78.0 to 82.0", "3.0 to 7.0", "false alarms 1.0", "false alarms 12.0")
    ]
    clean = seen["CNN · not poisoned", "STRIP"]
    assert [cell["text"] for cell in clean[2:]] == ["–", "–", "6.0", "–", "–"]
    assert clean[5]["note"] == "false alarms 1.0"
    models = {
        row[0]["note"]: [cell["text"] for cell in row[2:]] for row in found["backdoored models"]["rows"]
    }
    assert models["CNN · Trojan"] == ["2.5", "33.3", "3.5", "100.0", "1.5"]
    assert models["CNN · not poisoned"] == ["–", "–", "1.7", "0.0", "0"]
    meant = [name["name"] for block in blocks if block["kind"] == "facts" for name in block["items"]]
    assert {"AUROC", "precision", "anomaly of the target", "detection rate"} <= set(meant)


def test_detectors_have_a_map_for_each_way_of_looking(inputs: Inputs, canvases: list[Canvas]) -> None:
    drawn = heatmaps.detection_maps(inputs, ORDER)
    assert [figure.name.split("-", 3)[3] for figure in drawn] == [
        *("auroc-triggered_inputs", "auroc-training_examples", "accused-models")
    ]
    assert [heads(canvas) for canvas in canvases] == [
        *(["SCALE-UP", "STRIP"], ["spectral signatures"], ["Neural Cleanse"])
    ]
    assert (
        numbers(canvases[0])["STRIP", "TaCT"] == "68"
        and numbers(canvases[2])["Neural Cleanse", "TaCT"] == "33"
    )
    assert len(DETECTORS) == 4


def test_rates_of_detectors_stand_in_no_other_section(tmp_path: Path) -> None:
    made = crowd(tmp_path, poisons=1, defenses=1)
    place = {"dataset": "scenes", "poison": "badnets", "model": "cnn", "defense": "standard"}
    for name in ("detection_rate", "false_alarm_rate"):
        made.rate(place, 0.5, name, attack="strip")
        made.rate({**place, "dataset": "digits", "poison": "clean"}, 0.5, name, attack="strip")
    made.rows["measures"].append({**place, "seed": 0, "measure": "strip_auroc", "value": 0.9})
    document = report_of(made)
    for part in document["sections"]:
        if part["id"] in ("backdoor", "other", "evasion"):
            heads_ = {head["text"] for found in tables_of(part) for head in found["columns"]}
            assert not {head for head in heads_ if "detection" in head or "alarm" in head or "STRIP" in head}
    assert "other" not in [part["id"] for part in document["sections"]]


def test_evasion_of_poisoned_training_sets_is_folded_in_a_crowd(document: dict[str, Any]) -> None:
    blocks = section(document, "evasion")["blocks"]
    assert [block["text"] for block in blocks if block["kind"] == "fold"] == [
        f"scenes, {label(name)}: accuracy under attack" for name in POISONS[:4]
    ]
    assert blocks[0]["caption"].startswith("scenes, not poisoned")


def test_folded_parts_are_drawn_on_the_page_and_on_paper(small: Experiment, tmp_path: Path) -> None:
    build(**small.arguments(tmp_path))
    page = Page((tmp_path / "robustness.html").read_text())
    drawn = {tuple(squeezed(cell) for cell in row) for row in page.rows}
    paper = squeezed("".join(sheet.extract_text() for sheet in PdfReader(tmp_path / "robustness.pdf").pages))
    found = [row for found in tables_of(report_of(small)) for row in found["rows"]]
    assert len(found) > 100
    for row in found:
        words = tuple(map(words_of, row))
        assert words in drawn and "".join(words) in paper
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
