from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconfound.claims import COLUMNS, errata_table, judge, verdict
from deconfound.ledger import Ledger
from deconfound.results import Results, load
from deconfound.statistics import Interval, crossed_mean, difference, mean, rate
from experiments import entry, evaluation, hits, results

CLAIM: dict[str, Any] = {
    "id": "one",
    "statement": "A beats B.",
    "metric": "clean_accuracy",
    "treatment": {"defense": "a"},
    "control": {"defense": "b"},
    "direction": "above",
    "margin": 0.1,
}
HIGH, LOW = "1" * 190 + "0" * 10, "1" * 40 + "0" * 160  # 200 examples
SEEDS = range(3)


def ledger(changes: dict[str, Any] | None = None, **more: Any) -> Ledger:
    claim = {key: value for key, value in (CLAIM | (changes or {})).items() if value is not None}
    return Ledger.model_validate({"paper": "P", "title": "T", "source": "S", "claims": [claim]} | more)


def rows(found: Results, changes: dict[str, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
    table = judge([ledger(changes, **more)], found)
    assert list(table.columns) == COLUMNS
    return [dict(row) for row in table.to_dict("records")]


def trained(folder: Path, **defenses: str) -> Results:
    """Three seeds of each defense with the bits of its clean accuracy."""
    return results(folder, {f"d/clean/m/{n}/{s}": [bits] for n, bits in defenses.items() for s in SEEDS})


@pytest.mark.parametrize(
    "direction, low, high, expected",
    [
        ("above", 0.11, 0.3, "supported"),
        ("above", 0.09, 0.3, "inconclusive"),
        ("above", 0.10, 0.3, "inconclusive"),
        ("above", -0.3, 0.09, "contradicted"),
        ("above", -0.3, 0.10, "inconclusive"),
        ("below", -0.3, 0.09, "supported"),
        ("below", -0.3, 0.11, "inconclusive"),
        ("below", -0.3, 0.10, "inconclusive"),
        ("below", 0.11, 0.3, "contradicted"),
        ("below", 0.10, 0.3, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_the_margin(
    direction: str, low: float, high: float, expected: str
) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert verdict(interval, direction=direction, margin=0.1, seeds=2) == expected
    assert verdict(interval, direction=direction, margin=0.1, seeds=1) == "inconclusive"


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.integers(2, 5))
def test_above_and_below_are_mirror_images(a: float, b: float, margin: float, seeds: int) -> None:
    low, high = sorted((a, b))
    above = verdict(Interval(low, low, high), direction="above", margin=margin, seeds=seeds)
    below = verdict(Interval(-low, -high, -low), direction="below", margin=-margin, seeds=seeds)
    assert above == below
    turned = {"supported": "contradicted", "contradicted": "supported"}
    against = verdict(Interval(low, low, high), direction="below", margin=margin, seeds=seeds)
    assert against == turned.get(above, above)


def test_what_was_not_a_number_is_inconclusive() -> None:
    nothing = Interval(float("nan"), 0.5, 1.0)
    assert verdict(nothing, direction="above", margin=0.1, seeds=3) == "inconclusive"


def test_a_claim_is_judged_by_the_paired_difference_and_leads_to_its_runs(tmp_path: Path) -> None:
    (row,) = rows(trained(tmp_path, a=HIGH, b=LOW), {"published": "12 %", "published_source": "Table 1"})
    expected = difference(np.stack([hits(HIGH)] * 3), np.stack([hits(LOW)] * 3))
    assert (row["effect"], row["low"], row["high"]) == expected
    assert row["effect"] == 0.75
    assert (row["verdict"], row["seeds"], row["gate"]) == ("supported", 3, "not assessed")
    assert (row["id"], row["paper"], row["statement"]) == ("one", "P", "A beats B.")
    assert (row["dataset"], row["poison"], row["model"]) == ("d", "clean", "m")
    assert (row["treatment"], row["control"], row["metric"], row["attack"]) == (
        "a",
        "b",
        "clean_accuracy",
        "none",
    )
    assert (row["margin"], row["direction"]) == (0.1, "above")
    assert (row["published"], row["published_source"]) == ("12 %", "Table 1")
    assert row["evidence"] == "d/clean/m/a; d/clean/m/b"


@pytest.mark.parametrize(
    "direction, margin, expected",
    [
        ("above", 0.1, "supported"),
        ("above", 0.76, "inconclusive"),
        ("above", 0.95, "contradicted"),
        ("below", 0.1, "contradicted"),
        ("below", 0.95, "supported"),
    ],
)
def test_a_ledger_turns_runs_into_verdicts(
    direction: str, margin: float, expected: str, tmp_path: Path
) -> None:
    (row,) = rows(trained(tmp_path, a=HIGH, b=LOW), {"direction": direction, "margin": margin})
    assert row["verdict"] == expected


def per_image(folder: Path, name: str, **defenses: list[list[float]]) -> Results:
    """Runs with a number per image, a list per seed."""
    paths = [
        evaluation(folder, f"d/clean/m/{defense}/{seed}", [], test=[0] * len(found), values={name: found})
        for defense, seeds in defenses.items()
        for seed, found in enumerate(seeds)
    ]
    return load(paths)


def test_a_number_per_image_is_judged_by_the_difference_paired_over_seeds_and_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=50)  # a part that both share, and that the pairs cancel
    one, two = ([list(images + shift + 0.1 * rng.normal(size=50)) for _ in range(3)] for shift in (1.0, 0.5))
    found = per_image(tmp_path, "output_kl", a=one, b=two)
    (row,) = rows(found, {"metric": "output_kl"})
    expected = crossed_mean(np.float32(one).astype(float) - np.float32(two).astype(float))
    assert (row["effect"], row["low"], row["high"]) == pytest.approx(expected, rel=1e-9)
    assert (row["verdict"], row["seeds"]) == ("supported", 3) and row["high"] - row["low"] < 0.2
    (alone,) = rows(found, {"metric": "output_kl", "control": None})
    assert alone["effect"] == pytest.approx(np.mean(one), rel=1e-6) and alone["high"] - alone["low"] > 0.4
    (other,) = rows(found, {"metric": "output_kl", "control": {"defense": "gone"}})
    assert other["verdict"] == "not run at this scale"


def test_without_a_control_the_metric_itself_is_judged(tmp_path: Path) -> None:
    (row,) = rows(trained(tmp_path, a=HIGH), {"control": None, "margin": 0.5})
    assert (row["effect"], row["low"], row["high"]) == rate(np.stack([hits(HIGH)] * 3))
    assert (row["control"], row["evidence"], row["verdict"]) == ("", "d/clean/m/a", "supported")


def test_one_seed_supports_nothing_however_large_the_effect(tmp_path: Path) -> None:
    (row,) = rows(results(tmp_path, {"d/clean/m/a/0": [HIGH], "d/clean/m/b/0": [LOW]}))
    assert (row["verdict"], row["seeds"]) == ("inconclusive", 1)


def test_only_seeds_that_both_sides_have_are_compared(tmp_path: Path) -> None:
    runs = {f"d/clean/m/a/{s}": [HIGH] for s in range(4)} | {f"d/clean/m/b/{s}": [LOW] for s in (1, 3)}
    (row,) = rows(results(tmp_path, runs))
    assert row["seeds"] == 2


NOT_RUN = "not run at this scale"


def test_a_claim_without_its_runs_says_so_and_says_no_number(tmp_path: Path) -> None:
    found = trained(tmp_path, a=HIGH)
    cases: list[dict[str, Any]] = [
        {"treatment": {"defense": "c"}},
        {},  # the control was not run
        {"metric": "asr"},
        {"control": None, "attack": "pgd"},
        {"treatment": {"defense": "a", "poison": "badnets"}},
        {"control": None, "norm": "l2"},
    ]
    for case in cases:
        (row,) = rows(found, case)
        assert row["verdict"] == NOT_RUN, case
        assert pd.isna([row[key] for key in ("effect", "low", "high", "seeds", "dataset", "evidence")]).all()
        assert (row["id"], row["margin"]) == ("one", 0.1)


def attacked(folder: Path, attacks: list[tuple[str, str, float, str]]) -> Results:
    entries = [entry("robust_accuracy", name, bits, norm=norm, eps=eps) for name, norm, eps, bits in attacks]
    curve = entry("robust_accuracy", "pgd", "0" * 200, norm="linf", eps=0.4, curve=True)
    paths = [evaluation(folder, f"d/clean/m/a/{s}", [*entries, curve], test=[0] * 200) for s in SEEDS]
    return load(paths)


def test_a_claim_of_robust_accuracy_is_of_the_worst_case_with_a_row_per_threat_model(tmp_path: Path) -> None:
    found = attacked(
        tmp_path,
        [
            ("pgd", "linf", 0.1, HIGH),
            ("worst_case", "linf", 0.1, LOW),
            ("worst_case", "l2", 1.0, HIGH),
            ("worst_case", "linf", 0.05, HIGH),
        ],
    )
    claim = {"metric": "robust_accuracy", "control": None, "margin": 0.5}
    said = [(row["attack"], row["verdict"]) for row in rows(found, claim)]
    assert said == [
        ("worst_case l2 1", "supported"),
        ("worst_case linf 0.05", "supported"),
        ("worst_case linf 0.1", "contradicted"),
    ]
    (row,) = rows(found, claim | {"norm": "l2"})
    assert row["attack"] == "worst_case l2 1"
    (row,) = rows(found, claim | {"attack": "pgd"})
    assert (row["attack"], row["verdict"]) == ("pgd linf 0.1", "supported")


POISONS = {
    f"d/{poison}/m/{n}/{s}": [HIGH] for poison in ("clean", "bad", "worse") for n in "ab" for s in SEEDS
}


@pytest.mark.parametrize(
    "poison, expected",
    [("any", ["bad", "worse"]), ("bad", ["bad"]), ("clean", ["clean"]), (None, ["bad", "clean", "worse"])],
)
def test_a_claim_has_a_row_for_every_poison_that_it_is_about(
    poison: str | None, expected: list[str], tmp_path: Path
) -> None:
    treatment = {"defense": "a"} | ({"poison": poison} if poison else {})
    found = rows(results(tmp_path, POISONS), {"treatment": treatment})
    assert [row["poison"] for row in found] == expected
    assert [row["evidence"] for row in found] == [f"d/{p}/m/a; d/{p}/m/b" for p in expected]


def test_a_control_may_have_another_poison(tmp_path: Path) -> None:
    runs = {f"d/bad/m/a/{s}": [LOW] for s in SEEDS} | {f"d/clean/m/a/{s}": [HIGH] for s in SEEDS}
    sides = {"treatment": {"defense": "a", "poison": "any"}, "control": {"defense": "a", "poison": "clean"}}
    (row,) = rows(results(tmp_path, runs), sides | {"direction": "below", "margin": -0.5})
    assert (row["effect"], row["verdict"]) == (-0.75, "supported")
    assert (row["control"], row["evidence"]) == ("a on clean", "d/bad/m/a; d/clean/m/a")


def measured(folder: Path, name: str, **values: list[float]) -> Results:
    runs = {f"d/bad/m/{n}/{s}": [HIGH] for n, found in values.items() for s in range(len(found))}
    numbers = {f"d/bad/m/{n}/{s}": {name: x} for n, found in values.items() for s, x in enumerate(found)}
    return results(folder, runs, measures=numbers)


def test_a_claim_of_a_measure_is_judged_by_its_mean_over_seeds(tmp_path: Path) -> None:
    found = measured(tmp_path, "ratio", a=[0.01, 0.02, 0.03])
    claim = {"metric": "ratio", "control": None, "direction": "below", "margin": 0.1}
    (row,) = rows(found, claim)
    assert (row["effect"], row["low"], row["high"]) == mean(np.array([0.01, 0.02, 0.03]))
    assert (row["verdict"], row["seeds"], row["attack"], row["metric"]) == ("supported", 3, "", "ratio")
    (row,) = rows(found, claim | {"margin": 0.03})
    assert row["verdict"] == "inconclusive"


def test_a_measure_is_compared_with_that_of_the_control_if_the_claim_names_one(tmp_path: Path) -> None:
    found = measured(tmp_path, "ratio", a=[0.91, 0.92, 0.93], b=[0.90, 0.92, 0.94])
    (row,) = rows(found, {"metric": "ratio", "margin": 0.5})
    expected = tuple(mean(np.array([0.01, 0.0, -0.01])))
    assert (row["effect"], row["low"], row["high"]) == pytest.approx(expected, abs=1e-12)
    assert (row["verdict"], row["control"]) == ("contradicted", "b")


def test_a_measure_that_one_seed_lacks_is_judged_by_the_others(tmp_path: Path) -> None:
    runs = {f"d/bad/m/a/{s}": [HIGH] for s in SEEDS}
    found = results(tmp_path, runs, measures={"d/bad/m/a/0": {"ratio": 0.5}, "d/bad/m/a/2": {"ratio": 0.5}})
    (row,) = rows(found, {"metric": "ratio", "control": None})
    assert (row["effect"], row["seeds"]) == (0.5, 2)


PREMISE: dict[str, Any] = {
    "premises": {"H": [{"measure": "auroc", "above": 0.9}, {"measure": "loss", "below": 0.1}]}
}


@pytest.mark.parametrize(
    "auroc, loss, said, held",
    [
        ([0.95, 0.9, 0.99], 0.05, "supported", 3),
        ([0.95, 0.89, 0.99], 0.05, "premise not met", 2),
        ([0.95, 0.95, 0.99], 0.2, "premise not met", 0),
        ([0.95, 0.95, 0.99], None, "premise not met", 0),
    ],
)
def test_a_claim_is_judged_only_when_its_premise_held_in_every_seed(
    auroc: list[float], loss: float | None, said: str, held: int, tmp_path: Path
) -> None:
    rest = {} if loss is None else {"loss": loss}
    measures = {f"d/bad/m/a/{s}": {"auroc": auroc[s], **rest} for s in SEEDS}
    runs = {f"d/bad/m/{n}/{s}": [bits] for n, bits in {"a": HIGH, "b": LOW}.items() for s in SEEDS}
    found = results(tmp_path, runs, measures=measures)
    (row,) = rows(found, {"premise": "H"}, **PREMISE)
    assert (row["verdict"], row["gate"]) == (
        said,
        f"not assessed; premise H held in {held} of 3 seeds",
    )
    assert row["effect"] == 0.75
    (row,) = rows(found)
    assert (row["verdict"], row["gate"]) == ("supported", "not assessed")


def test_claims_keep_the_order_of_the_ledgers(tmp_path: Path) -> None:
    table = judge([ledger({"id": "z"}), ledger({"id": "a"})], trained(tmp_path, a=HIGH, b=LOW))
    assert table["id"].tolist() == ["z", "a"]
    assert len(judge([], trained(tmp_path / "again", a=HIGH))) == 0


def test_a_claim_that_needs_other_data_is_not_judged_on_these(tmp_path: Path) -> None:
    found = trained(tmp_path, a=HIGH, b=LOW)
    (row,) = rows(found, {"applies": "Needs many images.", "datasets": ["e"]})
    assert (row["verdict"], row["applies"]) == (NOT_RUN, "Needs many images.")
    (row,) = rows(found, {"applies": "Needs many images.", "datasets": ["e", "d"]})
    assert (row["verdict"], row["dataset"]) == ("supported", "d")
    (row,) = rows(found, {"applies": "A toy problem.", "datasets": []})
    assert row["verdict"] == NOT_RUN


def test_a_claim_says_which_property_it_is_and_how_its_margin_was_chosen(tmp_path: Path) -> None:
    (row,) = rows(trained(tmp_path, a=HIGH, b=LOW), {"property": 3, "note": "Half of it."})
    assert (row["property"], row["note"], row["applies"]) == (3, "Half of it.", "")


def test_two_attacks_on_the_same_models_are_compared_image_by_image(tmp_path: Path) -> None:
    found = attacked(
        tmp_path, [("fgsm", "linf", 0.1, HIGH), ("pgd", "linf", 0.1, LOW), ("pgd", "linf", 0.2, HIGH)]
    )
    claim = {"metric": "robust_accuracy", "attack": "fgsm", "control": {"defense": "a", "attack": "pgd"}}
    (row,) = rows(found, claim)
    expected = difference(np.stack([hits(HIGH)] * 3), np.stack([hits(LOW)] * 3))
    assert (row["effect"], row["low"], row["high"]) == expected
    assert (row["control"], row["attack"]) == ("a under pgd", "fgsm linf 0.1")
    (row,) = rows(found, claim | {"control": {"defense": "a", "attack": "square"}})
    assert row["verdict"] == NOT_RUN


POINT: dict[str, Any] = {"about": "x", "paper": "says", "code": "does", "followed": "code"}
POINTS: list[dict[str, Any]] = [
    {"id": "ran", **POINT, "switch": "k.f=1", "ablation": "a", "against": "b"},
    {"id": "did_not_run", **POINT, "switch": "k.f=2", "ablation": "c", "against": "b"},
    {"id": "has_none", **POINT, "reason": "It is a fault."},
]


def test_a_disagreement_has_the_paired_difference_of_its_ablation_to_the_default(tmp_path: Path) -> None:
    table = errata_table([ledger(errata=POINTS)], trained(tmp_path, a=LOW, b=HIGH, d=LOW))
    assert table["id"].tolist() == ["ran", "did_not_run", "has_none"]
    ran, *others = table.to_dict("records")
    expected = difference(np.stack([hits(LOW)] * 3), np.stack([hits(HIGH)] * 3))
    assert (ran["effect"], ran["low"], ran["high"]) == expected and ran["effect"] == -0.75
    assert (ran["dataset"], ran["model"], ran["defense"], ran["control"]) == ("d", "m", "a", "b")
    assert (ran["metric"], ran["total"], ran["seeds"]) == ("clean_accuracy", 200, 3)
    assert (ran["paper"], ran["says"], ran["does"], ran["switch"]) == ("P", "says", "does", "k.f=1")
    for row in others:
        assert pd.isna([row[key] for key in ("dataset", "defense", "effect", "low", "high", "p_holm")]).all()
        assert (row["total"], row["seeds"]) == (0, 0)
    assert [row["reason"] for row in others] == ["", "It is a fault."]


def test_the_tables_of_ledgers_without_errata_are_empty(tmp_path: Path) -> None:
    found = errata_table([ledger()], trained(tmp_path, a=HIGH))
    assert len(found) == 0 and {"says", "does", "effect", "gate"} <= set(found.columns)
