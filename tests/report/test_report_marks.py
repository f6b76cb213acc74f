"""Marks on every number that the trust gate does not vouch for, and the words behind them."""

import re
from pathlib import Path
from typing import Any

import pytest
from pages import cells, notes, report_of, section, table
from synthetic_experiment import Experiment, make

from deconfound.report.build import build
from deconfound.report.gates import doubt, said
from deconfound.report.names import VERDICTS
from deconfound.report.plotting import VERDICT_COLOURS, Figure

FAILED = "Trust gate failed in 2 of 3 seeds: black box, more steps"


def card(assembled: dict[str, Any], claim: str) -> dict[str, Any]:
    block = next(b for b in section(assembled, "verdicts")["blocks"] if b["kind"] == "claims")
    return next(c for paper in block["papers"] for c in paper["claims"] if c["id"] == claim)


def test_a_number_behind_a_failed_check_carries_a_dagger_and_a_note_that_names_the_checks(
    assembled: dict[str, Any],
) -> None:
    found = table(assembled, "evasion", "digits: accuracy")
    marked = {(row, column) for row, column, cell in cells(found) if cell.get("mark") == "†"}
    attacks = ("FGSM", "PGD", "PGD on the margin", "worst case")
    assert marked == {("TRADES CNN", attack) for attack in attacks}
    assert notes(found)["†"] == f"{FAILED}."


def test_a_number_that_passed_carries_no_mark(assembled: dict[str, Any]) -> None:
    found = table(assembled, "evasion", "digits: accuracy")
    assert [cell for _, column, cell in cells(found) if column == "clean accuracy" and "mark" in cell] == []


def test_a_number_not_assessed_is_told_from_those_that_are(assembled: dict[str, Any]) -> None:
    found = table(assembled, "evasion", "digits: accuracy")
    assert {column for _, column, cell in cells(found) if cell.get("mark") == "?"} == {"PGD L2"}
    assert notes(found)["?"] == "Not assessed by the trust gate."


def test_where_no_number_is_assessed_the_table_says_so_once(assembled: dict[str, Any]) -> None:
    found = table(assembled, "evasion", "GTSRB: accuracy")
    assert not any("mark" in cell for _, _, cell in cells(found))
    assert [n["text"] for n in found["notes"]][:1] == ["These numbers are not assessed by the trust gate."]


def test_a_difference_names_the_side_whose_gate_failed(assembled: dict[str, Any]) -> None:
    found = table(assembled, "backdoor", "scenes: paired")
    assert notes(found)["†"] == "Trust gate: CBD shuffled failed in 1 of 3 seeds: repeats."
    assert sum(note["text"].startswith("Grey: a paired test") for note in found["notes"]) == 1


def test_every_kind_of_number_is_marked(assembled: dict[str, Any]) -> None:
    per_class = table(assembled, "classes", "digits · CNN")
    assert {cell["mark"] for _, column, cell in cells(per_class) if "mark" in cell} == {"†"}
    curve = table(assembled, "curves", "digits: robust accuracy under PGD (L∞) by eps")
    assert all(("mark" in cell) == (row == "TRADES CNN") for row, _, cell in cells(curve))
    runs = next(b for b in section(assembled, "evidence")["blocks"] if b["kind"] == "runs")["items"]
    hits = next(item for item in runs if item["group"] == "digits/clean/cnn/trades")["tables"][0]
    worst = next(row for row in hits["rows"] if row[0]["text"] == "robust accuracy, worst case")
    assert [cell.get("mark") for cell in worst[1:]] == ["†", None, "†"]


def test_a_table_with_several_reasons_numbers_them(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    rows = [row for row in made.rows["summary"] if row["defense"] == "standard"]
    rows[0]["gate"] = "failed in 1 of 3 seeds: answers"
    found = table(report_of(made), "evasion", "digits: accuracy")
    assert {mark: text for mark, text in notes(found).items() if mark.startswith("†")} == {
        "†1": "Trust gate failed in 1 of 3 seeds: answers.",
        "†2": f"{FAILED}.",
    }
    assert list(notes(found))[:3] == ["†1", "†2", "?"]


def test_a_mark_has_words_on_the_page_and_leads_to_the_section_that_explains_it(
    experiment: Experiment, tmp_path: Path
) -> None:
    build(**experiment.arguments(tmp_path))
    page = (tmp_path / "robustness.html").read_text()
    assert f'<sup class="mark" role="img" aria-label="{FAILED}" title="{FAILED}">†</sup>' in page
    assert 'href="#trust"' in page and 'id="trust"' in page
    made = make(tmp_path / "without", backdoor=False, models=("cnn",))
    made.rows["trust"] = []
    build(**made.arguments())
    assert "#trust" not in (tmp_path / "without" / "reports" / "robustness.html").read_text()


def test_a_claim_whose_gate_failed_says_so_and_marks_its_numbers(assembled: dict[str, Any]) -> None:
    claim = card(assembled, "trades.no_masking")
    facts = {fact["name"]: fact for fact in claim["facts"]}
    assert (claim["verdict"], claim["slug"]) == ("gate not passed", "gate")
    assert facts["effect"]["mark"] == facts["gate"]["mark"] == "†"
    assert facts["gate"]["text"] == "TRADES failed in 2 of 3 seeds: black box, more steps"
    assert re.match(r"robust accuracy [\d.]+\s%† \(control [\d.]+\s%\)", facts["measured"]["text"])
    assert all("mark" not in fact for fact in card(assembled, "trades.robust")["facts"])


def test_every_verdict_has_a_colour_a_sign_and_a_style() -> None:
    import deconfound.report.html as rendering

    folder = Path(rendering.__file__).parent / "templates"
    assert set(VERDICT_COLOURS) == set(VERDICTS)
    for slug, _ in VERDICTS.values():
        assert f".{slug} {{" in (folder / "style.css").read_text()
        assert len(re.findall(rf"\b{slug}: ", (folder / "report.typ").read_text())) == 2


def test_figures_mark_what_did_not_pass(drawn: dict[str, Figure]) -> None:
    marked = {name for name, figure in drawn.items() if "†" in figure.caption}
    assert marked == {
        *(
            "evasion-digits-clean-cnn",
            "curve-digits-clean-cnn-pgd-linf",
            "curve-digits-clean-cnn-pgd-linf-steps",
        ),
        *("backdoor-scenes-badnets-cnn", "classes-digits-clean-cnn", "classes-scenes-badnets-cnn"),
        "thetas-digits-clean-cnn",
    }
    assert {name for name, figure in drawn.items() if "†" in figure.svg} == marked


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        ("passed", ""),
        ("not assessed", ""),
        ("failed: more steps, black box", "Trust gate failed: more steps, black box"),
        (
            "failed (cbd failed: noise; trades failed in 2 of 3 seeds: whole box); premise H2 held in 3 of 3 seeds",
            "Trust gate: CBD failed: noise; TRADES failed in 2 of 3 seeds: whole box",
        ),
        ("failed: noise; premise H2 held in 3 of 3 seeds", "Trust gate failed: noise"),
    ],
)
def test_a_doubt_names_the_checks_and_the_sides(gate: str, text: str) -> None:
    assert doubt(gate) == text


def test_the_gate_of_a_claim_keeps_its_premise() -> None:
    gate = "failed (cbd failed: noise); premise H2 held in 3 of 3 seeds"
    assert said(gate) == "CBD failed: noise; premise H2 held in 3 of 3 seeds"
    assert said("passed; premise H2 held in 3 of 3 seeds") == "passed; premise H2 held in 3 of 3 seeds"
