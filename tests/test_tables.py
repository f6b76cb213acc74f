import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deconfound import tables
from deconfound.comparisons import paired_p
from deconfound.errors import DataError
from deconfound.results import Cell, Key, load
from deconfound.runs import Run
from deconfound.statistics import crossed_mean, difference, rate, wilson
from deconfound.steps import claims as step
from experiments import entry, evaluation, hits, results

TEST = [0, 0, 1, 1]  # true labels of the test split
TWO = [entry("clean_accuracy", "none", "1110"), entry("robust_accuracy", "pgd", "1000", norm="linf", eps=0.1)]


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(row) for row in table.to_dict("records")]


def test_the_bits_of_an_entry_are_read_from_the_left_with_the_lowest_bit_first(tmp_path: Path) -> None:
    # 1 0 0 0 0 0 0 0 | 0 1 (10 examples): bytes 1 and 2
    written = entry("clean_accuracy", "none", "1000000001") | {
        "bits": base64.b64encode(bytes([1, 2])).decode()
    }
    path = evaluation(tmp_path, "d/clean/m/standard/0", [written], test=[0] * 10)
    (row,) = load([path]).rows
    assert row.hits.tolist() == [True] + [False] * 8 + [True]


def test_labels_are_read_as_little_endian_numbers_of_two_bytes(tmp_path: Path) -> None:
    path = evaluation(
        tmp_path, "d/clean/m/standard/0", [entry("clean_accuracy", "none", "11")], test=[1, 258]
    )
    content = json.loads(path.read_text())
    assert base64.b64decode(content["subsets"]["test"]) == bytes([1, 0, 2, 1])
    assert load([path]).rows[0].labels.tolist() == [1, 258]


def test_results_have_a_row_per_run_and_metric_ordered_by_run_metric_and_attack(tmp_path: Path) -> None:
    curve = entry("robust_accuracy", "pgd", "1100", norm="linf", eps=0.05, curve="eps")
    paths = [
        evaluation(tmp_path, "d/clean/m/trades/10", TWO, test=TEST),
        evaluation(tmp_path, "d/clean/m/trades/9", [*TWO[::-1], curve], test=TEST),
    ]
    found = tables.results_table(load(paths))
    columns = "dataset,poison,model,defense,seed,attack,norm,eps,curve,steps,metric,hits,total,value,gate"
    assert list(found.columns) == columns.split(",")
    assert [tuple(row.values())[4:-1] for row in rows(found)] == [
        (9, "none", "", 0.0, "", 0, "clean_accuracy", 3, 4, 0.75),
        (9, "pgd", "linf", 0.05, "eps", 0, "robust_accuracy", 2, 4, 0.5),
        (9, "pgd", "linf", 0.1, "", 0, "robust_accuracy", 1, 4, 0.25),
        (10, "none", "", 0.0, "", 0, "clean_accuracy", 3, 4, 0.75),
        (10, "pgd", "linf", 0.1, "", 0, "robust_accuracy", 1, 4, 0.25),
    ]
    pd.testing.assert_frame_equal(found, tables.results_table(load(paths[::-1])))


def test_a_summary_has_the_interval_over_seeds_and_examples_of_each_cell(tmp_path: Path) -> None:
    found = results(
        tmp_path, {"d/clean/m/a/0": ["1100"], "d/clean/m/a/1": ["1110"], "d/clean/m/b/0": ["0000"]}
    )
    table = tables.summary_table(found)
    columns = (
        "dataset,poison,model,defense,attack,norm,eps,curve,steps,metric,value,low,high,total,seeds,gate"
    )
    columns += ",rank_low,rank_high"
    assert list(table.columns) == columns.split(",")
    one, other = rows(table)
    expected = rate(np.array([hits("1100"), hits("1110")]))
    assert (one["value"], one["low"], one["high"]) == expected
    assert (one["defense"], one["total"], one["seeds"], one["gate"]) == ("a", 4, 2, "not assessed")
    assert (other["defense"], other["value"], other["seeds"]) == ("b", 0.0, 1)


CONTROLS = {("d", "clean", "m", "a"): "b", ("d", "clean", "m", "b"): "b"}


def test_differences_pair_the_same_seeds_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    treated = {"d/clean/m/a/0": ["1111000000"], "d/clean/m/a/1": ["1100000000"]}
    control = {"d/clean/m/b/1": ["0100000000"], "d/clean/m/b/0": ["0111000000"]}
    (row,) = rows(tables.differences_table(results(tmp_path, treated | control), CONTROLS))
    expected = difference(
        np.array([hits("1111000000"), hits("1100000000")]), np.array([hits("0111000000"), hits("0100000000")])
    )
    assert (row["effect"], row["low"], row["high"]) == expected
    assert row["effect"] == pytest.approx(0.1)
    crossed = difference(
        np.array([hits("1111000000"), hits("1100000000")]), np.array([hits("0100000000"), hits("0111000000")])
    )
    assert (row["low"], row["high"]) != (crossed.low, crossed.high), "this example tells pairings apart"
    columns = (
        "dataset,poison,model,defense,control,attack,norm,eps,metric,effect,low,high,p_holm,total,seeds,gate"
    )
    assert ",".join(row) == columns
    assert (row["defense"], row["control"], row["total"], row["seeds"]) == ("a", "b", 10, 2)


def test_a_difference_is_taken_on_the_same_model_and_the_same_metric(tmp_path: Path) -> None:
    runs = {
        f"d/clean/{m}/{n}/0": [b] for m, n, b in [("m", "a", "1110"), ("m", "b", "1000"), ("w", "a", "1111")]
    }
    controls = CONTROLS | {("d", "clean", "w", "a"): "b"}
    assert [
        row["model"] for row in rows(tables.differences_table(results(tmp_path / "one", runs), controls))
    ] == ["m"]
    paths = [
        evaluation(tmp_path, "d/clean/m/a/0", TWO, test=TEST),
        evaluation(tmp_path, "d/clean/m/b/0", TWO[:1], test=TEST),
    ]
    (row,) = rows(tables.differences_table(load(paths), CONTROLS))
    assert row["metric"] == "clean_accuracy"


def test_tables_of_hits_are_paired_by_seed_and_not_by_position() -> None:
    one = {0: hits("1111000000"), 1: hits("1100000000")}
    other = {1: hits("0100000000"), 0: hits("0111000000")}
    assert tables.paired(one, other) == tables.paired(one, dict(sorted(other.items())))


def test_a_seed_that_the_control_lacks_is_left_out_of_a_difference(tmp_path: Path) -> None:
    found = results(tmp_path, {f"d/clean/m/a/{s}": ["1110"] for s in range(3)} | {"d/clean/m/b/1": ["1000"]})
    (row,) = rows(tables.differences_table(found, CONTROLS))
    assert (row["effect"], row["seeds"]) == (0.5, 1)


def test_no_difference_is_taken_without_a_control_against_itself_of_curves_or_without_a_shared_seed(
    tmp_path: Path,
) -> None:
    found = results(
        tmp_path, {"d/clean/m/a/0": ["1110"], "d/clean/m/b/0": ["1000"], "d/other/m/a/0": ["1111"]}
    )
    assert len(tables.differences_table(found, CONTROLS)) == 1
    assert len(tables.differences_table(found, {})) == 0
    apart = results(tmp_path / "apart", {"d/clean/m/a/0": ["1110"], "d/clean/m/b/1": ["1000"]})
    assert len(tables.differences_table(apart, CONTROLS)) == 0
    curve = entry("robust_accuracy", "pgd", "1100", norm="linf", eps=0.1, curve="eps")
    paths = [evaluation(tmp_path / "c", f"d/clean/m/{name}/0", [curve], test=TEST) for name in "ab"]
    assert len(tables.differences_table(load(paths), CONTROLS)) == 0


def test_differences_of_runs_with_different_numbers_of_examples_pair_those_that_both_have(
    tmp_path: Path,
) -> None:
    for name, bits in {"shorter": ("1110", "100011"), "longer": ("111011", "1000")}.items():
        runs = {"d/clean/m/a/0": [bits[0]], "d/clean/m/b/0": [bits[1]]}
        (row,) = rows(tables.differences_table(results(tmp_path / name, runs), CONTROLS))
        assert (row["effect"], row["total"]) == (0.5, 4), name


def test_per_class_pools_the_seeds_and_leaves_curves_and_other_metrics_out(tmp_path: Path) -> None:
    more = [
        entry("robust_accuracy", "pgd", "1111", eps=0.1, curve="eps"),
        entry("target_recall", "none", "1", "target"),
    ]
    paths = [
        evaluation(tmp_path, f"d/clean/m/a/{s}", [entry("clean_accuracy", "none", bits), *more], test=TEST)
        for s, bits in enumerate(["1101", "1100"])
    ]
    table = tables.per_class_table(load(paths))
    columns = "dataset,poison,model,defense,attack,norm,eps,metric,label,hits,total,value,low,high,gate"
    assert list(table.columns) == columns.split(",")
    zero, one = rows(table)
    assert (zero["label"], zero["hits"], zero["total"], zero["value"]) == ("null", 4, 4, 1.0)
    assert (one["label"], one["hits"], one["total"], one["value"]) == ("eins", 1, 4, 0.25)
    assert (zero["low"], zero["high"]) == wilson(2, 2)[1:], "two examples, however many seeds"


def test_a_class_without_examples_has_no_row(tmp_path: Path) -> None:
    path = evaluation(tmp_path, "d/clean/m/a/0", [entry("clean_accuracy", "none", "11")], test=[1, 1])
    assert [row["label"] for row in rows(tables.per_class_table(load([path])))] == ["eins"]


def test_measures_are_a_row_per_run_and_name(tmp_path: Path) -> None:
    paths = [
        evaluation(tmp_path, f"d/bad/m/cbd/{s}", TWO, test=TEST, measures={"z": 0.5, "biased_auroc": s / 2})
        for s in (1, 0)
    ]
    found = tables.measures_table(load(paths))
    assert list(found.columns) == ["dataset", "poison", "model", "defense", "seed", "measure", "value"]
    assert [tuple(row.values())[4:] for row in rows(found)] == [
        (0, "biased_auroc", 0.0),
        (0, "z", 0.5),
        (1, "biased_auroc", 0.5),
        (1, "z", 0.5),
    ]


def test_properties_have_the_interval_over_seeds_and_images_of_all_and_of_each_class(tmp_path: Path) -> None:
    found = [[0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 4.0, 4.0]]
    paths = [
        evaluation(tmp_path, f"d/clean/m/a/{seed}", TWO, test=[0, 0, 1, 1], values={"theta": values})
        for seed, values in enumerate(found)
    ]
    table = rows(tables.properties_table(load(paths)))
    assert [(row["measure"], row["label"], row["total"], row["seeds"]) for row in table] == [
        ("theta", "", 4, 2),
        ("theta", "null", 2, 2),
        ("theta", "eins", 2, 2),
    ]
    assert [row["value"] for row in table] == [2.25, 0.75, 3.75]
    expected = crossed_mean(np.array(found))
    assert (table[0]["low"], table[0]["high"]) == (expected.low, expected.high)
    assert tables.properties_table(load([])).empty


def test_a_subset_without_examples_breaks_no_table(tmp_path: Path) -> None:
    nothing = entry("target_recall", "none", "", "target")
    path = evaluation(tmp_path, "d/bad/m/a/0", [*TWO, nothing], test=TEST)
    found = load([path])
    row = rows(tables.results_table(found))[-1]
    assert (row["metric"], row["hits"], row["total"]) == ("target_recall", 0, 0) and np.isnan(row["value"])
    last = rows(tables.summary_table(found))[-1]
    assert (last["metric"], last["low"], last["high"], last["total"]) == ("target_recall", 0.0, 1.0, 0)


def test_hits_are_stacked_by_seed(tmp_path: Path) -> None:
    found = results(
        tmp_path, {"d/clean/m/a/0": ["1110"], "d/clean/m/a/7": ["1000"], "d/clean/m/b/0": ["1111"]}
    )
    stacked = found.stacked(Cell("d", "clean", "m", "a"), Key("none", metric="clean_accuracy"))
    assert {seed: table.tolist() for seed, table in stacked.items()} == {
        0: [True, True, True, False],
        7: [True, False, False, False],
    }


def test_a_table_is_written_with_six_digits_and_line_ends_of_one_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    tables.write(pd.DataFrame({"name": ["ü, x", ""], "value": [1 / 3, 1e-7], "count": [1, 2]}), path)
    assert path.read_bytes() == 'name,value,count\n"ü, x",0.333333,1\n,1e-07,2\n'.encode()


@pytest.mark.parametrize(
    "content", ['{"hello": 1}', "[1, 2]", '{"run": {}, "entries": []}', "3", '{"run": {"seed": 1}}']
)
def test_a_foreign_json_file_among_the_evaluations_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(DataError, match=str(path)):
        load([path])


LEDGER = """
paper: P
title: T
source: S
claims:
  - {id: one, statement: A., metric: clean_accuracy, treatment: {defense: a}, direction: above, margin: 0.1}
"""


def test_the_step_writes_all_tables_and_the_same_bytes_again(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path, f"d/clean/m/{n}/{s}", TWO, test=TEST) for n in "ab" for s in (0, 1)]
    (tmp_path / "ledger.yaml").write_text(LEDGER)
    controls = {"d/clean/m/a": "b", "d/clean/m/b": "b"}
    for out in ("one", "two"):
        order = paths if out == "one" else paths[::-1]
        step.run(evaluations=order, ledgers=[tmp_path / "ledger.yaml"], controls=controls, out=tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        f"{n}.csv"
        for n in (
            *("backdoor", "claims", "costs", "cross", "detection", "differences", "errata"),
            *(
                "interpretation",
                "measures",
                "per_class",
                "properties",
                "published",
                "results",
                "summary",
                "trust",
            ),
        )
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    first = (tmp_path / "one" / "results.csv").read_text().splitlines()
    assert first[1] == "d,clean,m,a,0,none,,0,,0,clean_accuracy,3,4,0.75,not assessed"
    assert len(first) == 1 + 8
    assert load(paths).measures.keys() == {Run("d", "clean", "m", n, s) for n in "ab" for s in (0, 1)}


def test_defenses_are_ranked_within_their_setting_by_corrected_paired_tests(tmp_path: Path) -> None:
    good, bad = "1" * 60, "0" * 30 + "1" * 30
    runs = {
        f"d/clean/m/{n}/{s}": [bits] for n, bits in {"a": good, "b": bad, "c": bad}.items() for s in (0, 1)
    }
    runs["d/clean/other/a/0"] = [good]
    table = rows(tables.summary_table(results(tmp_path, runs)))
    ranks = {(row["model"], row["defense"]): (row["rank_low"], row["rank_high"]) for row in table}
    assert ranks == {("m", "a"): (1, 1), ("m", "b"): (2, 3), ("m", "c"): (2, 3), ("other", "a"): (0, 0)}


def test_of_attack_success_the_lowest_is_the_best(tmp_path: Path) -> None:
    paths = [
        evaluation(tmp_path, f"d/bad/m/{n}/{s}", [entry("asr", "t", bits)], test=[0] * 60)
        for n, bits in {"a": "1" * 60, "b": "0" * 60}.items()
        for s in (0, 1)
    ]
    table = rows(tables.summary_table(load(paths)))
    assert {row["defense"]: row["rank_low"] for row in table} == {"a": 2, "b": 1}


def test_differences_carry_p_values_corrected_over_the_data_set(tmp_path: Path) -> None:
    strong, weak, none = "1" * 60, "1" * 36 + "0" * 24, "1" * 30 + "0" * 30
    runs = {f"d/clean/m/{n}/0": [bits] for n, bits in {"a": strong, "c": weak, "b": none}.items()}
    runs |= {"e/clean/m/a/0": [weak], "e/clean/m/b/0": [none]}
    controls = {(d, "clean", "m", n): "b" for d in "de" for n in "ac"}
    found = {
        (r["dataset"], r["defense"]): r
        for r in rows(tables.differences_table(results(tmp_path, runs), controls))
    }
    p_weak = paired_p(hits(weak)[None], hits(none)[None])
    p_strong = paired_p(hits(strong)[None], hits(none)[None])
    assert p_strong < p_weak < 0.05
    assert found["d", "a"]["p_holm"] == pytest.approx(2 * p_strong)  # the smaller of two
    assert found["d", "c"]["p_holm"] == pytest.approx(p_weak)
    assert found["e", "a"]["p_holm"] == pytest.approx(p_weak)  # another data set, another table
