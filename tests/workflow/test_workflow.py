"""The whole graph on a tiny experiment, as a user runs it: Snakemake, DVC, edits, a clone elsewhere."""

import csv
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import Project
from pypdf import PdfReader

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

AFTER = {"plan": 1, "claims": 1, "report": 1, "timings": 1}  # what any change of an experiment leads to
RESULTS = {"claims": 1, "report": 1, "timings": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of Snakemake."""
    project = Project.copy(tmp_path_factory.mktemp("snakemake") / "project")
    project.run("snakemake", "--cores", "2")
    return project


@pytest.fixture
def edited(made: Project) -> Iterator[Project]:
    """The finished run, whose files are put back after the test."""
    names = ("config.yaml", "src/deconfound/defenses/cbd.py", "src/deconfound/defenses/trades.py")
    before = {name: (made.folder / name).read_text() for name in names}
    yield made
    for name, text in before.items():
        (made.folder / name).write_text(text)


@pytest.fixture(scope="module")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository in which `dvc repro` built everything and pushed it to a folder."""
    folder = tmp_path_factory.mktemp("dvc")
    project = Project.copy(folder / "project")
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    project.run("dvc", "remote", "add", "-d", "store", str(folder / "store"))
    project.run("dvc", "repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "Run the experiment")
    project.run("dvc", "push", "-q")
    return project


def test_one_command_makes_both_reports_and_they_hold_the_same_verdicts(made: Project) -> None:
    page = (made.folder / "reports" / "robustness.html").read_text()
    paper = "".join(
        leaf.extract_text() for leaf in PdfReader(made.folder / "reports" / "robustness.pdf").pages
    )
    table = (made.folder / "reports" / "tables" / "claims.csv").read_text()
    assert "at-beats-standard" in table
    for text in (page, paper):
        assert "Adversarial training raises worst-case robust accuracy" in " ".join(text.split())


def test_every_metric_of_the_summary_lies_inside_its_interval(made: Project) -> None:
    with (made.folder / "reports" / "tables" / "summary.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    backdoor = {"asr", "triggered_accuracy", "target_recall", "detection_rate", "false_alarm_rate"}
    assert {"clean_accuracy", "robust_accuracy", *backdoor} == {c["metric"] for c in cells}
    assert all(0 <= float(c["low"]) <= float(c["value"]) <= float(c["high"]) <= 1 for c in cells)
    assert {c["seeds"] for c in cells} == {"2"}


def test_a_finished_run_has_nothing_to_be_done(made: Project) -> None:
    assert made.planned() == {}


def test_every_job_left_a_log_and_a_benchmark(made: Project) -> None:
    logs = {
        path.parts[-len(path.relative_to(made.folder / "logs").parts)]
        for path in (made.folder / "logs").rglob("*.log")
    }
    benchmarks = {
        path.relative_to(made.folder / "timings").parts[0]
        for path in (made.folder / "timings").rglob("*.tsv")
    }
    rules = {
        "fetch",
        "poison",
        "train",
        "defend",
        "attack",
        "evaluate",
        "plan",
        "claims",
        "report",
        "timings",
    }
    assert logs == rules == benchmarks


def test_two_runs_in_different_folders_give_the_same_bytes(made: Project, versioned: Project) -> None:
    first, second = made.digests(), versioned.digests()
    assert [name for name in first if first[name] != second.get(name)] == []
    assert set(first) == set(second)
    assert {Path(name).suffix for name in first} >= {
        ".npz",
        ".safetensors",
        ".json",
        ".html",
        ".pdf",
        ".svg",
        ".csv",
    }


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(made: Project, tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project")
    running = project.start("snakemake", "--cores", "2")
    deadline = time.monotonic() + 300
    while not list(project.folder.glob("checkpoints/**/run.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (project.folder / "reports" / "robustness.html").exists()
    assert "LockException" in project.run("snakemake", "--cores", "2", status=1)
    project.run("snakemake", "--unlock")
    project.run("snakemake", "--cores", "2")
    assert project.digests() == made.digests()
    assert list(project.folder.rglob("*.part")) == []


def test_another_hyperparameter_of_one_defense_reruns_that_defense_and_what_follows(edited: Project) -> None:
    edited.edit("config.yaml", "biased_epochs: 1", "biased_epochs: 2")
    assert edited.planned() == {"defend": 2, "evaluate": 2} | AFTER


def test_another_eps_of_one_attack_reruns_what_uses_it_and_no_training(edited: Project) -> None:
    edited.edit("config.yaml", "pgd: {kind: pgd, eps: 0.1, steps: 3}", "pgd: {kind: pgd, eps: 0.1, steps: 4}")
    assert edited.planned() == {"attack": 2, "evaluate": 6} | AFTER


def test_an_edit_of_one_defense_reruns_that_defense_and_what_follows(edited: Project) -> None:
    edited.edit("src/deconfound/defenses/cbd.py", "+ clean + 1e-8", "+ clean + 2e-8")
    assert edited.planned() == {"defend": 2, "evaluate": 2} | RESULTS


def test_an_edit_of_a_defense_that_nobody_uses_reruns_nothing(edited: Project) -> None:
    edited.edit("src/deconfound/defenses/trades.py", "self.beta * kl", "1.0 * self.beta * kl")
    assert edited.planned() == {}


def test_a_comment_reruns_nothing(edited: Project) -> None:
    path = edited.folder / "src/deconfound/defenses/cbd.py"
    path.write_text("# A remark.\n" + path.read_text())
    assert edited.planned() == {}


def test_a_faulty_experiment_is_refused_before_any_job(edited: Project) -> None:
    edited.edit("config.yaml", "kind: cbd,", "kind: cdb,")
    said = edited.run("snakemake", "--cores", "2", status=1)
    assert "config.yaml: defenses.cbd.kind: expected a known kind" in said
    assert "did you mean 'cbd'?" in said
    assert "Traceback" not in said


def test_the_workflow_s_own_report_has_captions_and_categories(made: Project) -> None:
    made.run("snakemake", "--report", "workflow.html")
    text = (made.folder / "workflow.html").read_text()
    assert "Verdicts on the claims of the source papers" in text
    assert '"Tables"' in text or "Tables" in text


def test_a_second_dvc_repro_does_nothing(versioned: Project) -> None:
    said = versioned.run("dvc", "repro")
    assert len(re.findall(r"didn't change, skipping", said)) == 6
    assert "Data and pipelines are up to date" in said
    assert versioned.planned() == {}


def test_dvc_reads_the_metrics(versioned: Project) -> None:
    found = json.loads(versioned.run("dvc", "metrics", "show", "--json"))
    assert "digits" in json.dumps(found)


def test_a_clone_after_dvc_pull_has_nothing_to_do_in_either_engine(
    versioned: Project, tmp_path: Path
) -> None:
    versioned.run("git", "clone", "-q", str(versioned.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert clone.planned() == {}
    assert "Data and pipelines are up to date" in clone.run("dvc", "status")
    assert clone.digests() == versioned.digests()


def test_in_dvc_too_an_edit_of_one_defense_changes_its_training_and_the_evaluation_that_knows_it(
    versioned: Project,
) -> None:
    path = versioned.folder / "src/deconfound/defenses/cbd.py"
    before = path.read_text()
    versioned.edit("src/deconfound/defenses/cbd.py", "+ clean + 1e-8", "+ clean + 2e-8")
    changed = set(re.findall(r"^(\w+):$", versioned.run("dvc", "status"), flags=re.MULTILINE))
    path.write_text(before)
    assert changed == {"defenses", "evaluations"}
