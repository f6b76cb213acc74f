"""Published numbers and disagreements in the report: nothing lost, nothing invented, compared only where it may be."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pages import Page, notes, section, squeezed, tables_of, words_of
from pypdf import PdfReader
from synthetic_experiment import Experiment, make

from deconfound.claims import errata_table
from deconfound.ledger import Ledger, read_ledger
from deconfound.ledger_tables import published_table
from deconfound.report.build import build
from deconfound.report.document import assemble
from deconfound.results import Results
from deconfound.tables import write

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [read_ledger(path) for path in sorted((ROOT / "claims").glob("*.yaml"))]
CLAIM = {
    "id": "one",
    "statement": "A beats B.",
    "metric": "clean_accuracy",
    "treatment": {"defense": "trades"},
    "direction": "above",
    "margin": 0.1,
}
TABLE: dict[str, Any] = {
    "id": "t",
    "title": "white box",
    "source": "Table 1",
    "provenance": "S",
    "dataset": "Digits",
    "model": "CNN",
    "metric": "robust_accuracy",
    "norm": "linf",
    "eps": 0.2,
    "unit": "%",
    "note": "Red flag: a gap.",
    "columns": [
        {"name": "clean", "metric": "clean_accuracy"},
        {"name": "PGD-20", "attack": "pgd"},
        {"name": "PGD-100", "attack": "pgd", "eps": 0.3},
        {"name": "other", "attack": "square"},
        {"name": "three", "attack": "worst_case", "label": "3", "unit": "fraction"},
    ],
    "rows": [
        {"label": "TRADES", "defense": "trades", "cells": [83.39, 52.8, None, 1, 0.5],
         "sd": [0.5, None, None, 0.25, None]},
        {"label": "Theirs", "cells": [44, None, 50, 2, None], "approximate": ["clean"], "provenance": "D",
         "notes": {"PGD-100": "51 in Table 3"}},
    ],
}  # fmt: skip
POINT = {"about": "Basis", "paper": "Exact.", "code": "One by one.", "followed": "The paper."}
POINTS = [
    {
        "id": "ran",
        **POINT,
        "switch": "causaladv.basis=sequential",
        "ablation": "trades",
        "against": "standard",
    },
    {"id": "absent", **POINT, "switch": "adml.floor=0.0", "ablation": "adml_x", "against": "adml"},
    {"id": "none", **POINT, "about": "File", "reason": "It is a fault."},
]


def ledger(**more: Any) -> Ledger:
    content = {
        "paper": "P",
        "title": "T",
        "source": "S",
        "claims": [CLAIM],
        "published": [TABLE],
        "errata": POINTS,
    }
    return Ledger.model_validate(content | more)


Arguments = dict[str, Any]


def with_tables(
    made: Experiment, ledgers: list[Ledger], measured: Mapping[str, Any] | None = None, *, of: str = "ran"
) -> Arguments:
    """What `build` needs, with the tables of some ledgers; `measured` fills the rows of the errata named in `of`."""
    arguments = made.arguments()
    write(published_table(ledgers), made.tables / "published.csv")
    table = errata_table(ledgers, Results((), {}, {})).astype(object)
    for key, value in (measured or {}).items():
        table.loc[table["id"].isin(of.split()), key] = value
    write(table, made.tables / "errata.csv")
    return arguments


def document(arguments: Arguments) -> dict[str, Any]:
    """The report without its figures."""
    return assemble(arguments["tables"], arguments["runs"], arguments["experiment"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return make(tmp_path_factory.mktemp("small"), backdoor=False, models=("cnn",))


def shown(made: Experiment, **table: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The only table of a ledger as the report shows it, and its section."""
    found = section(document(with_tables(made, [ledger(published=[TABLE | table])])), "published")
    (drawn,) = list(tables_of(found))
    return drawn, found


def cell(drawn: dict[str, Any], row: str, column: str) -> dict[str, Any]:
    place = [head["text"] for head in drawn["columns"]].index(column)
    found: dict[str, Any] = next(line[place] for line in drawn["rows"] if line[0]["text"] == row)
    return found


def test_published_numbers_keep_their_decimals_their_deviation_and_their_roughness(small: Experiment) -> None:
    drawn, _ = shown(small)
    assert cell(drawn, "TRADES", "clean")["text"] == "83.39"
    assert cell(drawn, "TRADES", "clean")["note"].startswith("± 0.50 · measured ")
    assert cell(drawn, "TRADES", "PGD-20")["text"] == "52.80"
    assert cell(drawn, "TRADES", "other") == {"text": "1.00", "value": 1.0, "note": "± 0.25"}
    assert cell(drawn, "TRADES", "three")["text"] == "0.5"
    assert cell(drawn, "Theirs", "clean") == {"text": "≈44", "value": 44.0}
    assert cell(drawn, "Theirs", "PGD-100") == {"text": "50", "value": 50.0, "note": "51 in Table 3"}


def test_a_cell_that_was_not_obtained_is_a_dash_that_says_so(small: Experiment) -> None:
    drawn, _ = shown(small)
    for row, column in (("TRADES", "PGD-100"), ("Theirs", "PGD-20"), ("Theirs", "three")):
        assert cell(drawn, row, column) == {"text": "–", "note": "not obtained"}


def test_source_mark_budget_and_unit_stand_with_the_table_and_where_they_differ(small: Experiment) -> None:
    drawn, found = shown(small)
    assert drawn["caption"] == "P: white box (Digits · CNN · L∞\N{NO-BREAK SPACE}0.2), in per cent"
    assert drawn["folded"].startswith("P, Table 1: white box")
    assert [note["text"] for note in drawn["notes"]] == ["Source: Table 1 [S].", "Red flag: a gap."]
    assert [head["note"] for head in drawn["columns"]] == [
        "",
        "",
        "",
        "L∞\N{NO-BREAK SPACE}0.3",
        "",
        "fraction",
    ]
    assert [line[0].get("note", "") for line in drawn["rows"]] == ["", "[D]"]
    assert [item["name"] for item in found["blocks"][0]["items"]] == ["[D]", "[S]"]


def test_a_measured_value_stands_beside_the_same_quantity_and_beside_no_other(small: Experiment) -> None:
    drawn, _ = shown(small)
    expected = {
        (row["attack"], row["eps"]): f"measured {100 * row['value']:.1f} "
        f"({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        for row in small.rows["summary"]
        if row["defense"] == "trades" and not row["curve"]
    }
    assert cell(drawn, "TRADES", "clean")["note"] == f"± 0.50 · {expected['none', 0.0]}"
    assert re.sub("†$", "", cell(drawn, "TRADES", "PGD-20")["note"]) == expected["pgd", 0.2]
    (third,) = [
        row
        for row in small.rows["per_class"]
        if row["defense"] == "trades" and row["label"] == "3" and row["attack"] == "worst_case"
    ]
    assert cell(drawn, "TRADES", "three")["note"].startswith(f"measured {100 * third['value']:.1f} (")
    beside = [c for line in drawn["rows"] for c in line[1:] if "measured" in c.get("note", "")]
    assert len(beside) == 3


def test_a_published_number_of_a_poison_is_compared_with_that_poison_only(tmp_path: Path) -> None:
    made = make(tmp_path, models=("cnn",))
    rows = [row for row in made.rows["summary"] if row["metric"] == "asr" and row["defense"] == "cbd"]
    place = {key: rows[0][key] for key in ("dataset", "model")}
    asked = {
        **place,
        "metric": "asr",
        "columns": [{"name": "own", "poison": rows[0]["poison"]}, {"name": "other", "poison": "blend"}],
        "rows": [{"label": "CBD", "defense": "cbd", "cells": [1, 2]}],
    }
    table = {key: value for key, value in TABLE.items() if key not in ("norm", "eps")} | asked
    found = section(document(with_tables(made, [ledger(published=[table])])), "published")
    (drawn,) = list(tables_of(found))
    value = 100 * rows[0]["value"]
    assert re.match(rf"measured {value:.1f} \(", cell(drawn, "CBD", "own")["note"])
    assert "measured" not in cell(drawn, "CBD", "other").get("note", "")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"metric": "mutual information", "columns": [{"name": "a"}]}, "does not measure this quantity."),
        ({"dataset": "CIFAR-10"}, "has no run on CIFAR-10."),
        ({"model": "ResNet-18"}, "trains no ResNet-18 on Digits."),
        (
            {"rows": [{"label": "x", "defense": "adml", "cells": [1]}]},
            "trains none of these defenses (ADML).",
        ),
        ({"rows": [{"label": "x", "cells": [1]}]}, "trains none of these defenses."),
        ({"eps": 0.1}, "nothing was measured within L∞\N{NO-BREAK SPACE}0.1."),
        ({"norm": "l1"}, "nothing was measured within L1\N{NO-BREAK SPACE}0.2."),
        ({"columns": [{"name": "a", "attack": "square"}]}, "no robust accuracy under these attacks."),
    ],
)
def test_a_table_that_is_not_compared_says_why(
    change: dict[str, Any], sentence: str, small: Experiment
) -> None:
    plain = {
        "columns": [{"name": "PGD-20", "attack": "pgd"}],
        "rows": [{"label": "TRADES", "defense": "trades", "cells": [52.8]}],
    }
    drawn, _ = shown(small, **plain)
    assert not any("Not compared" in text for text in notes(drawn).values())
    drawn, _ = shown(small, **(plain | change))
    assert drawn["notes"][-1]["text"].startswith("Not compared: ")
    assert drawn["notes"][-1]["text"].endswith(sentence)
    assert not any("measured" in c.get("note", "") for line in drawn["rows"] for c in line[1:])


def test_a_network_may_carry_the_name_of_the_paper(small: Experiment) -> None:
    for paper, model, compared in (("NN", "C", True), ("P", "C", False), ("P", "cn-n", True)):
        made = with_tables(small, [ledger(paper=paper, published=[TABLE | {"model": model}])])
        (drawn,) = list(tables_of(section(document(made), "published")))
        assert ("measured" in cell(drawn, "TRADES", "PGD-20").get("note", "")) == compared


def test_a_number_behind_a_failed_gate_carries_its_dagger_here_too(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    for row in made.rows["summary"]:
        row["gate"] = "failed: black box" if row["attack"] == "pgd" else "passed"
    drawn, _ = shown(made)
    assert cell(drawn, "TRADES", "PGD-20")["note"].endswith("†")
    assert "†" not in cell(drawn, "TRADES", "clean")["note"]


def test_a_table_that_is_only_known_to_exist_is_named_without_a_number(small: Experiment) -> None:
    known = {"id": "k", "title": "ablation", "source": "Table 7", "provenance": "S", "obtained": False}
    found = section(document(with_tables(small, [ledger(published=[known])])), "published")
    assert list(tables_of(found)) == []
    (item,) = found["blocks"][1]["items"]
    assert (item["name"], item["values"]) == ("Table 7", ["ablation [S]", "–, not obtained"])


MEASURED = {
    **{"dataset": "digits", "poison": "clean", "model": "cnn", "defense": "trades", "control": "standard"},
    **{"attack": "worst_case", "norm": "linf", "eps": 0.2, "metric": "robust_accuracy"},
    **{
        "effect": -0.05,
        "low": -0.07,
        "high": -0.03,
        "p_holm": 0.001,
        "total": 300,
        "seeds": 3,
        "gate": "passed",
    },
}


def test_a_disagreement_says_both_sides_what_is_followed_and_how_to_switch(small: Experiment) -> None:
    found = section(document(with_tables(small, [ledger()], MEASURED)), "errata")
    lines = [(item["name"], *item["values"]) for item in found["blocks"][0]["items"]]
    assert lines[:5] == [
        ("Basis", "Paper: Exact."),
        ("", "Code: One by one."),
        ("", "Here: The paper."),
        ("", "Switch: causaladv.basis=sequential"),
        ("", "Ablation: TRADES against standard, in the table below."),
    ]
    assert lines[9] == ("", "Ablation: ADML x against ADML, not run in this experiment.")
    assert lines[10:] == [
        ("File", "Paper: Exact."),
        ("", "Code: One by one."),
        ("", "Here: The paper."),
        ("", "No switch: It is a fault."),
    ]


def test_an_ablation_that_ran_has_its_difference_to_the_default_with_its_interval(small: Experiment) -> None:
    found = section(document(with_tables(small, [ledger()], MEASURED)), "errata")
    (drawn,) = list(tables_of(found))
    (line,) = drawn["rows"]
    assert line[0]["text"] == "TRADES − standard"
    assert (line[1]["text"], line[1]["note"]) == ("−5.0", "−7.0 to −3.0")
    assert drawn["columns"][1]["text"] == "worst case"
    found = section(document(with_tables(small, [ledger()])), "errata")
    assert list(tables_of(found)) == []


def test_points_that_lean_on_the_same_ablation_show_its_difference_once(small: Experiment) -> None:
    twice = [POINTS[0], POINTS[0] | {"id": "again"}]
    arguments = with_tables(small, [ledger(errata=twice)], MEASURED, of="ran again")
    (drawn,) = list(tables_of(section(document(arguments), "errata")))
    assert len(drawn["rows"]) == 1


def test_without_ledgers_of_numbers_both_sections_vanish(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    names = [part["id"] for part in document(made.arguments())["sections"]]
    assert "published" not in names and "errata" not in names
    names = [part["id"] for part in document(with_tables(made, [ledger()]))["sections"]]
    assert names[-4:] == ["published", "errata", "evidence", "making"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the shipped ledgers, on an experiment of nothing else."""
    arguments = with_tables(Experiment(tmp_path_factory.mktemp("shipped")), SHIPPED)
    build(**arguments)
    return Path(arguments["out"])


def test_every_shipped_number_and_every_word_is_on_the_page_and_on_paper(shipped: Path) -> None:
    made = json.loads((shipped / "report.json").read_text())
    page = Page((shipped / "robustness.html").read_text())
    sheets = PdfReader(shipped / "robustness.pdf").pages
    paper = squeezed("\n".join(sheet.extract_text() for sheet in sheets))
    drawn = {tuple(squeezed(cell) for cell in row) for row in page.rows}
    found = section(made, "published")
    values = [
        c["value"] for table in tables_of(found) for row in table["rows"] for c in row[1:] if "value" in c
    ]
    cells = [v for entry in SHIPPED for t in entry.published for row in t.rows for v in row.cells]
    assert sorted(values) == sorted(v for v in cells if v is not None)
    for table in tables_of(found):
        for row in table["rows"]:
            assert tuple(map(words_of, row)) in drawn
            assert "".join(map(words_of, row)) in paper
    words = squeezed("".join(page.words))
    for entry in SHIPPED:
        for point in entry.errata:
            for text in (point.about, point.paper, point.code, point.followed, point.switch or point.reason):
                assert squeezed(text) in words
        for known in entry.published:
            assert squeezed(known.title) in words and squeezed(known.source) in words


def test_a_number_of_the_page_reads_as_it_was_published(shipped: Path) -> None:
    made = json.loads((shipped / "report.json").read_text())
    for table in tables_of(section(made, "published")):
        for row in table["rows"]:
            for c in row[1:]:
                if "value" in c:
                    assert float(c["text"].replace("≈", "").replace("−", "-")) == c["value"]
                else:
                    assert c["text"] == "–" and c["note"].startswith("not obtained")


def test_markup_in_a_ledger_is_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> *b* #let'
    point = copy.deepcopy(POINTS[2]) | {"paper": evil}
    build(**with_tables(Experiment(tmp_path), [ledger(published=[TABLE | {"note": evil}], errata=[point])]))
    text = (tmp_path / "reports" / "robustness.html").read_text()
    assert text.count("<script") == 1 and "".join(Page(text).words).count(evil) == 2
