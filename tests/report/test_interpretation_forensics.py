"""Figures and tables of what looks for the poison: lists of training images, and reversed triggers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pages import tables_of
from synthetic_experiment import Experiment
from synthetic_interpretations import reading, row

from deconfound.report.inputs import Inputs, read
from deconfound.report.interpretation import page
from deconfound.report.interpretation.drawings import draw
from deconfound.report.interpretation.files import Interpreted, read_all
from deconfound.report.interpretation.galleries_forensics import chosen, heads, reversed_triggers
from deconfound.report.interpretation.graphs_forensics import BINS, binned, features, scores
from deconfound.report.interpretation.strips import drawn
from deconfound.report.pictures import COLUMNS, WRONG, mosaic
from deconfound.report.plotting import INK, Figure
from deconfound.report.words import Order
from deconfound.storage import write_json, write_npz

CLASSES, SIDE, COUNT, TARGET = ("circle", "cross", "star"), 8, 40, 1
CELLS = (("badnets", "standard"), ("badnets", "cbd"), ("clean", "standard"))
DETECTORS = ("lowest_loss", "spectral")
LISTS = ("auroc", "precision_at_n", "recall_at_1_5n", "precision_from_below", "upper_half", "class_named")
PATCHES = ("norm", "ratio", "index", "success", "accused", "convincing")


def pictures(poisoned: bool) -> dict[str, NDArray[Any]]:
    """Arrays as the two kinds document them; every fifth image is poisoned, and bears label 1."""
    rng = np.random.default_rng(0)
    bad = (np.arange(COUNT) % 5 == 0) & poisoned
    found: dict[str, NDArray[Any]] = {"poison_forensics.poisoned": bad}
    for place, name in enumerate(DETECTORS):
        top = np.arange(20) + place
        found |= {
            f"poison_forensics.scores.{name}": rng.random(COUNT).astype(np.float32) + bad,
            f"poison_forensics.top.{name}.images": rng.integers(0, 255, (20, 3, SIDE, SIDE), np.uint8),
            f"poison_forensics.top.{name}.places": top,
            f"poison_forensics.top.{name}.labels": np.where(bad[top], TARGET, top % 3),
            f"poison_forensics.top.{name}.poisoned": bad[top],
        }
    found |= {
        "poison_forensics.components": rng.standard_normal((COUNT, 2)).astype(np.float32),
        "poison_forensics.components_poisoned": bad,
        "poison_forensics.components_label": np.array([TARGET]),
        "poison_forensics.components_share": np.array([0.5, 0.25], np.float32),
        "trigger_inversion.masks": rng.random((3, SIDE, SIDE)).astype(np.float32),
        "trigger_inversion.patterns": rng.integers(0, 255, (3, 3, SIDE, SIDE), np.uint8),
        "trigger_inversion.norms": np.array([9.0, 2.5, 7.0], np.float32),
        "trigger_inversion.accused": np.array([False, poisoned, False]),
    }
    if poisoned:
        changed = np.zeros((SIDE, SIDE), bool)
        changed[5:7, 5:7] = True
        found |= {
            "trigger_inversion.trigger.images": rng.integers(0, 255, (2, 3, SIDE, SIDE), np.uint8),
            "trigger_inversion.trigger.changed": changed,
            "trigger_inversion.trigger.target": np.array([TARGET]),
        }
    return found


def numbers(poisoned: bool) -> list[tuple[str, tuple[str, str, str], NDArray[Any]]]:
    """Readings by kind and place: one number, or one per test image."""
    rng, found = np.random.default_rng(1), []
    for name in DETECTORS:
        for metric in (*LISTS[: len(LISTS) if poisoned else 0], "flagged"):
            found.append(("poison_forensics", (name, "train", metric), rng.random(1)))
    for subject in (*(["target"] if poisoned else []), "class_0", "class_1", "class_2"):
        for metric in PATCHES:
            found.append(("trigger_inversion", (subject, "inverted", metric), rng.random(1)))
        if poisoned:
            found.append(("trigger_inversion", (subject, "inverted", "iou"), rng.random(6)))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, list[Interpreted], Inputs]:
    experiment = Experiment(tmp_path_factory.mktemp("forensics"))
    paths: list[Path] = []
    for poison, defense in CELLS:
        cell = {"dataset": "scenes", "poison": poison, "model": "cnn", "defense": defense}
        found = numbers(poison != "clean")
        experiment.rows["interpretation"] += [row(cell, kind, at, [values]) for kind, at, values in found]
        folder = experiment.root.joinpath("results", *cell.values(), "seed0")
        kinds = ("poison_forensics", "trigger_inversion")
        said: dict[str, Any] = {
            "run": {**cell, "seed": 0},
            "classes": list(CLASSES),
            "readings": [
                reading(kind, at) | {"number": 0.5} for kind, at, values in found if len(values) == 1
            ],
            "notes": {kind: [] for kind in kinds},
            "spec": {kind: {"kind": kind} for kind in kinds},
            "provenance": {"commit": "abc", "inputs": {}},
        }
        write_json(folder / "interpretation.json", said)
        write_npz(folder / "pictures.npz", pictures(poison != "clean"))
        paths.append(folder / "interpretation.json")
    return experiment, read_all(paths), read(experiment.arguments()["tables"], [])


@pytest.fixture(scope="module")
def runs(made: tuple[Experiment, list[Interpreted], Inputs]) -> dict[tuple[str, str], Interpreted]:
    return {(one.poison, one.defense): one for one in made[1]}


def test_groups_are_shares_of_themselves_in_the_same_bins() -> None:
    values = np.concatenate([np.zeros(90), np.full(10, 1.0), [np.float64(1e9)]])
    poisoned = np.arange(101) >= 90
    edges, clean, bad = binned(values, poisoned)
    assert len(edges) == BINS + 1 and clean.sum() == bad.sum() == 1
    assert clean[0] == 1 and bad[-1] == 1  # what lies beyond the axis is in its last bin
    edges, clean, bad = binned(np.zeros(4), np.zeros(4, bool))
    assert clean.sum() == 1 and not bad.any() and (np.diff(edges) > 0).all()


def test_the_histograms_have_a_panel_per_detector_and_a_legend_of_what_is_there(
    runs: dict[tuple[str, str], Interpreted], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconfound.report.interpretation import graphs_forensics

    seen: list[tuple[list[str], list[str]]] = []

    def save(figure: Any, **words: str) -> Figure:
        titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
        seen.append((titles, [text.get_text() for text in figure.legends[0].get_texts()]))
        return Figure(svg="", **words)

    monkeypatch.setattr(graphs_forensics, "save", save)
    bad, clean = (scores(runs[poison, "standard"], "poison_forensics")[0] for poison in ("badnets", "clean"))
    assert seen[0] == (["lowest loss", "spectral"], ["clean", "poisoned"])
    assert seen[1] == (["lowest loss", "spectral"], ["clean"])
    assert "8 of 40 training images are poisoned" in bad.alt and "0 of 40" in clean.alt
    assert "Nothing is poisoned here" in clean.caption and "Nothing" not in bad.caption


def test_the_scatter_has_a_panel_per_run_and_says_how_many_points_are_poison(
    runs: dict[tuple[str, str], Interpreted],
) -> None:
    (figure,) = features(list(runs.values()), "poison_forensics")
    assert "standard, BadNets: 8 of 40 poisoned" in figure.alt and "CBD, BadNets: 8 of 40" in figure.alt
    assert "standard, not poisoned: 0 of 40 poisoned" in figure.alt and figure.section == "poison_forensics"
    (alone,) = features([runs["badnets", "cbd"]], "poison_forensics")
    assert "BadNets" in alone.title and "CBD: 8 of 40" in alone.alt
    assert features([], "poison_forensics") == []
    other = replace(runs["badnets", "cbd"], dataset="digits")
    assert len(features([*runs.values(), other], "poison_forensics")) == 2


def test_poisoned_images_at_the_head_of_a_list_have_red_labels(
    runs: dict[tuple[str, str], Interpreted],
) -> None:
    one = runs["badnets", "standard"]
    arrays = one.drawn("poison_forensics")
    (sheet,) = heads(one, "poison_forensics", arrays, {})
    assert [strip.title for strip in sheet.strips] == [
        *("lowest loss: 4 of 20 poisoned", "", "spectral: 4 of 20 poisoned", "")
    ]
    assert [len(strip.images) for strip in sheet.strips] == [10] * 4
    assert drawn(sheet).svg.count("<image") == 40
    words = [word for strip in sheet.strips[:2] for word in strip.words]
    bad, labels = arrays["top.lowest_loss.poisoned"], arrays["top.lowest_loss.labels"]
    assert [colour for _, colour in words] == [WRONG if poisoned else INK for poisoned in bad]
    assert [text for text, _ in words] == [CLASSES[label] for label in labels]
    shown = np.concatenate([strip.images for strip in sheet.strips[2:]])
    assert np.array_equal(shown, arrays["top.spectral.images"])
    clean = runs["clean", "standard"]
    (sheet,) = heads(clean, "poison_forensics", clean.drawn("poison_forensics"), {})
    assert sheet.strips[0].title == "lowest loss: no poison in this run"


def test_many_lists_are_parted_into_sheets(runs: dict[tuple[str, str], Interpreted]) -> None:
    one = runs["badnets", "standard"]
    arrays = one.drawn("poison_forensics")
    for number in range(4):
        for part in ("images", "labels", "poisoned"):
            arrays[f"top.more{number}.{part}"] = arrays[f"top.spectral.{part}"]
    made = heads(one, "poison_forensics", arrays, {})
    assert [len(sheet.strips) for sheet in made] == [6, 6] and len({sheet.name for sheet in made}) == 2
    assert made[1].title.endswith("(part 2 of 2)")


def test_the_true_trigger_stands_above_the_masks_and_its_outline_on_its_class_alone(
    runs: dict[tuple[str, str], Interpreted],
) -> None:
    one = runs["badnets", "standard"]
    arrays = one.drawn("trigger_inversion")
    (sheet,) = reversed_triggers(one, "trigger_inversion", arrays, {})
    trigger, masks, patches = sheet.strips
    assert trigger.title == "the true trigger, which asks for cross" and len(trigger.images) == 3
    assert np.array_equal(trigger.images[2, 0] > 0, arrays["trigger.changed"])
    assert list(masks.words) == [("cross", WRONG), ("circle", INK), ("star", INK)]
    assert np.array_equal(masks.images[:, 0], arrays["masks"][[1, 0, 2]])
    assert masks.masks is not None and not masks.masks[1:].any()
    assert np.array_equal(masks.masks[0], arrays["trigger.changed"])
    assert [text for text, _ in patches.words] == ["2.5", "9", "7"]
    mask, pattern = arrays["masks"][1], arrays["patterns"][1] / 255
    assert np.allclose(patches.images[0], mask * pattern + (1 - mask) * 0.5)
    assert sheet.strips[0].title in drawn(sheet).alt


def test_a_clean_network_has_masks_without_a_trigger(runs: dict[tuple[str, str], Interpreted]) -> None:
    one = runs["clean", "standard"]
    (sheet,) = reversed_triggers(one, "trigger_inversion", one.drawn("trigger_inversion"), {})
    assert [word for word, _ in sheet.strips[0].words] == list(CLASSES) and sheet.strips[0].masks is None
    assert len(sheet.strips) == 2 and "an accusation is a false one" in sheet.caption
    assert reversed_triggers(one, "trigger_inversion", {}, {}) == []


def test_of_many_classes_the_target_and_the_smallest_masks_are_shown() -> None:
    assert chosen(np.array([3.0, 1, 2]), None) == [0, 1, 2]
    assert chosen(np.array([3.0, 1, 2]), 2) == [2, 0, 1]
    norms = np.arange(20.0)[::-1]
    assert chosen(norms, None) == list(range(19, 9, -1))
    assert chosen(norms, 0) == [0, *range(19, 10, -1)]


def test_words_keep_their_size_when_images_are_small_and_rows_without_a_title_take_no_room() -> None:
    image = np.zeros((4, 4, 3))
    titled = mosaic([("one", [image], [("word", INK)])] * 2)
    assert COLUMNS == 6
    bare = mosaic([("one", [image], [("word", INK)]), ("", [image], [("word", INK)])])
    assert bare.get_figheight() < titled.get_figheight()
    wide, small = (mosaic([("title", [image], [])], columns=columns) for columns in (6, 12))
    inch = wide.get_figwidth() / 6 / 1.06
    assert wide.get_figheight() == pytest.approx(1.34 * inch)
    assert small.get_figheight() == pytest.approx((0.3 + 1.04 / 2) * inch)


def test_both_sections_have_their_figures_and_a_row_per_detector_and_network(
    made: tuple[Experiment, list[Interpreted], Inputs],
) -> None:
    experiment, records, inputs = made
    drawings = draw(inputs, records, Order(experiment.config))
    names = [re.split("-scenes", figure.name)[0] for figure in drawings]
    assert {name: names.count(name) for name in set(names)} == {
        "scores": 3,
        "features": 1,
        "poison_forensics": 2,
        "trigger_inversion": 3,
    }
    assert all(figure.caption and figure.alt for figure in drawings)
    document = page.assemble(inputs, records, experiment.config, figures=drawings)
    parts = {part["id"]: part for part in document["sections"]}
    lists = next(tables_of(parts["forensics"]))
    assert [head["text"] for head in lists["columns"]][2:5] == ["AUROC", "precision at n", "recall at 1.5 n"]
    assert len(lists["rows"]) == len(CELLS) * len(DETECTORS)
    scans = next(tables_of(parts["scans"]))
    assert len(scans["rows"]) == len(CELLS)
    overlaps = [line[-1]["text"] for line in scans["rows"]]
    assert overlaps.count("–") == 1  # nothing to overlap with on the clean network
    titles = [block["text"] for block in parts["scans"]["blocks"] if block["kind"] == "heading"]
    assert titles == ["Reversed triggers"]
    boxes = str(parts["boxes"])
    assert "poison forensics" in boxes and "trigger inversion" in boxes
