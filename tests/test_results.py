"""What the trust gate says of each number, on evaluations written by hand."""

from pathlib import Path
from typing import Any

import pytest

from deconfound.claims import Ledger, judge
from deconfound.results import Cell, Key, Results, load
from deconfound.runs import Run
from deconfound.tables import costs_table, differences_table, results_table, summary_table, trust_table
from experiments import entry, evaluation, hits

CLEAN, ROBUST = Key("none", metric="clean_accuracy"), Key("worst_case", "linf", 0.1, metric="robust_accuracy")
CELL = Cell("d", "clean", "m", "a")


def check(name: str, verdict: str = "passed") -> dict[str, Any]:
    found = {"name": name, "verdict": verdict, "value": 0.5, "low": 0.25, "high": 0.75, "limit": 0.01}
    return found | {"total": 8, "note": "why"}


def gate(model: str = "passed", threat: str = "passed") -> dict[str, Any]:
    """One check of the model, and two of the threat model (linf, 0.1), the second of which always passes."""
    checks = [check("black_box", threat), check("noise")]
    return {
        "model": [check("repeats", model)],
        "threats": [{"norm": "linf", "eps": 0.1, "checks": checks}],
    }


def evaluated(folder: Path, gates: dict[str, Any], bits: str = "1100") -> Results:
    """Runs d/clean/m/DEFENSE/SEED with clean accuracy, worst case (and another eps), and a point of a curve."""
    paths = []
    for name, found in gates.items():
        entries = [
            entry("clean_accuracy", "none", bits),
            entry("robust_accuracy", "worst_case", bits, norm="linf", eps=0.1),
            entry("robust_accuracy", "worst_case", bits, norm="l2", eps=1.0),
            entry("robust_accuracy", "pgd", bits, norm="linf", eps=0.3, curve="eps"),
        ]
        paths.append(evaluation(folder, f"d/clean/m/{name}", entries, test=[0] * 4, gate=found))
    return load(paths)


def test_a_number_that_the_gate_was_not_asked_about_is_not_assessed(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": None})
    assert {found.gate(found.runs(CELL), row.key) for row in found.rows} == {"not assessed"}
    other = evaluated(tmp_path / "l2", {"a/0": gate()})
    l2 = Key("worst_case", "l2", 1.0, metric="robust_accuracy")
    assert other.gate(other.runs(CELL), l2) == "not assessed"
    assert other.gate([], CLEAN) == "not assessed"


def test_a_failed_check_of_the_threat_model_marks_robust_numbers_and_no_other(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(threat="failed")})
    said = {row.key: found.gate([row.run], row.key) for row in found.rows}
    curve = Key("pgd", "linf", 0.3, "eps", metric="robust_accuracy")
    assert said[ROBUST] == said[curve] == "failed: black box"
    assert said[CLEAN] == "passed"


def test_a_failed_check_of_the_model_marks_everything(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(model="failed", threat="failed")})
    assert found.gate(found.runs(CELL), CLEAN) == "failed: repeats"
    assert found.gate(found.runs(CELL), ROBUST) == "failed: black box, repeats"


def test_a_mean_over_seeds_says_how_many_failed(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(), "a/1": gate(threat="failed"), "a/2": gate(threat="failed")})
    (row,) = (row for row in summary_table(found).to_dict("records") if row["eps"] == 0.1)
    assert row["gate"] == "failed in 2 of 3 seeds: black box"
    assert found.gate(found.runs(CELL)[:1], ROBUST) == "passed"


def test_one_seed_that_was_not_assessed_leaves_the_mean_without_a_verdict(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(), "a/1": None})
    assert found.gate(found.runs(CELL), ROBUST) == "not assessed"


def test_every_row_of_every_table_carries_the_verdict_of_its_own_run(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(), "a/1": gate(threat="failed")})
    said = {row["seed"]: row["gate"] for row in results_table(found).to_dict("records") if row["eps"] == 0.1}
    assert said == {0: "passed", 1: "failed: black box"}


def test_a_difference_is_as_believable_as_its_worse_side(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": gate(), "b/0": gate(threat="failed"), "c/0": None})
    controls = {("d", "clean", "m", name): other for name, other in (("a", "b"), ("c", "a"))}
    said = {
        row["defense"]: row["gate"]
        for row in differences_table(found, controls).to_dict("records")
        if row["eps"] == 0.1
    }
    assert said == {"a": "failed (b failed: black box)", "c": "not assessed"}


@pytest.mark.parametrize("failing", ["a", "b", None])
def test_a_number_that_failed_the_gate_supports_no_claim(failing: str | None, tmp_path: Path) -> None:
    gates = {f"{n}/{s}": gate(threat="failed" if n == failing else "passed") for n in "ab" for s in (0, 1)}
    claim = {"id": "x", "statement": "S.", "metric": "robust_accuracy", "norm": "linf", "direction": "above"}
    claim |= {"margin": -0.9, "treatment": {"defense": "a"}, "control": {"defense": "b"}}
    ledger = Ledger.model_validate({"paper": "P", "title": "T", "source": "S", "claims": [claim]})
    (row,) = judge([ledger], evaluated(tmp_path, gates)).to_dict("records")
    if failing is None:
        assert (row["verdict"], row["gate"]) == ("supported", "passed")
    else:
        assert row["verdict"] == "gate not passed"
        assert row["gate"] == f"failed ({failing} failed in 2 of 2 seeds: black box)"


def test_the_trust_table_has_a_row_per_run_and_check(tmp_path: Path) -> None:
    table = trust_table(evaluated(tmp_path, {"a/0": gate(threat="failed"), "b/0": None}))
    assert [tuple(row) for row in table[["defense", "norm", "eps", "check", "verdict"]].to_numpy()] == [
        ("a", "", 0.0, "repeats", "passed"),
        ("a", "linf", 0.1, "black_box", "failed"),
        ("a", "linf", 0.1, "noise", "passed"),
    ]
    assert table.loc[0, ["value", "low", "high", "limit", "total", "note"]].tolist() == [
        0.5, 0.25, 0.75, 0.01, 8, "why",
    ]  # fmt: skip


def test_the_table_of_costs_has_a_row_per_run_and_attack(tmp_path: Path) -> None:
    found = evaluated(tmp_path, {"a/0": None})
    cost = {"attack": "pgd", "member": "", "norm": "linf", "eps": 0.1, "attacked": 9, "broken": 2}
    cost |= {"forward": 50, "backward": 40, "fault": ""}
    (row,) = costs_table(
        Results(found.rows, found.measures, found.classes, {}, {Run(*CELL, 0): [cost]})
    ).to_dict("records")
    assert row == {**CELL._asdict(), "seed": 0, **cost}
    assert hits("10").tolist() == [True, False]
