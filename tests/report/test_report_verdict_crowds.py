"""Claims judged in many cells: once each, over a line per cell, below a map of all verdicts."""

import re
from collections import Counter
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pages import Page, report_of, section, squeezed, tables_of
from pypdf import PdfReader
from synthetic_verdicts import CLAIMS, CYCLE, POISONS, crowd, judged, verdict

from deconfound.report import html, pdf
from deconfound.report.forest import CLOSE, MOST, ROWS, banded, forests, rows, sheets
from deconfound.report.inputs import Claim, read
from deconfound.report.names import VERDICTS
from deconfound.report.verdict_crowds import FEW
from deconfound.report.verdict_groups import OPEN
from deconfound.report.verdict_map import COLUMNS, SIGNS, shared_prefix
from deconfound.report.words import label


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report_of(crowd(tmp_path_factory.mktemp("crowd")))


@pytest.fixture(scope="module")
def text(document: dict[str, Any]) -> str:
    return html.render(document, {})


def blocks(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in section(document, "verdicts")["blocks"] if block["kind"] == kind]


def entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (block,) = blocks(document, "claims")
    return {entry["id"]: entry for paper in block["papers"] for entry in paper["claims"]}


def claims_of(made: Any) -> list[Claim]:
    arguments = made.arguments()
    return list(read(arguments["tables"], arguments["runs"]).claims)


def test_a_claim_of_twelve_cells_stands_once_with_what_its_verdicts_share(document: dict[str, Any]) -> None:
    assert list(entries(document)) == [*CLAIMS, "cbd-alone"]
    entry = entries(document)[CLAIMS[4]]
    assert entry["statement"] == "The backdoor falls by 40 points."
    assert entry["about"] == "attack success rate, CBD against standard"
    assert entry["where"] == "scenes · CNN · 12 cells, 3 seeds"
    assert [(fact["name"], fact["text"], fact["note"]) for fact in entry["facts"]] == [
        ("effects", "−12.0 to −1.0 points", ""),
        ("needed", "below −40.0 points", ""),
        ("control", "standard", ""),
        ("published", "ASR 1.06 % (CIFAR-10)", "Table 1"),
    ]
    assert entry["small"] == ["Testable property 3", "Margin: Half of it"]
    assert "lines" not in entries(document)["cbd-alone"]


def test_every_cell_is_a_line_with_effect_interval_verdict_gate_and_evidence(
    document: dict[str, Any],
) -> None:
    for number, name in enumerate(CLAIMS):
        lines = entries(document)[name]["lines"]
        assert [line["place"]["text"] for line in lines] == [label(poison) for poison in POISONS]
        assert [line["verdict"] for line in lines] == [verdict(number, at) for at in range(12)]
    line = entries(document)[CLAIMS[0]]["lines"][3]
    assert (line["effect"]["text"], line["effect"]["note"]) == ("−4.0 points", "−14.0 to +6.0")
    assert line["place"] == {"text": "Bpp", "note": "3 seeds"}
    assert line["gate"] == {"text": "passed", "note": "premise works and held: 0 of 3 seeds"}
    assert [(item["text"], item["group"]) for item in line["evidence"]] == [
        ("CBD", "scenes/bpp/cnn/cbd"),
        ("standard, not poisoned", "scenes/clean/cnn/standard"),
    ]
    failed = entries(document)[CLAIMS[0]]["lines"][4]
    assert (
        failed["effect"]["mark"] == "†" and failed["gate"]["text"] == "CBD failed in 2 of 3 seeds: black box"
    )


def test_the_summary_counts_the_verdicts_of_a_claim_in_their_order(document: dict[str, Any]) -> None:
    assert entries(document)[CLAIMS[0]]["summary"] == (
        "12 cells: 3 supported, 3 contradicted, 2 inconclusive, 2 premise not met, 2 gate not passed"
    )
    assert entries(document)[CLAIMS[3]]["summary"] == (
        "12 cells: 2 supported, 2 contradicted, 2 inconclusive, 3 premise not met, 3 gate not passed"
    )


def test_map_and_list_add_up_to_the_overview(document: dict[str, Any]) -> None:
    overview = next(t for t in tables_of(document) if t["caption"] == "Claims of each paper, by verdict")
    ((_, *numbers),) = overview["rows"]
    counted = {
        head["text"]: cell["value"] for head, cell in zip(overview["columns"][1:], numbers, strict=True)
    }
    (drawn,) = blocks(document, "verdict_map")
    found = Counter(item["verdict"] for row in drawn["rows"] for cell in row["cells"] for item in cell)
    lines = Counter(
        line["verdict"] for entry in entries(document).values() for line in entry.get("lines", [entry])
    )
    assert found == lines
    absent = next(t for t in tables_of(document) if t["caption"] == "CBD: not run at this scale")
    assert absent["folded"] == "CBD: 2 claims not run at this scale"
    assert {**found, "not run at this scale": len(absent["rows"]), "all": found.total() + 2} == counted
    assert counted["all"] == 123 and set(CYCLE) == set(found)


def test_the_map_has_a_row_per_claim_a_column_per_poison_and_the_symbol_of_each_verdict(
    document: dict[str, Any],
) -> None:
    (drawn,) = blocks(document, "verdict_map")
    assert drawn["columns"] == [
        *("Adap-Blend", "BadNets", "Blend", "Bpp", "dynamic", "FTrojan"),
        *("label consistent", "SIG", "TaCT", "Trojan", "WaNet", "zebra"),
    ]
    assert [row["text"] for row in drawn["rows"]] == [*(f"h{n}-does" for n in range(10)), "alone"]
    signs = ["".join(item["sign"] for cell in row["cells"] for item in cell) for row in drawn["rows"]]
    assert signs[:3] == ["✓✕≈△†✓✕≈△†✓✕", "✕≈△†✓✕≈△†✓✕≈", "≈△†✓✕≈△†✓✕≈△"]
    alone = drawn["rows"][-1]["cells"]
    assert [len(cell) for cell in alone] == [0] * 7 + [1] + [0] * 4
    assert alone[7][0]["title"] == "scenes · SIG · CNN: supported, −8.0 points"
    assert [item["verdict"] for item in drawn["legend"]] == list(CYCLE)


def test_every_symbol_leads_to_its_own_line_of_the_page(document: dict[str, Any], text: str) -> None:
    page = Page(text)
    (drawn,) = blocks(document, "verdict_map")
    places = [item["anchor"] for row in drawn["rows"] for cell in row["cells"] for item in cell]
    lines = [line["anchor"] for entry in entries(document).values() for line in entry.get("lines", [entry])]
    assert sorted(places) == sorted(lines) and len(set(places)) == 121
    assert all(page.ids.count(place) == 1 for place in places)
    assert {f"#{place}" for place in places} <= set(page.links)
    by_anchor = {
        line["anchor"]: line for entry in entries(document).values() for line in entry.get("lines", ())
    }
    for row in drawn["rows"][:10]:
        for head, (item,) in zip(drawn["columns"], row["cells"], strict=True):
            line = by_anchor[item["anchor"]]
            assert (line["place"]["text"], line["verdict"]) == (head, item["verdict"])


def test_the_page_folds_twelve_lines_behind_their_counts(document: dict[str, Any], text: str) -> None:
    folded = re.findall(r"<details><summary>(\d+ cells: .*?)</summary>(.*?)</details>", text, re.DOTALL)
    assert [words for words, _ in folded] == [entries(document)[name]["summary"] for name in CLAIMS]
    assert all(len(re.findall(r"<tr id=", table)) == 12 for _, table in folded)
    assert text.count("The backdoor falls by 40 points.") == 3  # the claim, and twice its row of the map


@pytest.mark.parametrize(
    ("cells", "kind"), [(1, "cards"), (FEW, "cards"), (FEW + 1, "open"), (OPEN, "open"), (OPEN + 1, "folded")]
)
def test_three_cells_have_cards_four_a_table_and_seven_a_folded_one(
    tmp_path: Path, cells: int, kind: str
) -> None:
    found = report_of(crowd(tmp_path, cells))
    (block,) = blocks(found, "claims")
    assert len(block["papers"][0]["claims"]) == (10 * cells + 1 if kind == "cards" else 11)
    assert len(blocks(found, "verdict_map")) == (kind != "cards")
    many = [entry for entry in block["papers"][0]["claims"] if "lines" in entry]
    assert [entry["folded"] for entry in many] == [kind == "folded"] * (10 * (kind != "cards"))
    assert ("<details><summary>7 cells" in html.render(found, {})) == (kind == "folded")


def test_threat_models_are_lines_of_their_own_and_rows_of_the_map(tmp_path: Path) -> None:
    made = crowd(tmp_path, 0)
    for poison in ("bpp", "sig"):
        for eps in (0.1, 0.2):
            made.claim(**judged(1, poison, "supported", attack=f"worst_case linf {eps}"))
    found = report_of(made)
    entry = entries(found)[CLAIMS[1]]
    words = [f"worst case (L∞\N{NO-BREAK SPACE}{eps})" for eps in (0.1, 0.2)]
    assert [line["place"]["text"] for line in entry["lines"]] == [
        f"{poison} · {at}" for poison in ("Bpp", "SIG") for at in words
    ]
    assert entry["about"] == "attack success rate, CBD against standard"
    (drawn,) = blocks(found, "verdict_map")
    assert [(row["text"], row["threat"]) for row in drawn["rows"]] == [
        ("alone", ""),
        ("h1-does", words[0]),
        ("h1-does", words[1]),
    ]
    assert [[len(cell) for cell in row["cells"]] for row in drawn["rows"]] == [[0, 1], [1, 1], [1, 1]]


def test_a_verdict_without_a_run_has_a_circle_where_it_names_its_cell(tmp_path: Path) -> None:
    made = crowd(tmp_path, 4)
    made.claim(**judged(2, "zebra", "not run at this scale", effect="", low="", high="", gate="", seeds=""))
    (drawn,) = blocks(report_of(made), "verdict_map")
    assert drawn["columns"][-1] == "zebra"
    (item,) = drawn["rows"][2]["cells"][-1]
    assert (item["sign"], item["title"]) == ("○", "scenes · zebra · CNN: not run at this scale")


def test_a_map_too_wide_for_a_page_is_split(tmp_path: Path) -> None:
    made = crowd(tmp_path, 12)
    for model in ("resnet", "mlp"):
        for poison in POISONS:
            made.claim(**judged(1, poison, "supported", model=model))
    drawn = blocks(report_of(made), "verdict_map")
    assert [len(part["columns"]) for part in drawn] == [18, 18] and COLUMNS == 24
    assert drawn[0]["columns"][0] == "Adap-Blend · CNN"
    assert [part["caption"][-13:] for part in drawn] == ["(part 1 of 2)", "(part 2 of 2)"]
    assert sum(len(cell) for part in drawn for row in part["rows"] for cell in row["cells"]) == 121 + 24


def test_page_and_paper_draw_the_symbols_of_the_map() -> None:
    folder = files("deconfound.report").joinpath("templates")
    style, sheet = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "report.typ"))
    for slug, sign in SIGNS.items():
        assert f'{slug}: "{sign}"' in sheet
        rule = f'.badge.{slug}::before {{ content: "{sign} "; }}'
        assert rule in style or (slug == "notrun" and f'.badge::before {{ content: "{sign} "; }}' in style)
    assert set(SIGNS) == {slug for slug, _ in VERDICTS.values()} and len(set(SIGNS.values())) == len(SIGNS)


def test_paper_holds_every_line_and_symbol_on_a_few_sheets(document: dict[str, Any]) -> None:
    only = {**document, "sections": [section(document, "verdicts")]}
    sheets = PdfReader(BytesIO(pdf.render(only, {}))).pages
    paper = squeezed("\n".join(sheet.extract_text() for sheet in sheets))
    assert len(sheets) <= 12
    for entry in entries(document).values():
        assert squeezed(entry["statement"]) in paper
        for line in entry.get("lines", ()):
            for part in ("place", "effect", "gate"):
                assert squeezed(line[part]["text"]) in paper and squeezed(line[part]["note"]) in paper
    marks = {sign: paper.count(sign) for sign in "✓✕≈△"}
    (drawn,) = blocks(document, "verdict_map")
    found = Counter(item["sign"] for row in drawn["rows"] for cell in row["cells"] for item in cell)
    # besides the map: the key, the legend, a line per cell, and for the claim of one cell its badge
    assert marks == {sign: 2 * found[sign] + 2 for sign in marks}


@pytest.mark.parametrize(
    ("ids", "prefix"),
    [
        (["cbd-a", "cbd-b"], "cbd-"),
        (["cbd.a", "cbd.a"], ""),
        (["cbd-a", "at-b"], ""),
        (["cbd-h1-a", "cbd-h1-b"], "cbd-"),
        (["whole", "whole-a"], ""),
    ],
)
def test_a_map_leaves_out_the_first_word_that_all_claims_of_a_paper_share(
    ids: list[str], prefix: str
) -> None:
    assert shared_prefix(ids) == prefix


def test_a_forest_stacks_the_cells_of_a_claim_by_effect(tmp_path: Path) -> None:
    claims = claims_of(crowd(tmp_path))
    bands = banded([claim for claim in claims if claim.ran])
    assert [len(band) for band in bands] == [12] * 10 + [1]
    assert all([c.effect for c in band] == sorted(c.effect for c in band) for band in bands)
    assert rows(bands[0]) == 1 + 11 * CLOSE
    pages = sheets(bands)
    assert [band for page in pages for band in page] == bands
    assert all(sum(map(rows, page)) <= ROWS for page in pages) and len(pages) == 2
    figures = forests(claims)
    assert [figure.title for figure in figures] == [
        "Effects and margins: CBD (part 1 of 2)",
        "Effects and margins: CBD (part 2 of 2)",
    ]
    assert all("a bar per cell" in figure.caption for figure in figures)


def test_a_band_of_a_forest_never_outgrows_a_sheet(tmp_path: Path) -> None:
    made = crowd(tmp_path, 0)
    for number in range(MOST + 1):
        made.claim(**judged(1, "bpp", "supported", model=f"cnn{number}"))
    bands = banded([claim for claim in claims_of(made) if claim.ran])
    assert [len(band) for band in bands] == [1, 31, 30]
    assert 1 + CLOSE * (MOST - 1) <= ROWS
