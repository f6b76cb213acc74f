"""The section of properties: every number once, in its unit, with what it means; and the figure of theta per class."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle_models import small_network, tiny_images
from pages import cells, notes, report_of, section, table, tables_of
from synthetic_experiment import make
from synthetic_properties import CLASSES, NUMBERS, VALUES, theta

from deconfound.attacks.pgd import PGD
from deconfound.estimators import EstimatorSpec
from deconfound.properties.alignment import Alignment
from deconfound.properties.mutual_information import MutualInformation
from deconfound.properties.subject import Found, Subject
from deconfound.properties.vulnerability import Vulnerability
from deconfound.report import properties as module
from deconfound.report.blocks import Block
from deconfound.report.inputs import PerClass, Property, Run
from deconfound.report.plotting import Figure, Palette
from deconfound.report.properties import MEASURES, number_of, over_seeds, shown_here
from deconfound.report.thetas import ENDS, chosen, ends, ordered, standing, vulnerability
from deconfound.report.words import Order, is_rate, metric_label
from deconfound.rng import generator

PLACE = {"dataset": "digits", "poison": "clean", "model": "cnn"}


def shown(document: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """(row, cell) of every number of the section by the name of its column, but theta of single classes."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for drawn in tables_of(section(document, "properties")):
        if "per class" not in drawn["caption"]:
            for row, name, cell in cells(drawn):
                found.setdefault(name, []).append((row, cell))
    return found


def theta_row(defense: str, name: str, value: float = 0.5, measure: str = "theta_logp") -> Property:
    bounds = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return Property(**PLACE, defense=defense, measure=measure, label=name, **bounds, total=36, seeds=3)


def accuracy(
    defense: str, name: str, value: float, attack: str = "worst_case", norm: str = "linf"
) -> PerClass:
    at = {"attack": attack, "norm": norm, "eps": 0.2, "metric": "robust_accuracy", "gate": "passed"}
    bounds = {"value": value, "low": value, "high": value, "hits": 0, "total": 36}
    return PerClass(**PLACE, defense=defense, label=name, **at, **bounds)


def run(defense: str, kind: str) -> Run:
    spec = {"defense": {"kind": kind}}
    return Run(**PLACE, defense=defense, seed=0, path=Path(), spec=spec, history={}, notes={}, provenance={})


def test_every_number_per_run_stands_once_as_its_mean_over_its_range(assembled: dict[str, Any]) -> None:
    found = shown(assembled)
    for name, value in NUMBERS.items():
        scale, digits = (100, 1) if is_rate(name) else (1, 4)
        rows = found[metric_label(name)]
        assert [row for row, _ in rows] == ["standard CNN", "adversarial training CNN", "TRADES CNN"]
        for _, cell in rows:
            assert math.isclose(cell["value"], value)
            low, high = (float(end.replace("−", "-")) for end in cell["note"].split(" to "))
            tolerance = 0.051 if digits == 1 else max(6e-5, 0.006 * abs(value))
            assert abs(low - scale * (value - 1 / 64)) <= tolerance
            assert abs(high - scale * (value + 1 / 64)) <= tolerance


def test_a_mean_over_images_stands_over_its_interval_and_not_over_a_range_of_seeds(
    assembled: dict[str, Any],
) -> None:
    found = shown(assembled)
    for name in ("style_kl", "output_kl"):
        for _, cell in found[metric_label(name)]:
            value = VALUES[name]
            assert (cell["value"], cell["low"], cell["high"]) == (value, value - 0.125, value + 0.125)
            assert cell["text"] == f"{value:.4f}"
            assert cell["note"] == f"{value - 0.125:.4f} to {value + 0.125:.4f}"


def test_no_measure_of_this_section_stands_in_another(assembled: dict[str, Any]) -> None:
    here = {metric_label(name) for name in MEASURES}
    for part in assembled["sections"]:
        if part["id"] not in ("properties", "verdicts"):
            for drawn in tables_of(part):
                assert not here & {column["text"] for column in drawn["columns"]}, drawn["caption"]
    assert set(NUMBERS) | set(VALUES) == MEASURES


def test_other_measures_keep_their_table_and_their_unit(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for name, value in (("robust_overfitting", 0.25), ("loss", 0.25), ("row_usable_to", 2.0)):
        row = {**PLACE, "defense": "trades", "seed": 0, "measure": name, "value": value}
        made.rows["measures"].append(row)
    found = table(report_of(made), "evasion", "Measures")
    assert [(head["text"], head["note"]) for head in found["columns"][1:]] == [
        ("loss", ""),
        ("robust overfitting", "points"),
    ]
    (line,) = found["rows"]
    assert [(cell["text"], cell["note"]) for cell in line[1:]] == [("0.2500", "1 seed"), ("25.0", "1 seed")]
    assert shown_here("row_usable_to") and not shown_here("robust_overfitting")


def test_every_column_is_explained_in_one_sentence_and_has_its_unit(assembled: dict[str, Any]) -> None:
    blocks = section(assembled, "properties")["blocks"]
    words = {item["name"]: item["values"] for b in blocks if b["kind"] == "facts" for item in b["items"]}
    assert set(words) == {metric_label(name) for name in MEASURES}
    assert all(len(values) == 1 and values[0].endswith(".") for values in words.values())
    units = {
        column["text"]: column["note"]
        for drawn in tables_of(section(assembled, "properties"))
        for column in drawn["columns"]
    }
    assert [units[metric_label(n)] for n in ("style_kl", "natural_auc", "style_gap", "natural_gap")] == [
        *("nats", "%", "points", "")
    ]


def test_what_rests_on_the_attacks_carries_the_gate_of_the_worst_case(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["summary"]:
        if row["attack"] != "worst_case":
            row["gate"] = "passed"
    found = table(report_of(made), "properties", "digits · CNN: how classes differ")
    marked = {(row, name) for row, name, cell in cells(found) if "mark" in cell}
    gated = ("class spread", "worst class", "three worst classes", "three best classes")
    assert marked == {("TRADES CNN", name) for name in gated}
    assert notes(found)["†"] == "Trust gate failed in 2 of 3 seeds: black box, more steps."


def test_a_block_without_numbers_is_left_out_and_without_any_the_section(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    titles = ["Alignment (CausalAdv)", "Vulnerability (ADML)", "Mutual information (NAMID)"]
    assert headings(report_of(made)) == titles
    everything = {name: list(made.rows[name]) for name in ("measures", "properties")}
    groups = [
        {*module.ALIGNMENT, *module.SPLIT},
        {*module.THETA, *module.SPREAD},
        {*module.SCORES, *module.DETAILS, *module.FROZEN},
    ]
    for title, names in zip(titles, groups, strict=True):
        for part, rows in everything.items():
            made.rows[part] = [row for row in rows if row["measure"] in names]
        assert headings(report_of(made)) == [title]
    made.rows |= {"measures": [], "properties": []}
    assert "properties" not in [part["id"] for part in report_of(made)["sections"]]


def headings(document: dict[str, Any]) -> list[str]:
    return [b["text"] for b in section(document, "properties")["blocks"] if b["kind"] == "heading"]


@pytest.mark.parametrize("calibration, linked", [({}, True), (None, False)])
def test_the_page_of_the_calibration_is_linked_where_the_experiment_has_one(
    tmp_path: Path, calibration: dict[str, Any] | None, linked: bool
) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    made.config["config"]["calibration"] = calibration
    blocks = section(report_of(made), "properties")["blocks"]
    assert [b["file"] for b in blocks if b["kind"] == "link"] == ["pages/calibration.html"] * linked


def test_theta_of_each_class_stands_in_the_order_of_the_errors(assembled: dict[str, Any]) -> None:
    found = table(assembled, "properties", "digits · CNN: θ per class")
    loss = {name: (place * 7) % 5 for place, name in enumerate(CLASSES)}  # what the experiment subtracts
    expected = sorted(CLASSES, key=lambda name: loss[name])
    assert [row[0]["text"] for row in found["rows"]] == ["all classes", *expected]
    assert (
        found["rows"][0][0]["note"]
        == "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}3\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}360"
    )
    defenses = ("adversarial_training", "trades")
    for row in found["rows"][1:]:
        values = [
            theta(name, at, row[0]["text"]) for at in defenses for name in ("theta_logp", "theta_margin")
        ]
        assert [cell["value"] for cell in row[1:]] == values
    assert [head["text"] for head in found["columns"][1:]] == ["adversarial training"] * 2 + ["TRADES"] * 2


def test_the_figure_holds_the_control_and_three_of_the_kind_of_adml() -> None:
    kinds = {f"adml_{n}": "adml" for n in range(4)} | {"trades": "trades", "standard": "standard"}
    kinds |= {"at_best": "adversarial_training", "at": "adversarial_training"}
    runs = [run(name, kind) for name, kind in kinds.items()]
    rows = [theta_row(name, "3") for name in kinds]
    order = Order(
        {"defenses": ["standard", "at", "at_best", "adml_3", "adml_1", "trades", "adml_0", "adml_2"]}
    )
    assert chosen(rows, runs, order) == ["at", "adml_3", "adml_1", "adml_0"]
    without = [row for row in rows if not row.defense.startswith("adml")]
    assert chosen(without, runs, order) == ["at", "at_best", "trades"]
    assert chosen([row for row in rows if row.defense == "standard"], runs, order) == ["standard"]
    assert chosen([theta_row("at", "")], runs, order) == []


def test_theta_stands_beside_the_worst_case_under_linf() -> None:
    rows = [
        accuracy("at", "a", 0.5, "pgd"),
        accuracy("at", "a", 0.4, "worst_case", "l2"),
        accuracy("at", "a", 0.3),
        dataclasses.replace(accuracy("at", "a", 0.9), metric="clean_accuracy"),
    ]
    assert [row.value for row in standing(rows)] == [0.3]
    assert [row.value for row in standing(rows[:1])] == [0.5]
    assert standing(rows[3:]) == []


def test_classes_are_ordered_by_their_mean_error_and_keep_their_order_where_it_is_unknown() -> None:
    rows = [theta_row("at", name) for name in ("", "b", "a", "c")]
    robust = [accuracy("at", "a", 0.1), accuracy("at", "b", 0.6), accuracy("at", "c", 0.9)]
    robust += [accuracy("x", "a", 0.9), accuracy("x", "b", 0.0), accuracy("x", "c", 0.9)]
    assert ordered(rows, robust) == ["c", "a", "b"]
    assert ordered(rows, []) == ["b", "a", "c"]


def test_too_many_classes_for_a_figure_leave_the_safest_and_the_least_safe() -> None:
    names = [str(n) for n in range(43)]
    kept, words = ends(names)
    assert kept == [*names[:ENDS], *names[-ENDS:]] and "43 classes" in words
    assert ends(names[: 2 * ENDS]) == (names[: 2 * ENDS], "")


def test_defenses_of_the_figure_are_told_apart_even_where_colours_repeat() -> None:
    palette = Palette([f"d{n}" for n in range(9)])
    assert palette.colour("d0") == palette.colour("d8")
    rows = [theta_row(name, "a") for name in ("d0", "d8")]
    drawn = vulnerability(("digits", "clean", "cnn"), rows, [], palette, ["d0", "d8"])
    own = Palette(["d0", "d8"])
    assert all(own.colour(name) in drawn.svg for name in ("d0", "d8"))
    assert "robust accuracy" not in drawn.caption and drawn.section == "properties"


def test_the_figure_of_the_digits_belongs_to_its_section_and_says_what_it_shows(
    drawn: dict[str, Figure],
) -> None:
    figure = drawn["thetas-digits-clean-cnn"]
    assert figure.section == "properties"
    assert "95 % intervals" in figure.caption and "robust accuracy (worst case)" in figure.caption


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert over_seeds([math.nan, math.nan], rate=True) == {"text": "–"}
    assert over_seeds([], rate=True) == {"text": "–"}
    assert over_seeds([math.nan, 0.25, 0.75], rate=True) == {
        "text": "50.0", "note": "25.0 to 75.0", "value": 0.5
    }  # fmt: skip
    cell: Block = number_of("worst_class", [], "failed: noise")
    assert cell == {"text": "–"}


def test_dashes_are_explained(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["measures"]:
        if (row["measure"], row["defense"]) == ("natural_gap", "trades"):
            row["value"] = math.nan
    found = table(report_of(made), "properties", "digits · CNN: what outputs tell")
    dashed = [(row, name) for row, name, cell in cells(found) if cell["text"] == "–"]
    assert dashed == [("TRADES CNN", "natural gap")]
    assert any(note["text"].startswith("A dash:") for note in found["notes"])
    assert "NaN" not in json.dumps(found)


def test_every_number_that_a_property_returns_has_its_place_in_the_section() -> None:
    attack = PGD(eps=0.2, steps=2)
    estimator = EstimatorSpec(hidden=8, widths=(2, 3), epochs=1, batch_size=16, lr=1e-3)
    measured: list[Found] = []
    for what in (
        Alignment(attack=attack, epochs=1),
        Vulnerability(attack=attack),
        MutualInformation(attack=attack, unseen=attack, estimator=estimator),
    ):
        model = small_network().eval()
        train, test = tiny_images(30), tiny_images(24, seed=1)
        right = np.arange(24) % 2 == 0
        measured.append(
            what(Subject(model, None, {}, train, test, 3, lambda name: generator(0, name), right))
        )
    names = {name for found in measured for name in (*found.values, *found.numbers)}
    assert names == MEASURES - set(module.FROZEN)
    assert {name.removesuffix("_frozen") for name in module.FROZEN} <= names
