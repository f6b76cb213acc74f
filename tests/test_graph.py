import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import deconfound
from deconfound import fingerprint as source
from deconfound.config import read
from deconfound.graph import Graph, run_of
from experiments import ROOT, changed, experiment

SPLITS = [f"data/clean/digits/{name}.npz" for name in ("train", "val", "test")]
FILES = ("model.safetensors", "run.json", "trace.npz", "parts.safetensors")


class Wildcards:
    """As Snakemake hands them over: everything is text."""

    def __init__(self, run: str, attack: str = "") -> None:
        self.dataset, self.poison, self.model, self.defense, seed = run.split("/")
        self.seed, self.attack = seed.removeprefix("seed"), attack


CLEAN = Wildcards("digits/clean/cnn/trades/seed1", "pgd")
POISONED = Wildcards("digits/badnets/cnn/cbd/seed0")


def graph(changes: dict[str, Any] | None = None) -> Graph:
    return Graph(experiment(changes))


def jobs(made: Graph) -> dict[str, list[Any]]:
    """Every parameter of every job of an experiment, as the rules ask for them, by the name of the question."""
    found: dict[str, list[Any]] = {}

    def ask(names: list[str], wildcards: Any) -> None:
        for name in names:
            found.setdefault(name, []).append(getattr(made, name)(wildcards))

    for run in made.runs:
        wildcards = Wildcards(str(run))
        names = ["train_spec", "run_text", "train_code", "start_option", "evaluate_spec", "evaluate_code"]
        ask(
            [*names, "model_folder", "scoring_options", "fetch_spec", "fetch_code", "training_set"], wildcards
        )
        if run.poison != "clean":
            ask(["poison_spec", "poison_code"], wildcards)
    for run in made.plan.interpreted():
        names = ["interpretation_spec", "interpretation_options", "interpretation_code", "model_folder"]
        ask(names, Wildcards(str(run)))
    for run, attack in made.plan.crafted():
        ask(["attack_spec", "attack_code"], Wildcards(str(run), attack))
    for step in ("claims", "report"):
        found.setdefault("step_code", []).append(made.step_code(step))
    found["digests"] = [made.templates_digest(), made.listing_digest()]
    return found


def test_wildcards_are_a_run() -> None:
    assert str(run_of(CLEAN)) == "digits/clean/cnn/trades/seed1"
    assert run_of(CLEAN).seed == 1


@pytest.mark.parametrize(
    "made", [Graph(experiment()), Graph(read(ROOT / "config.yaml"))], ids=["tiny", "default"]
)
def test_every_parameter_of_a_job_is_a_plain_string_that_is_the_same_when_asked_again(made: Graph) -> None:
    found = jobs(made)
    assert {type(value) for values in found.values() for value in values} == {str}
    assert jobs(made) == found
    for name in ("train_spec", "run_text", "evaluate_spec", "fetch_spec", "poison_spec", "attack_spec"):
        assert all(json.dumps(json.loads(text), sort_keys=True) == text for text in found[name])
    for name in ("train_code", "evaluate_code", "fetch_code", "poison_code", "attack_code", "step_code"):
        assert all(len(text) == 16 and int(text, 16) >= 0 for text in found[name])


def paths(made: Graph) -> list[str]:
    listing = made.listing()
    several = made.data, made.crafted, made.evaluations, made.weights(made.runs), listing["runs"]
    return sorted(path for found in several for path in found)


def test_paths_contain_names_and_never_values() -> None:
    values = {
        "datasets.digits.test": 137,
        "models.cnn.widths": [6, 7],
        "recipes.short.lr": 0.0625,
        "poisons.badnets.rate": 0.25,
        "attacks.pgd.eps": "3/7",
        "defenses.cbd.biased_epochs": 4,
    }
    assert paths(graph(values)) == paths(graph())
    assert paths(
        graph({"attacks.pgd2": {"kind": "pgd", "eps": 1}, "studies.evasion.keep": ["pgd2"]})
    ) != paths(graph())


def test_base_and_defended_runs_part_all_runs() -> None:
    made = graph()
    assert [str(run) for run in made.base] == [
        f"digits/{poison}/cnn/standard/seed{seed}" for poison in ("badnets", "clean") for seed in (0, 1)
    ]
    assert sorted(made.base + made.defended) == made.runs


def test_files_of_a_run() -> None:
    made = graph({"defenses.cbd.starts_from": "standard"})
    trained = [f"checkpoints/defended/digits/badnets/cnn/cbd/seed0/{name}" for name in FILES]
    start = "checkpoints/base/digits/badnets/cnn/standard/seed0"
    assert made.model_files(POISONED) == trained
    assert made.model_folder(POISONED) == "checkpoints/defended/digits/badnets/cnn/cbd/seed0"
    assert made.start_files(POISONED) == [f"{start}/{name}" for name in FILES]
    assert made.start_option(POISONED) == f"--start {start}"
    assert (made.start_files(CLEAN), made.start_option(CLEAN)) == ([], "")
    assert made.training_set(POISONED) == "data/poisoned/digits/badnets/seed0.npz"
    assert made.training_set(CLEAN) == "data/clean/digits/train.npz"


def test_an_evaluation_reads_the_poisoned_set_of_its_run_and_the_images_of_its_transfers() -> None:
    made = graph()
    stored = "data/adversarial/digits/clean/cnn/standard/seed1/pgd.npz"
    assert made.scoring_files(CLEAN) == [stored]
    assert made.scoring_options(CLEAN) == f"--stored transfer={stored}"
    assert made.scoring_files(POISONED) == ["data/poisoned/digits/badnets/seed0.npz"]
    assert made.scoring_options(POISONED) == "--poisoned data/poisoned/digits/badnets/seed0.npz"


def test_a_training_reads_the_run_that_it_starts_from_and_the_set_crafted_on_it() -> None:
    made = graph({"defenses.cbd.starts_from": "standard", "defenses.cbd.crafted_by": "pgd"})
    asked = SimpleNamespace(dataset="digits", poison="badnets", model="cnn", defense="cbd", seed="1")
    crafted = "data/crafted/digits/badnets/cnn/standard/seed1/pgd.npz"
    assert made.start_files(asked)[-1] == crafted
    folder = "checkpoints/base/digits/badnets/cnn/standard/seed1"
    assert made.start_option(asked) == f"--start {folder} --crafted {crafted}"
    assert "craft/digits/badnets/cnn/standard/seed1/pgd.tsv" in made.timings
    asked.defense = "standard"
    assert made.start_files(asked) == [] and made.start_option(asked) == ""


def test_an_evaluation_with_properties_reads_what_the_run_was_trained_on() -> None:
    block = {"kind": "vulnerability", "attack": {"eps": 0.1}}
    made = graph({"properties.classes": block, "studies.backdoor.properties": ["classes"]})
    poisoned = "data/poisoned/digits/badnets/seed1.npz"
    asked = SimpleNamespace(dataset="digits", poison="badnets", model="cnn", defense="cbd", seed="1")
    assert made.scoring_files(asked) == [poisoned]
    assert made.scoring_options(asked) == f"--poisoned {poisoned} --train {poisoned}"
    asked.poison, asked.defense = "clean", "trades"
    assert "--train" not in made.scoring_options(asked)


def test_an_evaluation_with_detectors_reads_what_the_run_was_trained_on_and_held_out_images() -> None:
    block = {"kind": "strip"}
    made = graph({"detectors.strip": block, "studies.backdoor.detectors": ["strip"]})
    poisoned, val = "data/poisoned/digits/badnets/seed1.npz", "data/clean/digits/val.npz"
    asked = SimpleNamespace(dataset="digits", poison="badnets", model="cnn", defense="cbd", seed="1")
    assert made.scoring_files(asked) == [val, poisoned]
    assert made.scoring_options(asked) == f"--poisoned {poisoned} --train {poisoned} --val {val}"
    assert json.loads(made.evaluate_spec(asked))["detectors"]["strip"]["kind"] == "strip"
    asked.poison, asked.defense = "clean", "trades"
    assert "--val" not in made.scoring_options(asked)
    assert json.loads(made.evaluate_spec(asked))["detectors"] == {}


LOOK = {
    "interpretations.look": {
        "kind": "attribution_shift",
        "attack": {"kind": "fgsm", "eps": 0.1},
        "attributions": {"cam": {"kind": "grad_cam"}},
        "examples": 40,
    },
    "studies.backdoor.interpretations": ["look"],
}


def test_an_interpretation_is_a_job_that_reads_what_the_run_was_trained_on_and_held_out_images() -> None:
    made = graph(LOOK)
    assert made.interpretations == [
        f"results/digits/badnets/cnn/{name}/seed{seed}/interpretation.json"
        for name in ("cbd", "standard")
        for seed in (0, 1)
    ]
    assert made.listing()["interpretations"] == made.interpretations and not graph().interpretations
    poisoned, val = "data/poisoned/digits/badnets/seed0.npz", "data/clean/digits/val.npz"
    assert made.interpretation_files(POISONED) == [val, poisoned]
    assert made.interpretation_options(POISONED) == f"--train {poisoned} --val {val} --poisoned {poisoned}"
    assert json.loads(made.interpretation_spec(POISONED))["look"]["examples"] == 40
    assert "interpret/digits/badnets/cnn/cbd/seed0.tsv" in made.timings


def test_an_interpretation_depends_on_the_source_of_the_blocks_inside_it_and_no_evaluation_on_it(
    copied: Path,
) -> None:
    made = graph(LOOK)

    def code() -> list[str]:
        return [made.interpretation_code(POISONED), made.evaluate_code(POISONED), made.train_code(POISONED)]

    for file in ("attributions/grad_cam.py", "attacks/fgsm.py", "interpretations/shift.py"):
        before = code()
        with (copied / file).open("a", encoding="utf-8") as source_file:
            source_file.write("\n_EDITED = 1\n")
        after = code()
        assert after[0] != before[0] and after[1:] == before[1:], file
    before = code()
    with (copied / "attributions/occlusion.py").open("a", encoding="utf-8") as source_file:
        source_file.write("\n_EDITED = 1\n")
    assert code() == before


def test_a_poison_that_trains_a_network_is_told_which_and_how() -> None:
    block = {"kind": "label_consistent", "surrogate": "cnn", "recipe": "short"}
    made = graph({"poisons.badnets": block})
    spec = json.loads(made.poison_spec(POISONED))
    assert (spec["poison"]["kind"], spec["surrogate"]["kind"]) == ("label_consistent", "small_cnn")
    assert spec["training"]["epochs"] == 1 and "surrogate" not in spec["poison"]
    assert json.loads(graph().poison_spec(POISONED)).keys() == {"poison"}


def test_a_block_inside_a_block_belongs_to_the_source_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("deconfound.graph.fingerprint", lambda *modules: str(asked.append(modules)))
    block = {"kind": "filtered", "starts_from": "standard", "detector": {"kind": "lowest_loss"}}
    noisy = {"kind": "eot", "attack": {"kind": "pgd", "eps": 0.1}}
    made = graph({"defenses.cbd": block, "attacks.pgd": noisy})
    made.train_code(POISONED)
    made.attack_code(Wildcards("digits/clean/cnn/standard/seed0", "pgd"))
    assert "deconfound.detectors.lowest_loss" in asked[0] and "deconfound.defenses.filtered" in asked[0]
    assert "deconfound.attacks.pgd" in asked[1] and "deconfound.attacks.eot" in asked[1]


def test_a_calibration_is_made_where_the_experiment_asks_for_it() -> None:
    assert graph().calibrations == [] == graph().pages
    made = graph({"calibration": {"seeds": 2}})
    assert made.calibrations == ["results/calibration/tiny.json"]
    assert made.pages == ["reports/pages/calibration.html"]
    assert json.loads(made.calibration_spec())["seeds"] == 2
    assert "calibrate/tiny.tsv" in made.timings and made.listing()["calibration"] == made.calibrations


def test_two_transfers_of_one_stored_set_read_it_once() -> None:
    twin = {"kind": "transfer", "attack": "pgd"}
    made = graph({"attacks.twin": twin, "studies.evasion.attacks": ["transfer", "twin", "pgd"]})
    stored = "data/adversarial/digits/clean/cnn/standard/seed1/pgd.npz"
    assert made.scoring_files(CLEAN) == [stored]
    assert made.scoring_options(CLEAN) == f"--stored transfer={stored} --stored twin={stored}"


def test_the_artifacts_of_an_experiment() -> None:
    made = graph()
    poisoned = [f"data/poisoned/digits/badnets/seed{s}.{kind}" for s in (0, 1) for kind in ("json", "npz")]
    assert made.data == [*SPLITS, *poisoned]
    assert made.crafted == [f"data/adversarial/digits/clean/cnn/standard/seed{s}/pgd.npz" for s in (0, 1)]
    assert made.evaluations == [f"results/{run}/evaluation.json" for run in made.runs]
    listing = json.loads(json.dumps(made.listing()))
    assert listing["runs"][0] == "checkpoints/defended/digits/badnets/cnn/cbd/seed0/run.json"
    assert listing["clean"] == {"digits": "data/clean/digits/test.npz"}
    assert listing["poisoned"] == [f"data/poisoned/digits/badnets/seed{s}.npz" for s in (0, 1)]
    assert (listing["evaluations"], listing["adversarial"]) == (made.evaluations, made.crafted)
    assert listing["controls"]["digits/clean/cnn/trades"] == "standard"
    assert listing["experiment"]["name"] == "tiny"


def test_a_data_set_that_no_study_uses_is_not_fetched() -> None:
    made = graph({"datasets.scenes": {"kind": "scenes"}, "models.idle": {"kind": "small_cnn"}})
    assert paths(made) == paths(graph())


@pytest.mark.parametrize(
    "place, value, touched",
    [
        ("defenses.cbd.biased_epochs", 4, {"train_spec"}),
        ("recipes.short.lr", 0.5, {"train_spec"}),
        ("models.cnn.hidden", 9, {"train_spec"}),
        ("attacks.pgd.steps", 3, {"evaluate_spec", "attack_spec"}),
        ("poisons.badnets.target", 3, {"poison_spec"}),
        ("datasets.digits.val", 0.2, {"fetch_spec"}),
        ("studies.evasion.examples", 7, {"evaluate_spec"}),
        ("title", "another", set()),
    ],
)
def test_a_changed_value_touches_the_parameters_of_its_own_jobs_only(
    place: str, value: Any, touched: set[str]
) -> None:
    before, after = jobs(graph()), jobs(graph({place: value}))
    assert before.pop("digests")[1] != after.pop("digests")[1], "the listing contains the whole experiment"
    assert {name for name in before if before[name] != after[name]} == touched


def test_a_value_of_one_defense_touches_the_training_of_that_defense_only() -> None:
    before, after = graph(), graph({"defenses.cbd.biased_epochs": 4})
    touched = [
        str(r)
        for r in before.runs
        if before.train_spec(Wildcards(str(r))) != after.train_spec(Wildcards(str(r)))
    ]
    assert touched == [f"digits/badnets/cnn/cbd/seed{s}" for s in (0, 1)]


SEEN: dict[tuple[str, bytes], Any] = {}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that fingerprints are taken of; the running code is the original."""
    copy = tmp_path / "deconfound"
    shutil.copytree(Path(deconfound.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))

    monkeypatch.setattr(source, "ROOT", tmp_path)
    original = source.read
    monkeypatch.setattr(source, "read", lambda module: _remembered(original, module, tmp_path))
    return copy


def _remembered(original: Any, module: str, root: Path) -> Any:
    """The digest of a module, cached by its content instead of by its name."""
    key = module, root.joinpath(*module.split(".")).with_suffix(".py").read_bytes()
    if key not in SEEN:
        SEEN[key] = original.__wrapped__(module)
    return SEEN[key]


EDITED = {  # a file, and whose parameters an edit of it touches
    "defenses/cbd.py": {"train_code cbd"},
    "defenses/trades.py": {"train_code trades"},
    "information.py": {"train_code cbd"},
    "poisons/badnets.py": {"poison_code"},
    "data/digits.py": {"fetch_code"},
    "data/scenes.py": set(),
    "models/timm_models.py": set(),
    "models/small_cnn.py": {
        *(f"train_code {name}" for name in ("cbd", "trades", "standard")),
        *(f"evaluate_code {name}" for name in ("cbd", "trades", "standard clean")),
        "attack_code",
    },
    "attacks/pgd.py": {  # the trust gate of every evaluation ascends with it
        "attack_code",
        *(f"evaluate_code {name}" for name in ("cbd", "trades", "standard clean")),
    },
    "steps/train.py": {"train_code cbd", "train_code trades", "train_code standard"},
    "steps/fetch.py": {"fetch_code"},
    "report/words.py": {"report"},
    "claims.py": {"claims"},
}


def codes(made: Graph) -> dict[str, str]:
    standard = Wildcards("digits/clean/cnn/standard/seed0", "pgd")
    return {
        "fetch_code": made.fetch_code(CLEAN),
        "poison_code": made.poison_code(POISONED),
        "train_code cbd": made.train_code(POISONED),
        "train_code trades": made.train_code(CLEAN),
        "train_code standard": made.train_code(standard),
        "attack_code": made.attack_code(standard),
        "evaluate_code cbd": made.evaluate_code(POISONED),
        "evaluate_code trades": made.evaluate_code(CLEAN),
        "evaluate_code standard clean": made.evaluate_code(standard),
        "claims": made.step_code("claims"),
        "report": made.step_code("report"),
    }


@pytest.mark.parametrize("file", EDITED)
def test_an_edit_of_one_file_touches_the_jobs_that_use_it_and_no_other(file: str, copied: Path) -> None:
    made = graph()
    before = codes(made)
    text = (copied / file).read_text(encoding="utf-8")
    (copied / file).write_text(f"# a comment\n{text}\n\n# another\n", encoding="utf-8")
    assert codes(made) == before

    (copied / file).write_text(f"{text}\n_EDITED = 1\n", encoding="utf-8")

    after = codes(made)
    assert {name for name in before if before[name] != after[name]} == EDITED[file]


def test_a_new_method_in_a_table_reruns_no_training(copied: Path) -> None:
    made = graph()
    before = codes(made)
    table = copied / "defenses" / "__init__.py"
    text = table.read_text(encoding="utf-8")
    table.write_text(
        text.replace("\n}", '\n    "mart": "deconfound.defenses.mart:MART",\n}'), encoding="utf-8"
    )
    assert '"mart"' in table.read_text(encoding="utf-8")
    assert codes(made) == before


def test_the_report_depends_on_the_text_of_its_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = tmp_path / "deconfound" / "report" / "templates"
    templates.mkdir(parents=True)
    (templates / "a.css").write_text("p {}", encoding="utf-8")
    monkeypatch.setattr("deconfound.graph.ROOT", tmp_path)
    before = Graph.templates_digest()
    assert Graph.templates_digest() == before
    (templates / "a.css").write_text("p { color: red }", encoding="utf-8")
    assert Graph.templates_digest() != before


def test_the_order_of_an_experiment_is_of_no_consequence() -> None:
    content = changed()
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(content.items())
    }
    turned["seeds"] = [0, 1]
    from deconfound.config import parse

    one, other = graph(), Graph(parse(turned, source=""))
    assert paths(one) == paths(other)
    listed, again = jobs(one), jobs(other)
    assert listed.pop("digests")[0] == again.pop("digests")[0]
    assert listed == again
