"""dvc.yaml against the graph: dependencies may be too wide, never too narrow."""

from pathlib import Path

import pytest
import yaml

from deconfound.attacks import ATTACKS, EXPLANATION_ATTACKS
from deconfound.attributions import ATTRIBUTIONS
from deconfound.data import DATASETS
from deconfound.defenses import DEFENSES
from deconfound.detectors import DETECTORS
from deconfound.experiment import TABLES, Experiment
from deconfound.fingerprint import closure
from deconfound.interpretations import INTERPRETATIONS
from deconfound.models import MODELS
from deconfound.poisons import POISONS
from deconfound.properties import PROPERTIES

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def modules(*tables: dict[str, str]) -> list[str]:
    return sorted({address.partition(":")[0] for table in tables for address in table.values()})


NEEDS = {
    "data": ["deconfound.steps.fetch", "deconfound.steps.poison", *modules(DATASETS, POISONS, MODELS)],
    "models": ["deconfound.steps.train", "deconfound.defenses.standard", *modules(MODELS)],
    "attacks": ["deconfound.steps.attack", *modules(ATTACKS, MODELS)],
    "defenses": ["deconfound.steps.train", "deconfound.steps.attack", *modules(DEFENSES, MODELS, ATTACKS)],
    "evaluations": [
        "deconfound.steps.evaluate",
        "deconfound.steps.interpret",
        "deconfound.steps.calibrate",
        *modules(ATTACKS, MODELS, PROPERTIES, DETECTORS, DEFENSES),
        *modules(EXPLANATION_ATTACKS, ATTRIBUTIONS, INTERPRETATIONS),
    ],
    "report": ["deconfound.steps.claims", "deconfound.steps.report", "deconfound.steps.timings"],
}
PARAMETERS = {  # sections of an experiment that shape a stage's jobs or how many there are
    "data": {"seeds", "datasets", "poisons", "studies", "models", "recipes"},
    "models": {"seeds", "models", "recipes", "studies", "defenses"},
    "attacks": {"seeds", "attacks", "studies"},
    "defenses": {"seeds", "models", "recipes", "studies", "defenses", "attacks"},
}


@pytest.mark.parametrize("stage", NEEDS)
def test_a_stage_depends_on_all_source_that_its_jobs_import(stage: str) -> None:
    covered = STAGES[stage]["deps"]
    needed = [f"src/{module.replace('.', '/')}.py" for module in closure(*NEEDS[stage])]
    missing = [path for path in needed if not any(path == c or path.startswith(f"{c}/") for c in covered)]
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_that_a_stage_depends_on_exists_or_is_made_by_another_stage(stage: str) -> None:
    made = {name for other in STAGES.values() for out in other["outs"] for name in out}
    assert [path for path in STAGES[stage]["deps"] if path not in made and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("stage", PARAMETERS)
def test_a_stage_declares_each_section_that_shapes_its_jobs(stage: str) -> None:
    declared = {key.partition(".")[0] for key in STAGES[stage]["params"][0]["config.yaml"]}
    assert declared == PARAMETERS[stage]


@pytest.mark.parametrize("stage", ["evaluations", "report"])
def test_what_reads_many_sections_depends_on_the_whole_experiment(stage: str) -> None:
    assert STAGES[stage]["params"] == [{"config.yaml": None}]


def test_every_section_of_an_experiment_belongs_to_a_stage_or_only_to_the_report() -> None:
    only_the_report = {"name", "title", "description", "reports", "ledgers"}
    whole = {
        "properties",
        "detectors",
        "interpretations",
        "calibration",
    }  # of evaluations, which depend on all
    assert set(Experiment.model_fields) == set().union(*PARAMETERS.values()) | whole | only_the_report
    assert set(TABLES) < set(Experiment.model_fields)


def test_outputs_stay_in_place_for_snakemake_to_judge() -> None:
    kinds = [
        out for stage in STAGES.values() for key in ("outs", "metrics", "plots") for out in stage.get(key, [])
    ]
    assert kinds
    assert all(settings["persist"] for out in kinds for settings in out.values())
