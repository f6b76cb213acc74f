"""Readings of interpretations: intervals where numbers are missing, rows, and what a ledger may ask for."""

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tables import TEST, TWO, evaluation

from deconfound.claims import judge
from deconfound.errors import ConfigError, DataError
from deconfound.ledger import Claim, Ledger, Side, read_ledger
from deconfound.readings import ends_of, interpretation_table, interval, with_readings
from deconfound.results import Results, load
from deconfound.statistics import crossed_mean, difference, mean, rate
from deconfound.storage import write_json

NAN = float("nan")


def packed(values: list[float]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def interpretation(folder: Path, run: str, **readings: list[float] | float) -> Path:
    """An interpretation.json with readings of the block `look` at place `map.clean.METRIC`."""
    dataset, poison, model, defense, seed = run.split("/")
    place = {"dataset": dataset, "poison": poison, "model": model, "defense": defense, "seed": int(seed)}
    common = {"of": "look", "kind": "shift", "subject": "map", "condition": "clean"}
    found: list[dict[str, Any]] = [
        common
        | {"metric": metric}
        | ({"values": packed(value)} if isinstance(value, list) else {"number": value})
        for metric, value in readings.items()
    ]
    path = folder / run / "interpretation.json"
    write_json(path, {"run": place, "readings": found})
    return path


def results(folder: Path, runs: dict[str, dict[str, Any]]) -> Results:
    evaluations = [evaluation(folder, run, TWO, test=TEST) for run in runs]
    paths = [interpretation(folder, run, **readings) for run, readings in runs.items()]
    return with_readings(load(evaluations), paths)


def test_where_every_image_has_a_number_the_interval_is_over_seeds_and_images() -> None:
    table = [np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.2, 0.5])]
    assert interval(table) == (crossed_mean(np.stack(table)), 3)


def test_images_without_a_number_in_some_seed_are_left_out_while_half_of_them_remain() -> None:
    table = [np.array([0.1, NAN, 0.4, NAN]), np.array([0.3, 0.2, 0.5, NAN])]
    assert interval(table) == (crossed_mean(np.array([[0.1, 0.4], [0.3, 0.5]])), 2)


def test_where_fewer_remain_the_interval_is_over_the_means_of_the_seeds() -> None:
    table = [np.array([0.1, NAN, NAN, 0.3]), np.array([NAN, 0.2, 0.6, 0.4]), np.array([NAN, NAN, 0.5, NAN])]
    found, total = interval(table)
    assert found == mean(np.array([0.2, 0.4, 0.5])) and total == 4


def test_a_reading_without_any_number_has_no_interval() -> None:
    found, total = interval([np.array([NAN, NAN])])
    assert all(math.isnan(value) for value in found) and total == 0


def test_numbers_that_are_hits_have_the_interval_of_a_rate_which_stays_inside_its_bounds() -> None:
    table = [np.array([1.0, 1, 1, NAN]), np.array([1.0, 0, 1, NAN])]
    found, total = interval(table)
    assert found == rate(np.array([[True, True, True], [True, False, True]])) and total == 3
    assert 0 <= found.low < found.value < found.high <= 1


def test_differences_of_hits_stay_uncertain_where_all_pairs_agree() -> None:
    table = [np.array([1.0, 0, 1]), np.array([1.0, 1, 1])]
    found, _ = interval(table, table)
    never = np.zeros((2, 3), bool)
    assert found == difference(never, never) and found.low < 0 < found.high


def test_a_difference_is_of_hits_only_where_both_sides_are() -> None:
    ones, halves = [np.array([1.0, 1, 0])] * 2, [np.array([0.0, 0.0, 0.5])] * 2
    assert interval(ones, halves)[0] == crossed_mean(np.stack(ones) - np.stack(halves))


ALL = [np.array([1.0, 0, 1, 1]), np.array([1.0, 1, 1, 0])]
NONE = np.zeros((2, 4), bool)


@pytest.mark.parametrize("metric", ["gain", "block.trigger.deleted.asr_drop", "gap"])
def test_a_reading_that_is_a_difference_of_hits_is_one_even_where_no_image_got_worse(metric: str) -> None:
    assert interval(ALL, metric=metric) == (difference(np.stack(ALL) == 1, NONE), 4)
    worse = [np.array([1.0, 0, -1, 1]), np.array([1.0, -1, 1, 0])]
    table = np.stack(worse)
    assert interval(worse, metric=metric) == (difference(table == 1, table == -1), 4)
    assert interval(ALL, worse, metric=metric)[0] == crossed_mean(np.stack(ALL) - table)  # as far as -2 to 2
    assert interval(ALL, ALL[::-1], metric=metric)[0] == crossed_mean(np.stack(ALL) - np.stack(ALL[::-1]))
    assert interval(ALL, metric="right") == interval(ALL) == (rate(np.stack(ALL) == 1), 4)


def test_means_of_seeds_of_differences_of_hits_stay_between_minus_one_and_one() -> None:
    apart = [
        np.array([-1.0, NAN, NAN, NAN]),
        np.array([NAN, -1.0, -1.0, 0.0]),
        np.array([NAN, -1.0, NAN, NAN]),
    ]
    assert interval(apart, metric="gap")[0].low == -1.0


def test_means_of_seeds_of_hits_stay_inside_the_bounds() -> None:
    apart = [np.array([1.0, NAN, NAN, NAN]), np.array([NAN, 1.0, 1.0, 0.0]), np.array([NAN, 1.0, NAN, NAN])]
    found, _ = interval(apart)
    assert (found.low, found.high) == (pytest.approx(mean(np.array([1, 2 / 3, 1])).low), 1.0)


def test_a_chance_of_the_run_has_an_interval_inside_its_bounds(tmp_path: Path) -> None:
    made = results(
        tmp_path, {f"d/clean/m/a/{seed}": {"auroc": value} for seed, value in enumerate((0.9, 0.99))}
    )
    (row,) = interpretation_table(made).to_dict("records")
    free = mean(np.array([0.9, 0.99]))
    assert free.high > 1 and row["high"] == 1 and row["low"] == pytest.approx(free.low)


def test_the_table_has_a_row_per_cell_and_reading(tmp_path: Path) -> None:
    made = results(
        tmp_path,
        {
            "d/clean/m/a/0": {"spearman": [0.5, 0.5, 1, 1], "auroc": 0.5},
            "d/clean/m/a/1": {"spearman": [0.5, 0.5, 1, 1], "auroc": 0.7},
        },
    )
    rows = interpretation_table(made).to_dict("records")
    assert [(row["metric"], row["total"], row["seeds"]) for row in rows] == [
        ("auroc", 0, 2),
        ("spearman", 4, 2),
    ]
    assert rows[0]["value"] == pytest.approx(0.6) and rows[1]["value"] == pytest.approx(0.75)
    assert {row["interpretation"] for row in rows} == {"look"} and rows[0]["kind"] == "shift"


def test_a_number_of_the_run_becomes_a_measure_that_a_premise_can_lean_on(tmp_path: Path) -> None:
    made = results(tmp_path, {"d/clean/m/a/0": {"auroc": 0.5}})
    assert [found["look.map.clean.auroc"] for found in made.measures.values()] == [0.5]


def claim(metric: str) -> Ledger:
    told = Claim(
        id="one",
        statement="A.",
        metric=metric,
        treatment=Side(defense="a"),
        control=Side(defense="b"),
        direction="above",
        margin=0.1,
    )
    return Ledger(paper="P", title="T", source="S", claims=[told])


def test_a_claim_on_a_reading_is_judged_on_pairs_of_the_same_image_and_seed(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed in (0, 1):
        base = [0.9, 0.1, 0.5, 0.3]
        runs[f"d/clean/m/b/{seed}"] = {"spearman": base}
        runs[f"d/clean/m/a/{seed}"] = {"spearman": [value + 0.25 for value in base]}
    (row,) = judge([claim("look.map.clean.spearman")], results(tmp_path, runs)).to_dict("records")
    assert row["verdict"] == "supported" and row["effect"] == pytest.approx(0.25)
    assert row["low"] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("against", [True, False])
def test_tables_and_claims_know_a_difference_of_hits_by_its_name(against: bool, tmp_path: Path) -> None:
    runs = {f"d/clean/m/a/{seed}": {"gain": list(values)} for seed, values in enumerate(ALL)}
    if against:
        runs |= {f"d/clean/m/b/{seed}": {"gain": list(values)} for seed, values in enumerate(ALL[::-1])}
    found = results(tmp_path, runs)
    row = interpretation_table(found).to_dict("records")[0]
    alone = difference(np.stack(ALL) == 1, NONE)
    assert (row["value"], row["low"], row["high"]) == pytest.approx(alone)
    told = claim("look.map.clean.gain")
    if not against:
        told = uncontrolled(told)
    (judged,) = judge([told], found).to_dict("records")
    expected = crossed_mean(np.stack(ALL) - np.stack(ALL[::-1])) if against else alone
    assert (judged["effect"], judged["low"], judged["high"]) == pytest.approx(expected)


def uncontrolled(ledger: Ledger) -> Ledger:
    """The same claims against nothing."""
    return ledger.model_copy(
        update={"claims": [one.model_copy(update={"control": None}) for one in ledger.claims]}
    )


@pytest.mark.parametrize(
    ("name", "bounded"),
    [
        ("trust.saliency.verdict.marked", True),
        ("nc_accused", False),
        ("p", True),
        ("x.y.z.clip", False),
        ("auroc", True),
    ],
)
def test_a_number_is_bounded_by_its_own_name_and_not_by_what_it_ends_with(name: str, bounded: bool) -> None:
    assert (ends_of(name) == (0, 1)) is bounded


def test_a_claim_on_a_chance_of_the_run_is_judged_inside_its_bounds(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed, value in enumerate((0.2, 0.9)):
        runs |= {f"d/clean/m/a/{seed}": {"auroc": value}, f"d/clean/m/b/{seed}": {"auroc": 1 - value}}
    (row,) = judge([claim("look.map.clean.auroc")], results(tmp_path, runs)).to_dict("records")
    assert (row["low"], row["high"]) == (-1, 1) and row["effect"] == pytest.approx(0.1)


def test_a_claim_on_a_number_of_the_run_is_judged_over_seeds(tmp_path: Path) -> None:
    runs = {
        f"d/clean/m/{name}/{seed}": {"auroc": value}
        for name, value in (("a", 0.9), ("b", 0.5))
        for seed in range(3)
    }
    (row,) = judge([claim("look.map.clean.auroc")], results(tmp_path, runs)).to_dict("records")
    assert row["verdict"] == "supported" and row["effect"] == pytest.approx(0.4)


@pytest.mark.parametrize("content", ['{"hello": 1}', "[1, 2]", '{"run": {}, "readings": []}'])
def test_a_foreign_file_among_the_interpretations_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "interpretation.json"
    path.write_text(content)
    with pytest.raises(DataError, match=str(path)):
        with_readings(load([]), [path])


def against(asked: str, **side: str) -> Ledger:
    told = claim(asked).claims[0]
    other = told.model_copy(update={"control": Side(defense="a", **side)})
    return Ledger(paper="P", title="T", source="S", claims=[other])


def test_a_control_may_be_another_reading_of_the_same_run(tmp_path: Path) -> None:
    base = [0.9, 0.1, 0.5, 0.3]
    runs: dict[str, dict[str, Any]] = {
        f"d/clean/m/a/{seed}": {"attacked": [value + 0.3 for value in base], "noise": base} for seed in (0, 1)
    }
    ledger = against("look.map.clean.attacked", metric="look.map.clean.noise")
    (row,) = judge([ledger], results(tmp_path, runs)).to_dict("records")
    assert row["effect"] == pytest.approx(0.3) and row["control"] == "a: look.map.clean.noise"


def test_a_control_may_be_another_architecture_and_a_treatment_may_name_its_own(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed in (0, 1):
        runs[f"d/clean/m/a/{seed}"] = {"auroc": 0.9}
        runs[f"d/clean/n/a/{seed}"] = {"auroc": 0.4}
    ledger = against("look.map.clean.auroc", model="n")
    named = ledger.claims[0].model_copy(update={"treatment": Side(defense="a", model="m")})
    rows = judge([ledger.model_copy(update={"claims": [named]})], results(tmp_path, runs)).to_dict("records")
    assert [(row["model"], row["effect"]) for row in rows] == [("m", pytest.approx(0.5))]


def test_a_treatment_has_no_metric_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "l.yaml"
    path.write_text(
        "{paper: P, title: T, source: S, claims: [{id: a, statement: s, metric: m,"
        " treatment: {defense: d, metric: n}, direction: above, margin: 0}]}"
    )
    with pytest.raises(ConfigError, match=r"claims\.0\.treatment\.metric: expected it in the claim"):
        read_ledger(path)
