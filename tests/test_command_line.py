"""The commands, as a stranger meets them: help, mistakes, and the whole chain by hand."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from deconfound import progress as bars
from deconfound import storage
from deconfound.__main__ import app, main
from deconfound.progress import progress
from experiments import ROOT, write

COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
RULES = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
)
# From one `rule` to the next line that is not indented.
BODIES = dict(re.findall(r"^rule (\w+):\n((?:[ \t].*\n|\n)*)", RULES + "\n", re.M))
WITH_SHELL = {name: body for name, body in BODIES.items() if re.search(r"^ {4}shell:", body, re.M)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"COLUMNS": "160", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(key, value)
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    command = COMMANDS[name]
    first = (command.help or "").split("\n\n")[0]
    assert re.match(r"[A-Z].{15,}[.\w)]", first) and first.rstrip().endswith("."), first
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.opts[0] in done.output
            assert parameter.opts == ["--help"] or len(parameter.help or "") > 10, parameter.name


def test_without_a_command_the_help_lists_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0 and all(name in done.output for name in COMMANDS)
    assert CliRunner().invoke(app, []).exit_code in (0, 2)


COMMAND = {"craft": "attack"}  # a rule that is another one on the training set


def test_the_commands_are_the_rules_of_the_workflow() -> None:
    assert {COMMAND.get(name, name) for name in WITH_SHELL} == set(COMMANDS)
    assert len(BODIES) == len(re.findall(r"^rule ", RULES, re.M)) > len(WITH_SHELL) >= 10


@pytest.mark.parametrize("name", WITH_SHELL)
def test_a_rule_calls_its_command_with_options_that_exist(name: str) -> None:
    shell = "".join(re.findall(r'"([^"]*)"', WITH_SHELL[name].partition("shell:")[2]))
    command = COMMAND.get(name, name)
    assert shell.startswith(f"python -m deconfound {command} ")
    options = {word for parameter in COMMANDS[command].params for word in parameter.opts}
    assert set(re.findall(r"--[a-z]+", shell)) <= options
    needed = {p.opts[0] for p in COMMANDS[command].params if p.required and isinstance(p, click.Option)}
    assert needed <= set(re.findall(r"--[a-z]+", shell))


@pytest.mark.parametrize("name", WITH_SHELL)
def test_a_rule_has_a_docstring_a_log_a_benchmark_threads_resources_and_a_message(name: str) -> None:
    body = WITH_SHELL[name]
    assert re.match(r'\s+"""[A-Z].*\."""', body)
    for word in ("log", "benchmark", "threads", "resources", "message", "output", "params"):
        assert re.search(rf"^ {{4}}{word}:", body, re.M), word
    assert "> {log} 2>&1" in body


@pytest.mark.parametrize("name", sorted(set(BODIES) - set(WITH_SHELL)))
def test_a_rule_without_a_command_only_collects(name: str) -> None:
    assert "localrule: True" in BODIES[name] and "output:" not in BODIES[name] and "run:" not in BODIES[name]


def call(*words: str | Path) -> None:
    """One command in this process."""
    sys.argv = ["deconfound", *map(str, words)]
    main()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory outside of any checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "300")
    storage.commit.cache_clear()
    yield tmp_path
    storage.commit.cache_clear()


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 1) -> str:
    """What a command says when it ends with a status and without a traceback; wrapped lines are joined."""
    with pytest.raises(SystemExit) as caught:
        call(*words)
    assert caught.value.code == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.replace("│", " ").split())


FETCH = {
    "source": {"kind": "digits", "test": 60},
    "val": 0.1,
    "slice": {"train": 150, "test": 40},
    "split_seed": 0,
}
BADNETS = {"poison": {"kind": "badnets", "rate": 0.1, "target": 2}}
PGD = {"kind": "pgd", "eps": 0.2, "steps": 2}
INTERPRET = {
    "mass": {"kind": "trigger_mass", "examples": 20, "attributions": {"map": {"kind": "saliency"}}},
    "trust": {"kind": "map_trust", "examples": 4, "attributions": {"map": {"kind": "saliency"}}},
}
EVALUATE = {
    "attacks": {"pgd": PGD, "transfer": {"kind": "transfer", "attack": "pgd", "crafted_by": PGD}},
    "curves": [{"name": "pgd", "axis": "eps", "values": [0.0, 0.1], "attack": PGD}],
    "examples": 30,
}
DEFENSES = {
    "standard": {"kind": "standard"},
    "cbd": {"kind": "cbd", "biased_epochs": 1},
    "trades": {"kind": "trades", "ascent": {"threat": {"eps": 0.2}, "step_size": 0.2, "steps": 1}},
}


def training(defense: str) -> tuple[str, str]:
    spec = {
        "model": {"kind": "small_cnn", "widths": [4], "hidden": 8},
        "training": {"epochs": 1, "batch_size": 64},
        "defense": DEFENSES[defense],
    }
    run = {"dataset": "digits", "poison": "badnets", "model": "cnn", "defense": defense, "seed": 3}
    return json.dumps(spec), json.dumps(run)


def chain() -> list[list[str]]:
    """Every command of the graph up to the evaluation, on files below the working directory."""
    clean, poisoned = "data/clean/digits", "data/poisoned/digits/badnets/seed3.npz"
    adversarial = "data/adversarial/pgd.npz"
    splits = ["--train", poisoned, "--val", f"{clean}/val.npz"]
    test = ["--test", f"{clean}/test.npz"]
    folders = {name: f"checkpoints/{name}" for name in DEFENSES}
    commands = [
        ["fetch", "--spec", json.dumps(FETCH), "--out", clean],
        [
            "poison",
            "--train",
            f"{clean}/train.npz",
            *test,
            "--spec",
            json.dumps(BADNETS),
            "--seed",
            "3",
            "--out",
            poisoned,
        ],
    ]
    for name, folder in folders.items():
        spec, run = training(name)
        command = "train" if name == "standard" else "defend"
        commands += [[command, *splits, "--spec", spec, "--run", run, "--out", folder]]
    base = ["--model", folders["standard"]]
    commands += [
        [
            "attack",
            *base,
            "--images",
            f"{clean}/test.npz",
            "--name",
            "pgd",
            "--spec",
            json.dumps(PGD),
            "--seed",
            "3",
            "--out",
            adversarial,
        ]
    ]
    more = ["--poisoned", poisoned, "--stored", f"transfer={adversarial}"]
    for name, folder in folders.items():
        out = ["--out", f"results/{name}/evaluation.json"]
        commands += [["evaluate", "--model", folder, *test, "--spec", json.dumps(EVALUATE), *more, *out]]
    looked = ["--poisoned", poisoned, "--out", "results/cbd/interpretation.json"]
    look = ["interpret", "--model", folders["cbd"], *test, *splits, "--spec", json.dumps(INTERPRET), *looked]
    return [*commands, look]


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


AGAIN = """
import json, sys
from deconfound.__main__ import main
for words in json.load(sys.stdin):
    sys.argv = ["deconfound", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
"""


def test_the_chain_works_by_hand_and_gives_the_same_bytes_in_another_process(here: Path) -> None:
    one, two = here / "one", here / "two"
    one.mkdir(), two.mkdir()
    os.chdir(one)
    for words in chain():
        with pytest.raises(SystemExit) as ended:
            call(*words)
        assert not ended.value.code, words
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN],
        input=json.dumps(chain()),
        cwd=two,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr

    made = checksums(one)
    assert made == checksums(two)
    assert set(made) == {
        *(f"data/clean/digits/{name}.npz" for name in ("train", "val", "test")),
        *(f"data/poisoned/digits/badnets/seed3.{kind}" for kind in ("npz", "json")),
        "data/adversarial/pgd.npz",
        *(
            f"checkpoints/{d}/{f}"
            for d in DEFENSES
            for f in ("model.safetensors", "run.json", "trace.npz", "parts.safetensors")
        ),
        *(f"results/{d}/evaluation.json" for d in DEFENSES),
        "results/cbd/interpretation.json",
        "results/cbd/pictures.npz",
        *(name for name in made if name.startswith("scratch/")),
    }
    assert not [name for name in made if name.endswith((".part", ".safetensors")) and "scratch" in name]
    check_artifacts(one)
    os.chdir(one)
    changed = [word.replace('"seed": 3', '"seed": 4') for word in chain()[2]]
    with pytest.raises(SystemExit):
        call(*changed)
    assert (
        checksums(one)["checkpoints/standard/model.safetensors"]
        != made["checkpoints/standard/model.safetensors"]
    )


def check_artifacts(folder: Path) -> None:
    """The chain's files have the arrays and keys that other parts read."""
    clean = {
        name: storage.read_npz(folder / f"data/clean/digits/{name}.npz") for name in ("train", "val", "test")
    }
    assert clean["train"]["x"].shape == (150, 1, 8, 8) and clean["train"]["x"].dtype == "uint8"
    assert (len(clean["test"]["y"]), len(clean["val"]["y"]), len(clean["test"]["classes"])) == (40, 174, 10)
    poisoned = storage.read_npz(folder / "data/poisoned/digits/badnets/seed3.npz")
    assert poisoned["mask"].sum() == 15 and (poisoned["test_y"] == 2).all() and len(poisoned["test_x"]) == 40
    crafted = storage.read_npz(folder / "data/adversarial/pgd.npz")
    assert crafted["x_adv"].dtype == "float32" and crafted["x_adv"].shape == (40, 1, 8, 8)
    assert {"x", "y", "before", "after", "classes", "about"} <= set(crafted)
    about = storage.read_json(folder / "checkpoints/cbd/run.json")
    assert about["run"] == {
        "dataset": "digits",
        "poison": "badnets",
        "model": "cnn",
        "defense": "cbd",
        "seed": 3,
    }
    assert about["shape"] == [1, 8, 8] and [row["epoch"] for row in about["history"]["model"]] == [1]
    train = folder / "data/poisoned/digits/badnets/seed3.npz"
    assert about["provenance"]["inputs"]["train"]["sha256"] == storage.sha256(train)
    read = storage.read_json(folder / "results/cbd/interpretation.json")
    assert {one["of"]: one["kind"] for one in read["readings"]} == {
        "mass": "trigger_mass",
        "trust": "map_trust",
    }
    assert read["run"]["defense"] == "cbd" and set(read["notes"]) == {"mass", "trust"}
    assert {"train", "val", "test", "poisoned", "model"} <= set(read["provenance"]["inputs"])
    shown = storage.read_npz(folder / "results/cbd/pictures.npz")
    assert shown["mass.stamped.images"].shape == (4, 1, 8, 8) and len(shown["trust.curves.map"]) == 4
    found = storage.read_json(folder / "results/cbd/evaluation.json")
    names = {(e["metric"], e["attack"], e["curve"]) for e in found["entries"]}
    assert names == {
        ("clean_accuracy", "none", ""),
        ("robust_accuracy", "pgd", ""),
        ("robust_accuracy", "transfer", ""),
        ("robust_accuracy", "worst_case", ""),
        ("robust_accuracy", "pgd", "eps"),
        ("asr", "badnets", ""),
        ("triggered_accuracy", "badnets", ""),
        ("target_recall", "none", ""),
    }
    assert {e["total"] for e in found["entries"] if e["metric"] == "robust_accuracy"} == {30}
    assert sorted(found["measures"]) == [
        "biased_auroc",
        "biased_loss_clean",
        "biased_loss_poisoned",
        "first_weight_ratio",
        "training_cost",
    ]


def test_a_plan_lists_the_runs_on_the_screen_or_everything_in_a_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(here / "tiny.yaml")
    with pytest.raises(SystemExit) as ended:
        call("plan", path, "--overrides", '{"seeds": [5]}')
    out, err = capsys.readouterr()
    assert not ended.value.code
    assert out.splitlines() == [
        "digits/badnets/cnn/cbd/seed5",
        "digits/badnets/cnn/standard/seed5",
        "digits/clean/cnn/standard/seed5",
        "digits/clean/cnn/trades/seed5",
    ]
    assert err == "4 runs (2 base), 1 adversarial sets\n"
    with pytest.raises(SystemExit):
        call("plan", path, "--out", here / "plan.json")
    assert capsys.readouterr().out == ""
    assert len(storage.read_json(here / "plan.json")["evaluations"]) == 8


BAD_SPECS = {
    "{": "expected JSON",
    "[1]": "expected a JSON object, got list",
    "3": "got int",
    "@none.json": "none.json",
}


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_a_malformed_spec_is_a_usage_error(spec: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "fetch", "--spec", spec, "--out", "x", status=2)
    assert "--spec" in said and BAD_SPECS[spec] in said
    assert list(here.iterdir()) == []


def test_a_spec_is_read_from_a_file(here: Path) -> None:
    (here / "spec.json").write_text(json.dumps(FETCH))
    with pytest.raises(SystemExit) as ended:
        call("fetch", "--spec", "@spec.json", "--out", "data")
    assert not ended.value.code
    assert len(storage.read_npz(here / "data" / "train.npz")["y"]) == 150


@pytest.fixture
def prepared(here: Path) -> Path:
    """A working directory with data and a trained base model."""
    for words in chain()[:3]:
        with pytest.raises(SystemExit) as ended:
            call(*words)
        assert not ended.value.code
    return here


def replaced(words: list[str], option: str, value: str) -> list[str]:
    place = words.index(option) + 1
    return [*words[:place], value, *words[place + 1 :]]


def test_a_spec_or_run_without_its_parts_is_refused(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {words[0]: words for words in chain()}
    for name in ("fetch", "poison", "train", "defend", "attack", "evaluate"):
        said = refused(capsys, *replaced(commands[name], "--spec", "{}"))
        assert said.startswith("deconfound: error: "), name
    for name in ("train", "defend"):
        assert "seed" in refused(capsys, *replaced(commands[name], "--run", '{"dataset": "digits"}'))
    for content in ("{}", "[1]", "3"):
        (prepared / "foreign.json").write_text(content)
        for name in ("claims", "report"):
            assert "foreign.json" in refused(capsys, name, "--plan", "foreign.json", "--out", "out")
    raet = {"poison": BADNETS["poison"] | {"raet": 1}}
    for name, spec in {"poison": raet, "attack": PGD | {"raet": 1}}.items():
        assert "raet: unknown key" in refused(capsys, *replaced(commands[name], "--spec", json.dumps(spec)))


FILES = [
    ("poison", "--train"),
    ("poison", "--test"),
    ("train", "--train"),
    ("train", "--val"),
    ("defend", "--train"),
    ("attack", "--model"),
    ("attack", "--images"),
    ("evaluate", "--model"),
    ("evaluate", "--test"),
    ("evaluate", "--poisoned"),
]


def test_a_missing_or_foreign_file_is_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (prepared / "foreign.npz").write_text("<html>")
    commands = {words[0]: words for words in chain()}
    commands["evaluate"] = commands["evaluate"][: commands["evaluate"].index("--stored")] + [
        "--out",
        "e.json",
    ]
    commands["evaluate"] = replaced(commands["evaluate"], "--model", "checkpoints/standard")
    commands["evaluate"] = replaced(
        commands["evaluate"], "--spec", '{"attacks": {}, "curves": [], "examples": null}'
    )
    for command, option in FILES:
        for file in ("missing.npz", "foreign.npz"):
            said = refused(capsys, *replaced(commands[command], option, file))
            assert said.startswith("deconfound: error: ") and file in said, (command, option)
    for command in ("claims", "report"):
        assert "foreign.npz" in refused(capsys, command, "--plan", "foreign.npz", "--out", "out")


def test_weights_of_another_architecture_are_refused(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = prepared / "checkpoints/standard/run.json"
    about = json.loads(path.read_text())
    about["spec"]["model"]["hidden"] = 9
    path.write_text(json.dumps(about))
    words = next(words for words in chain() if words[0] == "attack")
    assert "weights do not fit the architecture" in refused(capsys, *words)


def test_a_transfer_needs_a_stored_set_of_its_name(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next(words for words in chain() if words[0] == "evaluate")
    assert "NAME=FILE" in refused(capsys, *replaced(words, "--stored", "data/clean/digits/test.npz"))
    place = words.index("--stored")
    without = replaced(
        [*words[:place], *words[place + 2 :]], "--poisoned", "data/poisoned/digits/badnets/seed3.npz"
    )
    said = refused(capsys, *without)
    assert "NAME=FILE" in said and "transfer" in said


def test_an_interrupted_command_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deconfound.__main__.app", interrupt)
    assert "run the same command again" in refused(capsys, status=130)


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_at_the_start_every_so_often_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = clock(monkeypatch)
    with progress("training", 100) as tick:
        for step in range(100):
            now[0] = float(step)
            tick(f"loss {step}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 1/100 loss 0 (0 s)",
        "training: 21/100 loss 20 (20 s)",
        "training: 41/100 loss 40 (40 s)",
        "training: 61/100 loss 60 (60 s)",
        "training: 81/100 loss 80 (80 s)",
        "training: 100/100 loss 99 (99 s)",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress("training", 3) as tick:
        tick("loss 1")
        tick("loss 2", advance=2)
    shown = sys.stderr.getvalue()
    assert "training" in shown and "3/3" in shown and "loss 2" in shown


@pytest.mark.parametrize("kills", [2])
def test_an_evaluation_that_is_killed_goes_on_to_the_same_bytes(prepared: Path, kills: int) -> None:
    spec = {
        "attacks": {"a": {"kind": "apgd", "eps": 0.001, "steps": 50, "restarts": 8}},
        "curves": [],
        "examples": None,
    }
    words = ["evaluate", "--model", "checkpoints/standard", "--test", "data/clean/digits/test.npz"]
    words += ["--spec", json.dumps(spec), "--threads", "1", "--gpu", "0"]
    command = [sys.executable, "-c", SMALL_BATCHES, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        process = subprocess.Popen([*command, "--out", "killed.json"], env=environment)
        known = [path.read_bytes() for path in prepared.glob("scratch/evaluate-*.json")]
        deadline = time.monotonic() + 60
        while [path.read_bytes() for path in prepared.glob("scratch/evaluate-*.json")] == known:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not (prepared / "killed.json").exists() and list(prepared.glob("scratch/evaluate-*.json"))
    subprocess.run([*command, "--out", "killed.json"], env=environment, check=True)
    assert not list(prepared.glob("scratch/evaluate-*.json"))
    subprocess.run([*command, "--out", "whole.json"], env=environment, check=True)
    assert (prepared / "killed.json").read_bytes() == (prepared / "whole.json").read_bytes()


SMALL_BATCHES = """
import deconfound.engine
deconfound.engine.batch_size = lambda x: 1
from deconfound.__main__ import main
main()
"""
