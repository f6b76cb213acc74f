"""The built report: two renderings of one document, the same bytes each time, nothing lost."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import Page, squeezed, tables_of, words_of
from pypdf import PdfReader
from synthetic_experiment import COLUMNS, SEEDS, SIGNS, Experiment, make

from deconfound.errors import DataError
from deconfound.report.build import build
from deconfound.report.inputs import read


def sections_of(folder: Path) -> list[str]:
    return [section["id"] for section in json.loads((folder / "report.json").read_text())["sections"]]


@pytest.fixture(scope="session")
def built(experiment: Experiment) -> Path:
    arguments = experiment.arguments()
    build(**arguments)
    return Path(arguments["out"])


@pytest.fixture(scope="session")
def document(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "report.json").read_text())
    return found


@pytest.fixture(scope="session")
def page(built: Path) -> Page:
    return Page((built / "robustness.html").read_text())


@pytest.fixture(scope="session")
def paper(built: Path) -> str:
    """Text of the PDF, squeezed."""
    return squeezed("\n".join(sheet.extract_text() for sheet in PdfReader(built / "robustness.pdf").pages))


def test_every_row_of_every_table_is_a_row_of_the_page(document: dict[str, Any], page: Page) -> None:
    drawn = {tuple(squeezed(cell) for cell in row) for row in page.rows}
    rows = [row for table in tables_of(document) for row in table["rows"]]
    assert len(rows) > 200
    for row in rows:
        assert tuple(map(words_of, row)) in drawn


def test_every_row_of_every_table_is_on_paper(document: dict[str, Any], paper: str) -> None:
    for table in tables_of(document):
        for row in table["rows"]:
            assert "".join(map(words_of, row)) in paper


def test_every_claim_is_in_both_with_its_effect_interval_margin_verdict_and_published_number(
    document: dict[str, Any], page: Page, paper: str
) -> None:
    words = squeezed("".join(page.words))
    block = next(b for b in document["sections"][0]["blocks"] if b["kind"] == "claims")
    claims = [claim for group in block["papers"] for claim in group["claims"]]
    assert {claim["verdict"] for claim in claims} == {
        "supported",
        "contradicted",
        "inconclusive",
        "premise not met",
        "gate not passed",
    }
    for claim in claims:
        for part in [claim["statement"], claim["verdict"], claim["where"], *claim["small"]]:
            assert squeezed(part) in words and squeezed(part) in paper
        for fact in claim["facts"]:
            assert squeezed(fact["text"]) in words and squeezed(fact["text"]) in paper
            assert squeezed(fact["note"]) in words and squeezed(fact["note"]) in paper


def test_a_claim_shows_measured_beside_published_and_what_was_needed(document: dict[str, Any]) -> None:
    block = next(b for b in document["sections"][0]["blocks"] if b["kind"] == "claims")
    claims = {claim["id"]: claim for group in block["papers"] for claim in group["claims"]}
    facts = {fact["name"]: (fact["text"], fact["note"]) for fact in claims["cbd.asr"]["facts"]}
    assert facts["effect"] == ("−93.0 points", "−95.1 to −90.0")
    assert facts["needed"][0] == "below −50.0 points"
    assert re.fullmatch(
        r"attack success rate 4\.\d\s% \(control 9\d\.\d\s%†\), clean accuracy 9\d\.\d\s%",
        facts["measured"][0],
    )
    assert facts["published"][0] == "ASR 1.06 %, clean accuracy 87.46 % (CIFAR-10, WRN-16-1)"
    bound = {fact["name"]: fact["text"] for fact in claims["cbd.bound"]["facts"]}
    assert (bound["effect"], bound["needed"]) == ("4.1\N{NO-BREAK SPACE}%", "below 15.0\N{NO-BREAK SPACE}%")


def test_verdicts_come_first(document: dict[str, Any]) -> None:
    assert [section["id"] for section in document["sections"]] == [
        *(
            "verdicts",
            "evasion",
            "trust",
            "costs",
            "properties",
            "backdoor",
            "curves",
            "classes",
            "examples",
            "histories",
            "evidence",
            "making",
        ),
    ]
    assert document["sections"][0]["lead"] == (
        "Of 7 claims, 2 are supported, 1 is contradicted, 1 is inconclusive, 1 has its premise not met,"
        " 1 did not pass the trust gate and 1 was not run at this scale."
    )


def test_from_a_row_one_gets_to_runs_commands_commit_and_checksums(
    document: dict[str, Any], experiment: Experiment, page: Page
) -> None:
    runs = next(b for s in document["sections"] for b in s["blocks"] if b["kind"] == "runs")["items"]
    by_anchor = {item["anchor"]: item for item in runs}
    heads = [row[0] for table in tables_of(document) for row in table["rows"] if "run" in row[0]]
    assert len(heads) > 50
    for head in heads:
        item = by_anchor[head["run"]]
        for seed, line in zip(SEEDS, item["seeds"], strict=True):
            run = f"{item['group']}/seed{seed}"
            assert line["command"] == f"snakemake results/{run}/evaluation.json --cores all"
            assert line["commit"] == "0123456789abcdef0123456789abcdef01234567"
            assert line["files"]
    digests = {
        entry["sha256"]
        for path in experiment.runs
        for entry in json.loads(path.read_text())["provenance"]["inputs"].values()
    }
    assert digests <= {cell["text"] for t in tables_of(document) for row in t["rows"] for cell in row}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_hits_and_totals_of_every_seed_are_in_the_evidence(
    document: dict[str, Any], experiment: Experiment
) -> None:
    shown = {cell["text"] for t in tables_of(document) for row in t["rows"] for cell in row}
    for row in experiment.rows["results"]:
        assert row["curve"] or f"{row['hits']} / {row['total']}" in shown


def test_the_same_inputs_give_the_same_bytes(experiment: Experiment, built: Path, tmp_path: Path) -> None:
    build(**experiment.arguments(tmp_path))
    names = sorted(
        p.relative_to(built) for p in built.rglob("*") if p.is_file() and p.parent.name != "tables"
    )
    assert len(names) > 20
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


def test_the_page_loads_nothing(built: Path, page: Page) -> None:
    text = (built / "robustness.html").read_text()
    assert page.loads
    assert all(address.startswith(("#", "data:")) for address in page.loads)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", text)
    assert {link for link in page.links if not link.startswith("#")} == {"timings.html"}


def test_every_table_that_was_read_is_listed_with_its_checksum(
    document: dict[str, Any], experiment: Experiment
) -> None:
    listed = {
        row[0]["text"]: row[1]["text"]
        for table in tables_of(document)
        if table["caption"] == "Files this report was read from"
        for row in table["rows"]
    }
    for name in COLUMNS:
        content = (experiment.tables / f"{name}.csv").read_bytes()
        assert listed[f"reports/tables/{name}.csv"] == hashlib.sha256(content).hexdigest()
    assert len(listed) == len(COLUMNS) + len(experiment.runs)


def test_no_path_of_this_machine_is_in_the_report(built: Path, experiment: Experiment) -> None:
    for name in ("report.json", "robustness.html"):
        assert str(experiment.root) not in (built / name).read_text()


def test_markup_in_a_statement_or_a_class_name_is_text(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    evil = '<script>alert("1")</script> *bold* #let $x$ \\'
    made.rows["claims"][0]["statement"] = evil
    for row in made.rows["per_class"]:
        row["label"] = row["label"].replace("3", "<img src=x onerror=y>")
    build(**made.arguments())
    text = (tmp_path / "reports" / "robustness.html").read_text()
    page = Page(text)
    assert "img" not in page.tags and text.count("<script") == 1
    assert evil in "".join(page.words) and "<img src=x onerror=y>" in "".join(page.words)
    sheets = PdfReader(tmp_path / "reports" / "robustness.pdf").pages
    assert squeezed(evil) in squeezed("".join(sheet.extract_text() for sheet in sheets))


def test_sections_without_numbers_vanish(tmp_path: Path) -> None:
    build(**make(tmp_path / "a", backdoor=False, models=("cnn",)).arguments())
    assert "backdoor" not in sections_of(tmp_path / "a" / "reports")
    build(**make(tmp_path / "b", evasion=False).arguments())
    assert sections_of(tmp_path / "b" / "reports") == [
        *("trust", "backdoor", "classes", "examples", "histories", "evidence", "making"),
    ]
    build(**Experiment(tmp_path / "c").arguments())
    assert sections_of(tmp_path / "c" / "reports") == ["making"]


def test_figures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    made = Experiment(tmp_path)
    made.claim(id="a", metric="asr", effect=0.1, low=0.0, high=0.2, margin=0.1, verdict="inconclusive")
    stale = tmp_path / "reports" / "figures" / "stale.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg/>")
    build(**made.arguments())
    document = json.loads((tmp_path / "reports" / "report.json").read_text())
    named = {
        i["file"]
        for s in document["sections"]
        for b in s["blocks"]
        if b["kind"] == "figures"
        for i in b["items"]
    }
    assert named == {"figures/verdicts.svg"} == {f"figures/{path.name}" for path in stale.parent.iterdir()}


def test_forty_three_long_class_names_stay_on_the_sheet(built: Path, paper: str) -> None:
    assert all(squeezed(name) in paper for name in SIGNS)
    for sheet in PdfReader(built / "robustness.pdf").pages:
        places: list[float] = []

        def visit(
            text: str, user: Any, matrix: Any, font: Any, size: float, at: list[float] = places
        ) -> None:
            if text.strip():
                at.append(matrix[4] * user[0] + user[4])

        sheet.extract_text(visitor_text=visit)
        assert places and min(places) > 30 and max(places) < float(sheet.mediabox.width) - 40


def test_a_table_wider_than_a_page_is_split_and_loses_nothing(tmp_path: Path) -> None:
    made = make(tmp_path, backdoor=False, models=("cnn",))
    place = {"dataset": "digits", "poison": "clean", "model": "cnn", "defense": "standard"}
    for n in range(9):
        made.rate(place, 0.1, "robust_accuracy", attack=f"attack_{n}", norm="l2", eps=0.5 + n)
    build(**made.arguments())
    document = json.loads((tmp_path / "reports" / "report.json").read_text())
    found = [t for t in tables_of(document) if t["caption"].startswith("digits: accuracy")]
    heads = [head["text"] for t in found for head in t["columns"][1:]]
    assert len(found) == 2 and all(len(t["columns"]) <= 9 for t in found)
    assert heads[0] == "clean accuracy" and heads[-1] == "worst case"
    assert [h for h in heads if h.startswith("attack ")] == [f"attack {n}" for n in range(9)]


def test_classes_keep_their_order_where_the_target_class_has_no_rate(document: dict[str, Any]) -> None:
    found = [
        t for t in tables_of(document) if t["caption"] == "scenes · BadNets · CNN: per class, in per cent"
    ]
    assert [row[0]["text"] for row in found[0]["rows"]] == ["disc", "square", "triangle", "cross", "ring"]
    assert [cell["text"] for cell in found[0]["rows"][2][4:]] == ["–"] * 3


def test_metrics_and_plots_are_flat_numbers(built: Path, experiment: Experiment) -> None:
    metrics = json.loads((built / "metrics.json").read_text())
    summary = {
        (r["dataset"], r["poison"], r["model"], r["defense"], r["attack"], r["metric"]): r["value"]
        for r in experiment.rows["summary"]
        if not r["curve"]
    }
    at = ("digits", "clean", "cnn", "trades")
    assert metrics["digits.cnn.trades.clean_accuracy"] == summary[*at, "none", "clean_accuracy"]
    worst = summary[*at, "worst_case", "robust_accuracy"]
    assert metrics["digits.cnn.trades.robust_accuracy.linf_0_2"] == worst
    assert (
        metrics["scenes.badnets.cnn.cbd.asr"] == summary["scenes", "badnets", "cnn", "cbd", "badnets", "asr"]
    )
    with (built / "plots.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["run", "metric", "value"]
    assert len(lines) == len(summary)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("dataset,poison\n", "expected columns"), ("\x00\xff", "expected columns"), (None, "not a table")],
)
def test_a_foreign_table_is_named(tmp_path: Path, damage: str | None, message: str) -> None:
    arguments = Experiment(tmp_path).arguments()
    path = arguments["tables"] / "summary.csv"
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(DataError, match=message) as caught:
        build(**arguments)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "reports" / "report.json").exists()


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_no_table_may_be_missing(tmp_path: Path, name: str) -> None:
    arguments = Experiment(tmp_path).arguments()
    (arguments["tables"] / f"{name}.csv").unlink()
    with pytest.raises(DataError, match=f"{name}.csv: not a table"):
        read(arguments["tables"], [])
