"""The format of a ledger, and the ledgers that are shipped: what they publish, where paper and code disagree."""

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import TypeAdapter
from scipy import stats

from deconfound.config import read
from deconfound.defenses import DEFENSES
from deconfound.errors import ConfigError
from deconfound.ledger import Ledger, Published, read_ledger
from deconfound.ledger_tables import PUBLISHED, errata_words, published_table
from deconfound.poisons import POISONS
from deconfound.recipe import Recipe
from deconfound.registry import resolve
from deconfound.report.published import MARKS
from experiments import ROOT

LEDGERS = sorted((ROOT / "claims").glob("*.yaml"))
METHODS = {name: read_ledger(ROOT / "claims" / f"{name}.yaml") for name in ("causaladv", "adml", "namid")}
CLAIM: dict[str, Any] = {
    "id": "one",
    "statement": "A beats B.",
    "metric": "clean_accuracy",
    "treatment": {"defense": "a"},
    "control": {"defense": "b"},
    "direction": "above",
    "margin": 0.1,
}
TABLE: dict[str, Any] = {
    "id": "t",
    "title": "Table",
    "source": "Table 1",
    "provenance": "P",
    "dataset": "CIFAR-10",
    "metric": "robust_accuracy",
    "norm": "linf",
    "eps": "8/255",
    "unit": "%",
    "columns": [
        {"name": "PGD", "attack": "pgd"},
        {"name": "None", "metric": "clean_accuracy", "unit": "fraction"},
    ],
    "rows": [
        {"label": "AT", "defense": "adversarial_training", "cells": [52.8, None], "sd": [0.5, None]},
        {"label": "M", "model": "VGG", "provenance": "D", "cells": [44, 0.8], "approximate": ["PGD"]},
    ],
}
ERRATUM = {"id": "e", "about": "x", "paper": "p", "code": "c", "followed": "code", "switch": "cbd.lr=1"}
CONTENT: dict[str, Any] = {
    "paper": "P",
    "title": "T",
    "source": "S",
    "claims": [CLAIM],
    "published": [TABLE],
    "errata": [ERRATUM],
}


def ledger(**more: Any) -> Ledger:
    return Ledger.model_validate(copy.deepcopy(CONTENT) | more)


def bad_ledger(path: Path, changes: dict[str, Any]) -> list[str]:
    content: Any = copy.deepcopy(CONTENT)
    for place, value in changes.items():
        *way, last = place.split(".")
        node = content
        for key in way:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[int(last) if isinstance(node, list) else last] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_ledger(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


ELSEWHERE = {  # where the fault is said, if not at the value that was changed (and is it null?)
    ("claims.0.datasets", False): "claims.0.applies",
    ("published.0.obtained", False): "published.0.rows",
    ("errata.0.switch", True): "errata.0.reason",
    ("errata.0.ablation", False): "errata.0.against",
}


@pytest.mark.parametrize(
    "place, value, hint",
    [
        ("papr", "x", "did you mean 'paper'?"),
        ("claims.0.metrc", "asr", "did you mean 'metric'?"),
        ("claims.0.treatment.defence", "a", "did you mean 'defense'?"),
        ("claims.0.margin", "wide", "got 'wide'"),
        ("claims.0.margin", True, "boolean"),
        ("claims.0.direction", "over", "got 'over'"),
        ("claims.0.norm", "l3", "got 'l3'"),
        ("claims.0.premise", "H9", "unknown premise 'H9'"),
        ("claims", [], "got []"),
        ("premises.H", [{"measure": "x", "abve": 1}], "did you mean 'above'?"),
        ("claims.0.treatment.attack", "pgd", "or in its control"),
        ("claims.0.applies", "Large data.", "without the other"),
        ("claims.0.datasets", ["d"], "without the other"),
        ("published.0.provenance", "X", "got 'X'"),
        ("published.0.rows.0.cells", [1], "expected 2 values, one per column, got 1"),
        ("published.0.rows.0.sd", [1, None, 3], "expected 2 values, one per column, got 3"),
        ("published.0.rows.0.sd", [1, 2], "expected none where the cell is null"),
        ("published.0.rows.0.cells.0", "many", "got 'many'"),
        ("published.0.rows.0.approximate", ["PDG"], "did you mean 'PGD'?"),
        ("published.0.rows.0.notes", {"PDG": "x"}, "did you mean 'PGD'?"),
        ("published.0.rows.1.label", "AT", "stands twice"),
        ("published.0.columns.1.name", "PGD", "stands twice"),
        ("published.0.obtained", False, "expected none in a table not obtained"),
        ("published.0.rows", [], "expected rows and columns"),
        ("published.0.norm", "l3", "got 'l3'"),
        ("errata.0.switch", "lr=1", "lr=1"),
        ("errata.0.switch", None, "expected a switch, or else the reason"),
        ("errata.0.reason", "none", "expected a switch, or else the reason"),
        ("errata.0.ablation", "a", "without the other"),
    ],
)
def test_a_fault_in_a_ledger_is_refused_with_file_and_key(
    place: str, value: Any, hint: str, tmp_path: Path
) -> None:
    (line,) = bad_ledger(tmp_path / "ledger.yaml", {place: value})
    said_at = ELSEWHERE.get((place, value is None), place)
    assert line.startswith(said_at) and hint in line


def test_every_unknown_premise_of_a_ledger_is_said(tmp_path: Path) -> None:
    two = [CLAIM | {"id": name, "premise": f"H{name}"} for name in "xy"]
    found = bad_ledger(tmp_path / "ledger.yaml", {"claims": two})
    assert [line.partition(":")[0] for line in found] == ["claims.0.premise", "claims.1.premise"]


@pytest.mark.parametrize("section", ["claims", "published", "errata"])
def test_equal_ids_in_a_ledger_are_refused(section: str, tmp_path: Path) -> None:
    (line,) = bad_ledger(tmp_path / "ledger.yaml", {section: CONTENT[section] * 2})
    assert line.startswith(f"{section}.1.id")


def test_an_ablation_has_one_default(tmp_path: Path) -> None:
    two = [ERRATUM | {"id": name, "ablation": "a", "against": name} for name in "bc"]
    (line,) = bad_ledger(tmp_path / "ledger.yaml", {"errata": two})
    assert line == "errata.1.against: 'a' is compared with 'b' elsewhere"


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.name)
def test_every_shipped_ledger_is_valid_and_gives_the_source_of_every_published_number(path: Path) -> None:
    found = read_ledger(path)
    assert found.source
    for claim in found.claims:
        assert bool(claim.published) <= bool(claim.published_source), claim.id
        assert claim.published or not claim.published_source, claim.id
    assert len({claim.id for claim in found.claims}) == len(found.claims)


def test_no_id_stands_twice_in_all_shipped_ledgers_and_numbers_are_read_as_people_write_them() -> None:
    for section in ("claims", "published", "errata"):
        ids = [entry.id for path in LEDGERS for entry in getattr(read_ledger(path), section)]
        assert ids and len(ids) == len(set(ids))
    assert ledger(claims=[CLAIM | {"margin": "1e-1"}]).claims[0].margin == 0.1
    assert ledger().published[0].eps == 8 / 255


def test_a_published_table_is_a_row_per_cell_and_keeps_empty_ones() -> None:
    table = published_table([ledger()])
    assert list(table.columns) == PUBLISHED
    first, empty, approximate, other = table.to_dict("records")
    assert (first["row"], first["column"], first["value"], first["sd"]) == ("AT", "PGD", 52.8, 0.5)
    assert (first["attack"], first["norm"], first["eps"], first["unit"]) == ("pgd", "linf", 8 / 255, "%")
    assert (first["model"], first["provenance"], first["approximate"]) == ("", "P", 0)
    assert (empty["row"], empty["column"], empty["metric"]) == ("AT", "None", "clean_accuracy")
    assert pd.isna(empty["value"]) and pd.isna(empty["sd"]) and empty["obtained"] == 1
    assert (approximate["value"], approximate["approximate"], approximate["provenance"]) == (44, 1, "D")
    assert (other["model"], other["unit"], other["approximate"]) == ("VGG", "fraction", 0)


def test_a_table_that_was_not_obtained_has_one_row_and_no_number() -> None:
    known = {"id": "t", "title": "Table", "source": "Table 3", "provenance": "S", "obtained": False}
    (row,) = published_table([ledger(published=[known])]).to_dict("records")
    assert (row["title"], row["source"], row["obtained"]) == ("Table", "Table 3", 0)
    assert pd.isna([row["row"], row["column"], row["value"], row["sd"]]).all()


def test_errata_are_words_with_empty_ones_for_what_is_not_said() -> None:
    (row,) = errata_words([ledger()]).to_dict("records")
    assert (row["paper"], row["says"], row["does"]) == ("P", "p", "c")
    assert (row["switch"], row["reason"], row["ablation"], row["against"]) == ("cbd.lr=1", "", "", "")


SWITCHES = sorted(
    {point.switch for path in LEDGERS for point in read_ledger(path).errata if point.switch is not None}
)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_names_a_field_of_a_method_or_of_the_recipe_and_a_value_that_it_takes(switch: str) -> None:
    place, _, value = switch.partition("=")
    kind, *way, last = place.split(".")
    table = DEFENSES if kind in DEFENSES else POISONS
    assert kind == "recipe" or kind in table
    owner: Any = Recipe if kind == "recipe" else resolve(table, kind, at=kind)
    for name in way:
        owner = owner.__pydantic_fields__[name].annotation
    field = owner.__pydantic_fields__[last]
    chosen = TypeAdapter(field.annotation).validate_python(yaml.safe_load(value))
    assert chosen != field.default, f"{switch} selects the default"


COMMON = "standard adversarial_training adversarial_training_best adversarial_training_average trades mart awp help"
DEFENDED = {
    "causaladv": """
        causaladv_m causaladv_m_random causaladv_m_identity causaladv_m_reshuffled causaladv_m_alpha0
        causaladv_t causaladv_t_random causaladv_t_identity causaladv_t_reshuffled causaladv_t_alpha0
        causaladv_m_sequential causaladv_m_detached causaladv_m_ramped causaladv_m_linear causaladv_m_isotropic
        causaladv_m_natural causaladv_m_alpha025 causaladv_m_alpha05 causaladv_m_alpha2""",
    "adml": """
        adml adml_trades adml_mart adml_awp adml_help adml_continued adml_clean adml_tau1 adml_nosplit
        adml_trades_clean adml_mart_clean adml_awp_clean adml_help_clean
        adml_true adml_fooled adml_without_clean adml_mean_d2 adml_contrast""",
    "namid": """
        namid namid_t namid_m namid_random namid_shuffled namid_eq5 namid_max_only namid_lambda0 namid_no_natural
        namid_no_adversarial namid_alpha0 namid_alpha1 namid_alpha5 namid_alpha10 namid_t_alpha0
        namid_m_alpha0 wmim""",
}


@pytest.mark.parametrize("method", METHODS)
def test_every_defense_of_a_method_is_judged_or_an_ablation_and_no_other_is_named(method: str) -> None:
    found = METHODS[method]
    named = {side.defense for claim in found.claims for side in (claim.treatment, claim.control) if side}
    named |= {name for point in found.errata for name in (point.ablation, point.against) if name}
    assert named <= {*DEFENDED[method].split(), *COMMON.split()}
    assert set(DEFENDED[method].split()) <= named


def test_every_run_that_the_ledger_of_cbd_speaks_of_is_in_the_experiment_of_scenes() -> None:
    found = read_ledger(ROOT / "claims" / "cbd.yaml")
    made = read(ROOT / "experiments" / "scenes-backdoor.yaml")
    sides = [side for claim in found.claims for side in (claim.treatment, claim.control) if side]
    ablations = {name for point in found.errata for name in (point.ablation, point.against) if name}
    assert {side.defense for side in sides} | ablations <= set(made.defenses)
    assert {side.poison for side in sides} <= {None, "any", "clean", *made.poisons}
    columns = {column.poison for table in found.published for column in table.columns}
    assert columns <= {"", "clean", *made.poisons}


def test_every_claim_of_cbds_specification_is_in_its_ledger() -> None:
    claims = read_ledger(ROOT / "claims" / "cbd.yaml").claims
    assert {claim.property for claim in claims} - {None} == set(range(1, 12))  # H1 to H11


@pytest.mark.parametrize("method, count", [("causaladv", 8), ("adml", 7), ("namid", 8)])
def test_every_property_of_a_method_is_a_claim(method: str, count: int) -> None:
    assert {claim.property for claim in METHODS[method].claims} - {None} == set(range(1, count + 1))


@pytest.mark.parametrize("method", METHODS)
def test_every_margin_says_how_it_was_chosen(method: str) -> None:
    assert [claim.id for claim in METHODS[method].claims if not claim.note] == []


GAIN = re.compile(r"^([\d.]+) % to ≈?([\d.]+) %")
HALVED = [
    claim
    for found in METHODS.values()
    for claim in found.claims
    if GAIN.match(claim.published) and re.match("Half of the (published|digitised) gain", claim.note)
]


def test_many_margins_are_half_of_a_published_gain() -> None:
    assert len(HALVED) >= 15


@pytest.mark.parametrize("claim", HALVED, ids=lambda claim: claim.id)
def test_a_margin_is_half_of_the_gain_that_stands_beside_it(claim: Any) -> None:
    found = GAIN.match(claim.published)
    assert found is not None
    half = (float(found[2]) - float(found[1])) / 200
    assert claim.margin == pytest.approx(half, abs=5.1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_marks_are_those_that_the_report_explains(method: str) -> None:
    found = METHODS[method]
    used = {row.provenance or table.provenance for table in found.published for row in table.rows}
    text = " ".join(
        [claim.published_source for claim in found.claims]
        + [words for point in found.errata for words in (point.paper, point.code, point.followed)]
        + [table.note for table in found.published]
    )
    assert used | set(re.findall(r"\[(\w)\]", text)) <= set(MARKS)
    assert set(Published.model_fields["provenance"].annotation.__args__) == set(MARKS)  # type: ignore[union-attr]


def cells(method: str, table: str) -> dict[str, dict[str, float]]:
    """Values by row and column of a shipped table."""
    (found,) = [entry for entry in METHODS[method].published if entry.id == table]
    names = [column.name for column in found.columns]
    return {
        row.label: {n: v for n, v in zip(names, row.cells, strict=True) if v is not None}
        for row in found.rows
    }


CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_summaries_of_the_classes_follow_from_the_classes() -> None:
    """Rounding: rates have three decimals, summaries one in per cent."""
    found = cells("adml", "adml-classes")
    assert len(found) == 24
    for name, row in found.items():
        rates = 100 * np.sort([row[label] for label in CLASSES])
        expected = [rates.mean(), rates[0], rates[:3].mean(), rates[-3:].mean(), rates.std()]
        published = [row[column] for column in ("mean", "worst", "bottom-3", "top-3", "std")]
        assert published == pytest.approx(expected, abs=0.0501), name


def test_baselines_beside_adml_are_means_over_the_four_defenses() -> None:
    single, averaged = cells("adml", "adml-classes"), cells("adml", "adml-fig4")
    for model in ("VGG-16", "ResNet-18"):
        four = [single[f"{model} {name}"] for name in ("ADV", "TRADES", "MART", "AWP")]
        for column, value in averaged[f"{model} baseline average"].items():
            if column in CLASSES:
                assert value == pytest.approx(np.mean([row[column] for row in four]), abs=5.1e-4), (
                    model,
                    column,
                )


def test_the_rank_agreement_of_classes_follows_from_the_rows() -> None:
    rows, published = cells("adml", "adml-classes"), cells("adml", "adml-ranks")
    groups = {
        "12 architectures under ADV": [name for name in rows if name.endswith("ADV")],
        "VGG-16 and ResNet-18 under TRADES, MART and AWP": [
            f"{m} {d}" for m in ("VGG-16", "ResNet-18") for d in ("TRADES", "MART", "AWP")
        ],
    }
    for label, names in groups.items():
        rates = [[rows[name][column] for column in CLASSES] for name in names]
        found = [stats.spearmanr(*pair).statistic for pair in itertools.combinations(rates, 2)]
        assert [np.mean(found), min(found)] == pytest.approx(list(published[label].values()), abs=6e-4)


def test_gains_of_namid_follow_from_its_table() -> None:
    table, gains = cells("namid", "namid-t1-cifar10-linf"), cells("namid", "namid-gains")
    for better, base in (("NAMID", "Standard AT"), ("NAMID_T", "TRADES"), ("NAMID_M", "MART")):
        row = gains[f"{better} over {base.removeprefix('Standard ')}"]
        gain = {name: table[better][name] - table[base][name] for name in ("PGD-40", "AA")}
        assert row["PGD-40, absolute"] == pytest.approx(gain["PGD-40"], abs=1e-9)
        assert row["AA, absolute"] == pytest.approx(gain["AA"], abs=1e-9)
        assert row["PGD-40, relative"] == pytest.approx(
            100 * gain["PGD-40"] / table[base]["PGD-40"], abs=0.006
        )


@pytest.mark.parametrize("data", ["cifar10", "tiny"])
@pytest.mark.parametrize("white, black", [("linf", "t2"), ("l2", "t6")])
def test_clean_accuracy_does_not_depend_on_where_the_attack_comes_from(
    data: str, white: str, black: str
) -> None:
    found, other = cells("namid", f"namid-t1-{data}-{white}"), cells("namid", f"namid-{black}-{data}")
    for ours, theirs in (("Standard", "Standard AT"), ("WMIM", "WMIM"), ("NAMID", "NAMID")):
        assert other[ours]["None"] == found[theirs]["None"]


@pytest.mark.parametrize(
    "method, obtained, empty, unknown", [("causaladv", 20, 16, 6), ("adml", 458, 0, 1), ("namid", 226, 7, 0)]
)
def test_shipped_ledgers_hold_as_many_numbers_as_were_obtained(
    method: str, obtained: int, empty: int, unknown: int
) -> None:
    table = published_table([METHODS[method]])
    known = table[table["obtained"] == 1]
    assert (known["value"].notna().sum(), known["value"].isna().sum()) == (obtained, empty)
    assert (table["obtained"] == 0).sum() == unknown
