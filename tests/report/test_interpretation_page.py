"""The page of interpretations: nothing dropped, every number beside its controls, both renderings alike."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import Page, squeezed, tables_of, words_of
from pypdf import PdfReader
from synthetic_experiment import Experiment, make
from synthetic_interpretations import EACH, NOTES, SEEDS, add_interpretations

from deconfound.errors import DataError
from deconfound.graph import Graph
from deconfound.interpretations import INTERPRETATIONS
from deconfound.report.build import build
from deconfound.report.inputs import Inputs, Interpretation, read
from deconfound.report.interpretation import page
from deconfound.report.interpretation.files import read_all
from deconfound.report.interpretation.kinds import LAYOUTS, layout_of
from deconfound.report.interpretation.lights import LIGHTS, detection, lamps, masking, tail, trigger
from deconfound.report.interpretation.taxonomy import BOXES
from deconfound.report.interpretation.vocabulary import shown
from deconfound.report.words import Order
from experiments import experiment as checked

Document = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, list[Path]]:
    found = Experiment(tmp_path_factory.mktemp("interpretations"))
    return found, add_interpretations(found)


@pytest.fixture(scope="module")
def inputs(made: tuple[Experiment, list[Path]]) -> Inputs:
    return read(made[0].arguments()["tables"], [])


@pytest.fixture(scope="module")
def document(made: tuple[Experiment, list[Path]], inputs: Inputs) -> Document:
    return page.assemble(inputs, read_all(made[1]), made[0].config, root=made[0].root)


@pytest.fixture(scope="module")
def written(made: tuple[Experiment, list[Path]], inputs: Inputs) -> Path:
    out = made[0].root / "reports" / "pages"
    page.write(inputs, made[1], made[0].config, made[0].root, out)
    return out


def section(document: Document, name: str) -> Document:
    found: Document = next(part for part in document["sections"] if part["id"] == name)
    return found


def cells(part: Any) -> list[Document]:
    return [cell for table in tables_of(part) for line in table["rows"] for cell in line]


def test_every_number_of_the_table_is_on_the_page_in_a_cell_or_below_one(
    document: Document, inputs: Inputs
) -> None:
    everything = cells(document)
    values = {round(cell["value"], 12) for cell in everything if "value" in cell}
    below = " ".join(cell.get("rank", "") for cell in everything)
    assert len(inputs.interpretation) > 300
    for row in inputs.interpretation:
        layout = layout_of(row.kind)
        text = shown(row.value, layout.word(row.metric, row.condition, row.subject).form)
        assert round(row.value, 12) in values or f"\N{NO-BREAK SPACE}{text}" in below, row


def test_noise_and_the_other_image_stand_in_the_cell_of_every_shift(
    document: Document, inputs: Inputs
) -> None:
    rows = {
        (row.group, row.subject, row.condition, row.metric): row.value
        for row in inputs.interpretation
        if row.kind == "attribution_shift"
    }
    for (group, subject, condition, metric), value in rows.items():
        if not condition.startswith(("success", "failure")) or metric not in ("spearman", "top_k"):
            continue
        found = [c for c in cells(section(document, "shift")) if c.get("value") == value]
        rule = condition.removeprefix("success_") if condition != "failure" else "true"
        form = layout_of("attribution_shift").word(metric).form
        noise = shown(rows[group, subject, f"noise_{rule}", metric], form)
        floor = shown(rows[group, subject, "floor", metric], form)
        wanted = f"noise\N{NO-BREAK SPACE}{noise}, other image\N{NO-BREAK SPACE}{floor}"
        assert found and all(cell["rank"] == wanted for cell in found)


def test_a_kind_without_words_of_its_own_is_shown_with_its_own_names(document: Document) -> None:
    table = next(tables_of(section(document, "others")))
    assert table["columns"][1]["text"] == "strange number"
    assert "unheard_of" not in LAYOUTS and len(table["rows"]) == 1
    folded = [block for block in section(document, "others")["blocks"] if block["kind"] == "fold"]
    assert len(folded) == 3  # the other models


def test_a_map_that_fails_a_check_is_marked_in_every_table_and_picture(
    document: Document, written: Path
) -> None:
    for name in ("shift", "map_trust", "causal"):
        for table in tables_of(section(document, name)):
            for line in table["rows"]:
                doubts = [cell["doubt"] for cell in line if "doubt" in cell]
                asked = any(cell["text"] == "saliency" for cell in line[:2])
                assert doubts == ["This map failed a check: random weights"] * asked
    text = (written / "interpretation.html").read_text()
    captions = re.findall(r"<figcaption><b>(.*?)</b>(.*?)</figcaption>", text, re.DOTALL)
    marked = [title for title, _ in captions if "saliency" in title]
    assert marked and all("†" in title for title in marked)
    assert not any("†" in title for title, _ in captions if "Grad-CAM" in title)


def test_what_is_missing_is_listed_with_its_reason(document: Document) -> None:
    words = json.dumps(section(document, "missing"), ensure_ascii=False)
    for kind in set(LAYOUTS) - set(EACH):
        assert f"{LAYOUTS[kind].title}: No study of this experiment asks for it." in words
    assert LAYOUTS["map_trust"].title + ":" not in words
    assert f"{NOTES['trigger_mass'][0]} (4 of 8 runs)" in words
    assert "No training set of this experiment is poisoned" in words


def test_the_page_and_the_paper_hold_every_row_of_every_table(document: Document, written: Path) -> None:
    drawn = {tuple(map(squeezed, row)) for row in Page((written / "interpretation.html").read_text()).rows}
    paper = squeezed("".join(s.extract_text() for s in PdfReader(written / "interpretation.pdf").pages))
    rows = [row for table in tables_of(document) for row in table["rows"]]
    assert len(rows) > 150
    for row in rows:
        assert tuple(map(words_of, row)) in drawn
        assert squeezed(row[0]["text"]) in paper


def test_links_of_the_page_lead_somewhere(written: Path) -> None:
    found = Page((written / "interpretation.html").read_text())
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert {link for link in found.links if not link.startswith("#")} <= {
        f"../robustness.html#{name}" for name in ("evasion", "backdoor")
    }
    assert all(address.startswith(("#", "data:")) for address in found.loads)


def test_the_same_inputs_give_the_same_page(
    made: tuple[Experiment, list[Path]], inputs: Inputs, written: Path, tmp_path: Path
) -> None:
    page.write(inputs, made[1], made[0].config, made[0].root, tmp_path)
    for name in ("interpretation.html", "interpretation.pdf"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    assert str(made[0].root) not in (written / "interpretation.html").read_text()


def test_every_run_stands_with_the_command_that_reads_it_again(document: Document) -> None:
    runs = section(document, "evidence")["blocks"][0]["items"]
    commands = {line["command"] for item in runs for line in item["seeds"]}
    assert len(commands) == 4 * len(SEEDS)
    assert "snakemake results/scenes/badnets/cnn/cbd/seed1/interpretation.json --cores all" in commands


def test_a_foreign_interpretation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "interpretation.json"
    path.write_text('{"run": {}}')
    with pytest.raises(DataError, match=str(path)):
        read_all([path])


def test_the_report_has_lights_and_detectors_with_a_link_and_no_columns_of_readings(tmp_path: Path) -> None:
    made = make(tmp_path, evasion=False)
    add_interpretations(made, "digits")
    row = next(r for r in made.rows["interpretation"] if r["total"] == 0)
    name = ".".join(row[part] for part in ("interpretation", "subject", "condition", "metric"))
    place = {part: row[part] for part in ("dataset", "poison", "model", "defense")}
    made.rows["measures"].append({**place, "seed": 0, "measure": name, "value": 0.5})
    build(**made.arguments())
    document = json.loads((tmp_path / "reports" / "report.json").read_text())
    short = section(document, "interpretation")
    assert [block["caption"] for block in short["blocks"] if block["kind"] == "table"] == [
        "Verdict lights",
        "digits · CNN: detecting attacked images: models side by side",
    ]
    assert short["blocks"][-1]["file"] == "pages/interpretation.html"
    rest = [part for part in document["sections"] if part["id"] not in ("interpretation", "making")]
    assert row["metric"] not in json.dumps([t["columns"] for part in rest for t in tables_of(part)])
    assert not (tmp_path / "reports" / "pages").exists()  # no records, no page


def reading(kind: str, subject: str, condition: str, metric: str, value: float) -> Interpretation:
    place = {"dataset": "d", "poison": "p", "model": "m", "defense": "e", "interpretation": kind}
    about = {"kind": kind, "subject": subject, "condition": condition, "metric": metric}
    numbers = {"value": value, "low": value, "high": value}
    return Interpretation(**place, **about, **numbers, total=9, seeds=1)


def trusted_in(*numbers: float) -> Sequence[Interpretation]:
    gain, ratio = numbers
    return [
        reading("trigger_mass", "trigger", "deleted", "gain", gain),
        reading("trigger_mass", "saliency", "stamped_hoped", "ratio", ratio),
    ]


def test_lights_turn_at_their_thresholds_and_say_where_map_and_intervention_disagree() -> None:
    assert trigger([])["slug"] == detection([])["slug"] == masking([])["slug"] == tail([])["slug"] == "notrun"
    assert trigger(trusted_in(0.09, 1.0))["slug"] == "supported"
    assert trigger(trusted_in(0.11, 9.0))["slug"] == "contradicted"
    assert "disagrees" not in trigger(trusted_in(0.5, 9.0))["note"] + trigger(trusted_in(0.0, 1.0))["note"]
    assert "disagrees" in trigger(trusted_in(0.5, 1.0))["note"]
    assert "disagrees" in trigger(trusted_in(0.0, 9.0))["note"]
    both = [
        reading("adversarial_detection", n, "adaptive", "evaded", v) for n, v in (("lid", 0.05), ("x", 0.9))
    ]
    assert detection(both)["slug"] == "supported" and "best: LID" in detection(both)["note"]
    assert detection(both[1:])["slug"] == "contradicted"
    gap = reading("robust_interpretability", "masking", "alarm", "gap", 0.06)
    assert masking([gap])["slug"] == "contradicted"
    low = reading("influential_examples", "self_influence", "train", "auroc_low", 0.95)
    assert tail([low])["slug"] == "contradicted" and "low tail" in tail([low])["note"]


def test_a_light_has_a_column_where_some_model_was_asked_and_a_line_where_none_was() -> None:
    assert list(LIGHTS) == ["trigger", "detection", "masking", "trust", "tail"]
    gap = reading("robust_interpretability", "masking", "alarm", "gap", 0.06)
    low = reading("influential_examples", "self_influence", "train", "auroc_low", 0.95)
    (shown, asked) = lamps(SimpleNamespace(interpretation=[gap, low], summary=[]), Order({}))  # type: ignore[arg-type]
    assert [head["text"] for head in shown["columns"]] == ["model", "hidden gradients", "influence tail"]
    assert [cell["slug"] for cell in shown["rows"][0][1:]] == ["contradicted", "contradicted"]
    assert [note["text"] for note in shown["notes"]] == [
        "Measured for no model of this experiment: reliance on the trigger, adaptive attacker and maps."
    ]
    assert len(asked["items"]) == 2
    other = reading("components", "last_conv", "clean", "silent", 0.0)
    assert lamps(SimpleNamespace(interpretation=[other], summary=[]), Order({})) == []  # type: ignore[arg-type]


def test_every_kind_has_words_and_every_box_a_question_and_a_place() -> None:
    assert set(INTERPRETATIONS) <= set(LAYOUTS)
    assert list(BOXES) == re.findall(r"\w+", "F0 F1 F2 A1 A2 A3 D1 D2 M0 M1 A4 A5 D3 D4 D5 R1 R2 R3 R4")
    for box in BOXES.values():
        assert box.question.endswith("?") and box.kinds and box.places
    known = {kind for box in BOXES.values() for kind in box.kinds}
    assert set(LAYOUTS) - known <= {"attribution_shift", "map_trust"}  # they test the maps of F0 and F1
    for layout in LAYOUTS.values():
        assert len(layout.lead) > 200


def test_the_pages_of_an_experiment_with_interpretations_are_listed() -> None:
    changes = {
        "interpretations": {"style": {"kind": "style_dependence"}},
        "studies.evasion.interpretations": ["style"],
    }
    found = Graph(checked(changes)).pages
    assert found == ["reports/pages/interpretation.html", "reports/pages/interpretation.pdf"]


def test_the_box_at_the_head_has_the_rates_of_the_report(tmp_path: Path) -> None:
    made = make(tmp_path, evasion=False)
    add_interpretations(made)
    inputs = read(made.arguments()["tables"], [])
    document = page.assemble(inputs, [], made.config)
    table = next(tables_of(section(document, "lights")))
    assert [head["text"] for head in table["columns"]][1:3] == ["clean accuracy", "attack success rate"]
    rates = {row.value for row in inputs.summary if row.metric == "asr"}
    assert {line[2]["value"] for line in table["rows"] if "value" in line[2]} <= rates
    assert any("value" in line[2] for line in table["rows"])
