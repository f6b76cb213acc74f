"""The section of verdicts: an overview, a card per claim that was run, a line per claim that was not."""

from pathlib import Path
from typing import Any

import pytest
from pages import report_of, section, tables_of
from synthetic_experiment import Experiment, make

from deconfound.report import forest as module
from deconfound.report.document import order_of
from deconfound.report.figures import draw
from deconfound.report.forest import ROWS, forests
from deconfound.report.inputs import Inputs, read
from deconfound.report.plotting import Figure
from deconfound.report.verdict_cards import side, sides


def cards(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    block = next(b for b in section(document, "verdicts")["blocks"] if b["kind"] == "claims")
    return {claim["id"]: claim for paper in block["papers"] for claim in paper["claims"]}


def tables(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["caption"]: found for found in tables_of(section(document, "verdicts"))}


def inputs_of(made: Experiment) -> Inputs:
    arguments = made.arguments()
    return read(arguments["tables"], arguments["runs"])


def test_the_overview_counts_the_claims_of_each_paper_by_verdict(assembled: dict[str, Any]) -> None:
    found = tables(assembled)["Claims of each paper, by verdict"]
    assert [head["text"] for head in found["columns"]] == [
        *("paper", "supported", "contradicted", "inconclusive", "premise not met", "gate not passed"),
        *("not run at this scale", "all"),
    ]
    rows = {row[0]["text"].split()[0]: [cell["text"] for cell in row[1:]] for row in found["rows"]}
    assert rows == {"TRADES": list("1110104"), "CBD": list("1001013")}


def test_a_verdict_that_was_never_given_has_no_column(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    found = tables(report_of(made))["Claims of each paper, by verdict"]
    assert "premise not met" not in [head["text"] for head in found["columns"]]


def test_a_claim_that_was_not_run_is_a_line_of_a_folded_table_and_no_card(assembled: dict[str, Any]) -> None:
    found = tables(assembled)["CBD (Zhang et al., CVPR 2023): not run at this scale"]
    assert found["folded"] == "CBD (Zhang et al., CVPR 2023): 1 claim not run at this scale"
    (row,) = found["rows"]
    assert [(cell["text"], cell["note"]) for cell in row] == [
        ("The defense also removes clean-label backdoors.", "cbd.clean_label · Testable property 7"),
        ("attack success rate, CBD against CBD shuffled", "needed: below −80.0 points"),
        ("ASR 5.61 % (CIFAR-10)", "Table 2"),
    ]
    assert "cbd.clean_label" not in cards(assembled) and len(cards(assembled)) == 6
    assert not any(caption.startswith("TRADES") for caption in tables(assembled))


def test_a_card_says_in_small_print_its_property_its_data_and_how_its_margin_was_chosen(
    assembled: dict[str, Any],
) -> None:
    assert cards(assembled)["trades.robust"]["small"] == [
        "Testable property 3",
        "Judged only on: Digits, whose classes have enough images",
        "Margin: Half of the published gain",
    ]
    assert cards(assembled)["trades.large"]["small"] == []


@pytest.mark.parametrize(
    ("control", "parts", "words"),
    [
        ("", ("", "", ""), ""),
        ("standard", ("standard", "", ""), "standard"),
        ("cbd on clean", ("cbd", "clean", ""), "CBD, not poisoned"),
        ("causaladv_m under pgd", ("causaladv_m", "", "pgd"), "CausalAdv-M under PGD"),
        ("cbd on clean under pgd", ("cbd", "clean", "pgd"), "CBD, not poisoned under PGD"),
    ],
)
def test_a_control_may_name_its_data_and_its_attack(
    control: str, parts: tuple[str, str, str], words: str
) -> None:
    assert sides(control) == parts and side(control) == words


def measured(document: dict[str, Any], claim: str) -> str:
    facts = {fact["name"]: fact["text"] for fact in cards(document)[claim]["facts"]}
    return str(facts.get("measured", ""))


def test_a_card_shows_what_was_measured_of_a_property_and_under_the_attack_of_the_control(
    tmp_path: Path,
) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    place = {"dataset": "digits", "poison": "clean", "model": "cnn", "treatment": "trades", "paper": "P"}
    more = {
        "effect": 0.1,
        "low": 0.0,
        "high": 0.2,
        "margin": 0,
        "direction": "above",
        "verdict": "inconclusive",
    }
    made.claim(id="kl", metric="style_kl", control="standard", **place, **more)
    made.claim(id="worst", metric="worst_class", **place, **more)
    made.claim(id="absent", metric="unheard_of", **place, **more)
    made.claim(
        id="under",
        metric="robust_accuracy",
        attack="fgsm linf 0.2",
        control="trades under pgd",
        **place,
        **more,
    )
    document = report_of(made)
    assert measured(document, "kl").startswith("style KL 0.2500 nats (control 0.2500 nats), clean accuracy ")
    assert measured(document, "worst").startswith("worst class 25.0\N{NO-BREAK SPACE}%, clean accuracy ")
    assert measured(document, "absent").startswith("clean accuracy ")
    rates = {
        row["attack"]: f"{100 * row['value']:.1f}"
        for row in made.rows["summary"]
        if (row["defense"], row["metric"], row["curve"]) == ("trades", "robust_accuracy", "")
    }
    assert rates["fgsm"] != rates["pgd"]
    said = measured(document, "under").replace("†", "")
    assert said.startswith(
        f"robust accuracy {rates['fgsm']}\N{NO-BREAK SPACE}% (control {rates['pgd']}\N{NO-BREAK SPACE}%)"
    )


def test_every_claim_that_was_run_is_in_one_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Experiment(tmp_path)
    more = {"metric": "clean_accuracy", "effect": 0.1, "low": 0.0, "high": 0.2, "verdict": "supported"}
    names = [f"{paper}{n}" for paper in "AB" for n in range(ROWS + 3)]
    for name in names:
        made.claim(id=name, paper=name[0], margin=0.05, direction="above", **more)
    held: list[list[str]] = []
    monkeypatch.setattr(
        module, "forest", lambda bands, *_: held.append([c.id for band in bands for c in band])
    )
    module.forests(inputs_of(made).claims)
    assert [name for part in held for name in part] == names and max(map(len, held)) <= ROWS


def test_no_figure_of_verdicts_holds_more_claims_than_a_sheet(tmp_path: Path) -> None:
    made = Experiment(tmp_path)
    more = {"metric": "clean_accuracy", "effect": 0.1, "low": 0.0, "high": 0.2, "verdict": "supported"}
    for paper, number in (("A", ROWS - 1), ("B", 2 * ROWS + 1)):
        for n in range(number):
            made.claim(id=f"{paper}{n}", paper=paper, margin=0.05, direction="above", **more)
    figures: list[Figure] = forests(inputs_of(made).claims)
    titles = [figure.title for figure in figures]
    assert titles == [
        "Effects and margins: A",
        *(f"Effects and margins: B (part {part} of 3)" for part in (1, 2, 3)),
    ]
    assert [figure.name for figure in figures] == [f"verdicts-{n}" for n in (1, 2, 3, 4)]
    few = [claim for claim in inputs_of(made).claims if claim.paper == "A"]
    assert [figure.name for figure in forests(few)] == ["verdicts"]
    assert forests([]) == []
    arguments = made.arguments()
    drawn = draw(inputs_of(made), order_of(arguments["experiment"]))
    assert [figure.title for figure in drawn] == titles
