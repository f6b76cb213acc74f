"""The sections that say how far the attacks can be believed: the gate, costs, ranks, security curves."""

import json
from pathlib import Path
from typing import Any

from pages import cells, notes, report_of, section, table
from synthetic_experiment import STEPS, make
from synthetic_trust import OF_MODEL, OF_THREAT

from deconfound.report.gates import CHECKS
from deconfound.report.plotting import Figure
from deconfound.report.words import label


def test_the_gate_has_a_row_per_defense_and_names_what_failed_in_how_many_seeds(
    assembled: dict[str, Any],
) -> None:
    found = table(assembled, "trust", "digits")
    outcomes = {(row, column): cell for row, column, cell in cells(found)}
    bad = outcomes["TRADES CNN", "L∞\N{NO-BREAK SPACE}0.2"]
    assert (bad["text"], bad["note"]) == ("failed †", "more steps: 2 of 3 seeds; black box: 2 of 3 seeds")
    good = outcomes["TRADES ResNet tiny", "L∞\N{NO-BREAK SPACE}0.2"]
    assert (good["text"], good["note"]) == ("passed", "11 checks, 3 seeds; transfer not assessed")
    scenes = {row: cell["text"] for row, _, cell in cells(table(assembled, "trust", "scenes"))}
    assert scenes["CBD shuffled CNN · BadNets"] == "failed †"
    assert scenes["CBD CNN · BadNets"] == scenes["CBD shuffled CNN · not poisoned"] == "–"


def test_each_check_shows_the_worst_seed_with_its_interval_and_limit(assembled: dict[str, Any]) -> None:
    found = table(assembled, "trust", "digits · CNN")
    assert [row[0]["text"] for row in found["rows"]] == [label(name) for name in (*OF_MODEL, *OF_THREAT)]
    row = next(row for row in found["rows"] if row[0]["text"] == "black box")
    assert row[0]["note"] == "L∞\N{NO-BREAK SPACE}0.2 · limit\N{NO-BREAK SPACE}1.0"
    assert row[3]["text"] == "failed" and row[3]["note"] == "14.0 (7.0 to 22.0), 2 of 3 seeds"
    assert row[1]["text"] == "passed" and row[1]["note"] == "0.0 (0.0 to 3.7)"
    assert (
        notes(found)[row[3]["mark"]]
        == "Black box, L∞\N{NO-BREAK SPACE}0.2: Square breaks what no gradient breaks."
    )
    assert "Transfer not assessed: no images of another model were given." in [
        n["text"] for n in found["notes"]
    ]


def test_limits_that_differ_stand_in_the_cells(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["trust"]:
        if (row["check"], row["defense"]) == ("black_box", "trades"):
            row["limit"] = 0.02
    found = table(report_of(made), "trust", "digits · CNN")
    row = next(row for row in found["rows"] if row[0]["text"] == "black box")
    assert "limit" not in row[0]["note"]
    assert ["limit 1.0" in row[1]["note"], "limit 2.0" in row[3]["note"]] == [True, True]


def test_a_failed_seed_outweighs_a_larger_statistic_that_passed(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["trust"]:
        if (row["check"], row["defense"], row["seed"]) == ("black_box", "trades", 1):
            row |= {"value": 0.9, "low": 0.0, "high": 1.0}
    found = table(report_of(made), "trust", "digits · CNN")
    row = next(row for row in found["rows"] if row[0]["text"] == "black box")
    assert row[3]["note"].startswith("14.0 (")


def test_failed_checks_are_explained_in_sight_and_every_check_somewhere(assembled: dict[str, Any]) -> None:
    lists = [block for block in section(assembled, "trust")["blocks"] if block["kind"] == "facts"]
    sight = [item["name"] for block in lists if not block["folded"] for item in block["items"]]
    assert sight == ["repeats", "more steps", "black box"]
    assert all(item["values"][0] for block in lists for item in block["items"])
    assert sorted(item["name"] for block in lists for item in block["items"]) == sorted(map(label, CHECKS))
    assert set(CHECKS) == {*OF_MODEL, *OF_THREAT}


def test_costs_are_means_over_seeds_in_the_order_the_attacks_ran(assembled: dict[str, Any]) -> None:
    found = table(assembled, "costs", "digits · CNN")
    rows = [[cell["text"] for cell in row] for row in found["rows"] if row[0]["text"] == "standard"]
    assert [row[1] for row in rows] == ["FGSM", "AutoAttack: APGD-T", "AutoAttack: Square"]
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert rows[1][2:] == ["228", "75.7", f"116{thin}110", f"2{thin}277"]
    assert "@" not in json.dumps(found) and "gate/" not in json.dumps(found)


def test_an_attack_that_could_not_work_says_why(assembled: dict[str, Any]) -> None:
    found = table(assembled, "costs", "digits · CNN")
    marked = [(row[0]["text"], row[1]["text"]) for row in found["rows"] if "mark" in row[1]]
    assert marked == [("TRADES", "FGSM")]
    reason = "model: expected logits with a gradient by the images, got none"
    assert notes(found)["†"] == f"Could not work in seed 2: {reason}."


def test_ranks_stand_by_the_headline_numbers_only_with_one_sentence(assembled: dict[str, Any]) -> None:
    found = table(assembled, "evasion", "digits: accuracy")
    ranked = {(row, column): cell["rank"] for row, column, cell in cells(found) if "rank" in cell}
    assert {column for _, column in ranked} == {"clean accuracy", "worst case"}
    assert ranked["standard CNN", "worst case"] == "rank\N{NO-BREAK SPACE}3"
    assert ranked["TRADES CNN", "worst case"] == "rank\N{NO-BREAK SPACE}1–2"
    assert sum("Rows whose ranks overlap cannot be ranked." in n["text"] for n in found["notes"]) == 1
    backdoor = table(assembled, "backdoor", "scenes: rates")
    ranked = {(row, column): cell["rank"] for row, column, cell in cells(backdoor) if "rank" in cell}
    assert ranked["CBD CNN · BadNets", "attack success rate"] == "rank\N{NO-BREAK SPACE}1"
    assert {column for _, column in ranked} == {"clean accuracy", "attack success rate"}


def test_nothing_ranked_shows_no_rank_and_no_sentence(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["summary"]:
        row |= {"rank_low": 0, "rank_high": 0}
    found = table(report_of(made), "evasion", "digits: accuracy")
    assert not any("rank" in cell for _, _, cell in cells(found))
    assert "rank" not in json.dumps(found["notes"]).lower()


def test_curves_run_over_eps_and_over_steps_each_with_a_figure_numbers_and_words(
    assembled: dict[str, Any], drawn: dict[str, Figure]
) -> None:
    over_steps = table(
        assembled, "curves", "digits: robust accuracy under PGD (L∞\N{NO-BREAK SPACE}0.2) by steps"
    )
    heads = [column["text"] for column in over_steps["columns"][1:]]
    assert heads == ["1 step", *(f"{steps} steps" for steps in STEPS[1:])]
    over_eps = table(assembled, "curves", "digits: robust accuracy under PGD (L∞) by eps")
    assert over_eps["columns"][1]["text"] == "eps 0"
    assert "not a robust model" in section(assembled, "curves")["lead"]
    assert "has not converged" in section(assembled, "curves")["lead"]
    names = {name for name in drawn if name.startswith("curve-digits-clean-cnn")}
    assert names == {"curve-digits-clean-cnn-pgd-linf", "curve-digits-clean-cnn-pgd-linf-steps"}


def test_an_experiment_without_a_curve_over_steps_speaks_of_none(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for name in ("results", "summary"):
        made.rows[name] = [row for row in made.rows[name] if row["curve"] != "steps"]
    assert "converged" not in section(report_of(made), "curves")["lead"]
