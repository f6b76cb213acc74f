"""Tables of backdoors, of evasion beside them, and of detectors, on evaluations written by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deconfound.backdoor_tables import backdoor_table, cross_table, detection_table
from deconfound.effectiveness import with_effectiveness
from deconfound.results import Results, load
from deconfound.statistics import mean, rate
from deconfound.steps import claims as step
from experiments import entry, evaluation, hits

CONTROLS = {("d", "bad", "m", "a"): "b", ("d", "bad", "m", "b"): "b", ("d", "clean", "m", "a"): "b"}
NUMBERS = {"value": 0.5, "low": 0.25, "high": 0.75, "limit": 0.0, "total": 4, "note": ""}
FAILED = {"model": [{"name": "repeats", "verdict": "failed", **NUMBERS}], "threats": []}


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(row) for row in table.to_dict("records")]


def spread(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def run(folder: Path, place: str, clean: str, *more: dict[str, Any], **about: Any) -> Path:
    entries = [entry("clean_accuracy", "none", clean), *more]
    return evaluation(folder, f"d/{place}", entries, test=[0, 0, 1, 1], **about)


def backdoored(asr: str, right: str) -> tuple[dict[str, Any], ...]:
    return (
        entry("asr", "bad", asr, "triggered"),
        entry("triggered_accuracy", "bad", right, "triggered"),
        entry("target_recall", "none", "10", "target"),
    )


def made(folder: Path) -> Results:
    """Two seeds of a defense and its control under a poison; one seed on clean data."""
    cross = entry("cross_accuracy", "bad", "1010")
    cost = {"training_cost": 2.0}, {"training_cost": 3.0}
    return load(
        [
            run(
                folder, "bad/m/a/0", "1110", *backdoored("0000", "1100"), cross, measures=cost[0], gate=FAILED
            ),
            run(folder, "bad/m/a/1", "1111", *backdoored("1000", "0111"), cross, measures=cost[1]),
            run(folder, "bad/m/b/0", "1111", *backdoored("1111", "0000")),
            run(folder, "bad/m/b/1", "1111", *backdoored("1100", "0011")),
            run(folder, "clean/m/a/0", "1100"),
            run(folder, "clean/m/b/0", "1110"),
        ]
    )


def test_a_cell_with_a_poison_has_its_rates_gains_and_costs_with_intervals(tmp_path: Path) -> None:
    table = backdoor_table(with_effectiveness(made(tmp_path), CONTROLS), CONTROLS)
    treated, control = rows(table)
    assert (treated["poison"], treated["defense"], treated["control"], treated["seeds"]) == (
        "bad",
        "a",
        "b",
        2,
    )
    assert spread(treated, "asr") == rate(np.stack([hits("0000"), hits("1000")]))
    assert spread(treated, "clean_accuracy") == rate(np.stack([hits("1110"), hits("1111")]))
    assert spread(treated, "triggered_accuracy") == rate(np.stack([hits("1100"), hits("0111")]))
    assert spread(treated, "target_recall") == rate(np.stack([hits("10")] * 2))
    assert spread(treated, "cross_accuracy") == rate(np.stack([hits("1010")] * 2))
    assert spread(treated, "der") == mean(np.array([0.875, 0.625]))
    assert spread(treated, "rir") == mean(np.array([0.625, 0.625])) == (0.625, 0.625, 0.625)
    assert (treated["worst_class_drop"], treated["training_cost"]) == (0.25, 2.5)
    assert treated["gate"] == "failed in 1 of 2 seeds: repeats"
    assert (control["defense"], control["control"], control["gate"]) == ("b", "", "not assessed")
    assert control["asr"] == 0.75
    for name in ("cross_accuracy", "der", "rir", "worst_class_drop", "training_cost"):
        assert math.isnan(control[name])


def test_without_a_poison_there_is_no_row_but_the_columns_stand(tmp_path: Path) -> None:
    found = load([run(tmp_path, "clean/m/a/0", "1100")])
    for table in (backdoor_table(found, {}), cross_table(found), detection_table(found)):
        assert table.empty and list(table.columns[:4]) == ["dataset", "poison", "model", "defense"]
        assert list(table.columns[-2:]) == ["seeds", "gate"]


def attacked(bits: str, norm: str = "linf", eps: float = 0.1) -> dict[str, Any]:
    return entry("robust_accuracy", "worst_case", bits, norm=norm, eps=eps)


def test_the_cross_matrix_has_a_row_per_training_set_defense_and_threat_model(tmp_path: Path) -> None:
    curve = entry("robust_accuracy", "pgd", "1111", norm="linf", eps=0.3, curve="eps")
    found = load(
        [
            run(tmp_path, "clean/m/a/0", "1110", attacked("1000"), attacked("1100", "l2", 1.0), curve),
            run(tmp_path, "clean/m/a/1", "1111", attacked("0000"), attacked("1100", "l2", 1.0)),
            run(tmp_path, "bad/m/a/0", "1010", *backdoored("1110", "0001"), attacked("0010")),
            run(tmp_path, "bad/m/b/0", "1011", *backdoored("1111", "0000")),
            run(tmp_path, "clean/other/a/0", "1110", attacked("1000")),  # attacked, but nowhere poisoned
        ]
    )
    table = rows(cross_table(found))
    at = [(r["poison"], r["model"], r["defense"], r["norm"], r["eps"]) for r in table]
    assert at == [
        (poison, "m", defense, norm, eps)
        for poison, defense in (("bad", "a"), ("bad", "b"), ("clean", "a"))
        for norm, eps in (("l2", 1.0), ("linf", 0.1))
    ]
    by = dict(zip(at, table, strict=True))
    clean = by["clean", "m", "a", "linf", 0.1]
    assert spread(clean, "clean_accuracy") == rate(np.stack([hits("1110"), hits("1111")]))
    assert spread(clean, "robust_accuracy") == rate(np.stack([hits("1000"), hits("0000")]))
    assert clean["seeds"] == 2 and math.isnan(clean["asr"])
    assert by["clean", "m", "a", "l2", 1.0]["robust_accuracy"] == 0.5
    bad = by["bad", "m", "a", "linf", 0.1]
    assert [bad[n] for n in ("clean_accuracy", "robust_accuracy", "asr", "triggered_accuracy")] == [
        *(0.5, 0.25, 0.75, 0.25)
    ]
    assert math.isnan(by["bad", "m", "a", "l2", 1.0]["robust_accuracy"])
    assert math.isnan(by["bad", "m", "b", "linf", 0.1]["robust_accuracy"])
    assert by["bad", "m", "b", "linf", 0.1]["asr"] == 1.0


def test_the_gate_of_a_threat_model_is_that_of_a_row_which_rests_on_it(tmp_path: Path) -> None:
    threat = {"norm": "linf", "eps": 0.1, "checks": [{"name": "noise", "verdict": "failed"}]}
    gate = {"model": [{"name": "repeats", "verdict": "passed"}], "threats": [threat]}
    paths = [
        run(tmp_path, "bad/m/a/0", "1010", *backdoored("1110", "0001"), attacked("0010"), gate=gate),
        run(tmp_path, "clean/m/a/0", "1010", attacked("0010", "l2", 1.0), gate=gate),
    ]
    said = {(r["poison"], r["norm"]): r["gate"] for r in rows(cross_table(load(paths)))}
    assert said == {
        ("bad", "linf"): "failed: noise",
        ("bad", "l2"): "passed",  # not attacked there: only the model counts
        ("clean", "linf"): "passed",
        ("clean", "l2"): "not assessed",
    }


def test_detectors_are_told_by_what_they_left(tmp_path: Path) -> None:
    alarm = entry("false_alarm_rate", "strip", "1000")
    seen = [entry("detection_rate", "strip", "1110", "triggered"), alarm]
    inputs = {"strip_auroc": 0.9, "strip_detected_at_1": 0.5, "strip_false_alarms_at_1": 0.02}
    inputs |= {"strip_detected_at_10": 0.75, "strip_false_alarms_at_10": 0.08}
    scan = {"nc_anomaly": 3.0, "nc_accused": 2.0, "nc_target_anomaly": 3.0, "nc_target_accused": 1.0}
    quiet = {"nc_anomaly": 1.0, "nc_accused": 0.0, "nc_target_anomaly": 0.5, "nc_target_accused": 0.0}
    parts = {"share": 0.25, "precision": 0.5, "recall": 1.0, "left": 0.0, "auroc": 0.75}
    examples = {f"ss_{name}": value for name, value in parts.items()}
    own = {"isolated_share": 0.01, "isolated_recall": 0.1}
    noise = {"style_share": 0.3, "biased_auroc": 0.9, "training_cost": 1.0}
    found = load(
        [
            run(tmp_path, "bad/m/a/0", "1111", *seen, measures=inputs | scan | examples | own | noise),
            run(tmp_path, "bad/m/a/1", "1111", *seen, measures=inputs | quiet | noise | {"strip_auroc": 0.7}),
            run(
                tmp_path,
                "clean/m/a/0",
                "1111",
                alarm,
                measures={"ss_share": 0.15, "nc_anomaly": 2.5, "nc_accused": 1.0},
            ),
        ]
    )
    table = rows(detection_table(found))
    at = {(r["poison"], r["detector"]): r for r in table}
    looks = {name: row["look"] for (poison, name), row in at.items() if poison == "bad"}
    assert looks == {"isolated": "defense", "nc": "model", "ss": "examples", "strip": "inputs"}
    assert len(table) == len(at) == 7 and {name for poison, name in at if poison == "clean"} == {
        "strip",
        "nc",
        "ss",
    }
    strip = at["bad", "strip"]
    assert spread(strip, "detection_rate") == rate(np.stack([hits("1110")] * 2))
    assert spread(strip, "false_alarm_rate") == rate(np.stack([hits("1000")] * 2))
    assert spread(strip, "auroc") == pytest.approx(tuple(mean(np.array([0.9, 0.7])).inside(0, 1)))
    assert [strip[f"{what}_at_{n}"] for n in (1, 10) for what in ("detected", "false_alarms")] == [
        *(0.5, 0.02, 0.75, 0.08)
    ]
    nc = at["bad", "nc"]
    assert [nc[n] for n in ("anomaly", "accused", "accused_any", "target_anomaly", "target_accused")] == [
        *(2.0, 1.0, 0.5, 1.75, 0.5)
    ]
    assert spread(at["bad", "ss"], "precision") == (0.5, 0, 1)  # one seed
    assert [at["bad", "ss"][name] for name in parts] == list(parts.values())
    clean = at["clean", "strip"], at["clean", "nc"], at["clean", "ss"]
    assert clean[0]["false_alarm_rate"] == 0.25 and math.isnan(clean[0]["detection_rate"])
    assert (clean[1]["accused_any"], clean[2]["share"]) == (1.0, 0.15) and math.isnan(
        clean[1]["target_anomaly"]
    )


def test_the_step_judges_and_tabulates_with_the_gains(tmp_path: Path) -> None:
    made(tmp_path)
    paths = sorted(tmp_path.rglob("evaluation.json"))
    controls = {"/".join(cell): name for cell, name in CONTROLS.items()}
    step.run(evaluations=paths, ledgers=[], controls=controls, out=tmp_path / "tables")
    measures = pd.read_csv(tmp_path / "tables" / "measures.csv")
    found = measures[measures["measure"] == "der"][["defense", "seed", "value"]]
    assert found.to_numpy().tolist() == [["a", 0, 0.875], ["a", 1, 0.625]]
    assert len(pd.read_csv(tmp_path / "tables" / "backdoor.csv")) == 2
