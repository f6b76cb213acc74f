"""The experiment as the workflow sees it: paths, inputs and parameters of every job. Imports no workflow
tool.

Paths carry names, never values. A job's parameters are one JSON text and one fingerprint of the source it
depends on, so that it reruns when either changes and at no other time.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from deconfound.experiment import Experiment, modules_of
from deconfound.fingerprint import ROOT, fingerprint
from deconfound.paths import (
    SPLITS,
    WEIGHTS,
    adversarial,
    crafted,
    evaluation,
    interpretation,
    manifest,
    poisoned,
    run_of,
    split,
)
from deconfound.plan import Plan
from deconfound.runs import CLEAN, Run
from deconfound.storage import digest


class Graph:
    """Answers every question that a rule asks about an experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.plan = Plan(experiment)
        self.runs = self.plan.runs()

    def weights(self, runs: Iterable[Run]) -> list[str]:
        """Files of trained models."""
        return [f"{self.plan.folder(run)}/{name}" for run in runs for name in WEIGHTS]

    @property
    def base(self) -> list[Run]:
        """Runs of base training."""
        return [run for run in self.runs if self.plan.is_base(run.defense)]

    @property
    def defended(self) -> list[Run]:
        """All other runs."""
        return [run for run in self.runs if not self.plan.is_base(run.defense)]

    @property
    def data(self) -> list[str]:
        """Files of all splits and poisoned sets."""
        datasets = sorted({run.dataset for run in self.runs})
        sets = [split(dataset, name) for dataset in datasets for name in SPLITS]
        poisons = [run for run in self.runs if run.poison != CLEAN]
        return sets + sorted({file for run in poisons for file in (poisoned(run), manifest(run))})

    @property
    def crafted(self) -> list[str]:
        """Files of all kept adversarial sets."""
        return [adversarial(run, attack) for run, attack in self.plan.crafted()]

    @property
    def evaluations(self) -> list[str]:
        """Files of all results."""
        return [evaluation(run) for run in self.runs]

    @property
    def interpretations(self) -> list[str]:
        """Files of what was read off models."""
        return [interpretation(run) for run in self.plan.interpreted()]

    @property
    def calibrations(self) -> list[str]:
        """File of the calibration of estimates of mutual information, where the experiment asks for it."""
        wanted = self.experiment.calibration is not None
        return [f"results/calibration/{self.experiment.name}.json"] if wanted else []

    @property
    def pages(self) -> list[str]:
        """Pages beside the report."""
        names = ["calibration.html"] if self.calibrations else []
        names += ["interpretation.html", "interpretation.pdf"] if self.interpretations else []
        return [f"{self.experiment.reports}/pages/{name}" for name in names]

    @property
    def timings(self) -> list[str]:
        """Benchmark files of all jobs, below their folder."""
        datasets = sorted({run.dataset for run in self.runs})
        poisons = sorted(
            {f"poison/{r.dataset}/{r.poison}/seed{r.seed}.tsv" for r in self.runs if r.poison != CLEAN}
        )
        rules = ("plan", "claims", "report", *(["calibrate"] if self.calibrations else []))
        named = [f"{rule}/{self.experiment.name}.tsv" for rule in rules]
        trained = [
            f"{'train' if self.plan.is_base(run.defense) else 'defend'}/{run}.tsv" for run in self.runs
        ]
        attacked = [f"attack/{run}/{name}.tsv" for run, name in self.plan.crafted()]
        attacked += sorted({f"craft/{run}/{name}.tsv" for run, name in self._training_crafts()})
        scored = [f"evaluate/{run}.tsv" for run in self.runs]
        scored += [f"interpret/{run}.tsv" for run in self.plan.interpreted()]
        return [*(f"fetch/{name}.tsv" for name in datasets), *poisons, *trained, *attacked, *scored, *named]

    def training_set(self, wildcards: Any) -> str:
        """What a run is trained on."""
        run = run_of(wildcards)
        return split(run.dataset, "train") if run.poison == CLEAN else poisoned(run)

    def start_files(self, wildcards: Any) -> list[str]:
        """The checkpoint that the defense of a run starts from, and the set crafted on it, if any."""
        run = run_of(wildcards)
        start, made = self.plan.start(run), self.plan.crafted_for(run)
        return (self.weights([start]) if start else []) + ([crafted(*made)] if made else [])

    def model_files(self, wildcards: Any) -> list[str]:
        """The checkpoint of a run."""
        return self.weights([run_of(wildcards)])

    def scoring_files(self, wildcards: Any) -> list[str]:
        """What the evaluation of a run reads besides its checkpoint and the test split."""
        run = run_of(wildcards)
        files = {adversarial(*source) for source in self.plan.transfers(run).values()}
        if run.poison != CLEAN:
            files.add(poisoned(run))
        files |= {file for _, file in self._knowledge(run, wildcards)}
        return sorted(files)

    def interpretation_files(self, wildcards: Any) -> list[str]:
        """What is needed to interpret a run besides its checkpoint and the test split."""
        return sorted({file for _, file in self._known(wildcards)})

    def start_option(self, wildcards: Any) -> str:
        """`--start FOLDER` and `--crafted FILE`, where a run has them."""
        run = run_of(wildcards)
        start, made = self.plan.start(run), self.plan.crafted_for(run)
        options = [f"--start {self.plan.folder(start)}"] if start else []
        return " ".join(options + ([f"--crafted {crafted(*made)}"] if made else []))

    def model_folder(self, wildcards: Any) -> str:
        """Folder of the checkpoint of a run."""
        return self.plan.folder(run_of(wildcards))

    def scoring_options(self, wildcards: Any) -> str:
        """`--poisoned FILE`, `--train FILE`, `--val FILE` and `--stored NAME=FILE`, where a run has them."""
        run = run_of(wildcards)
        options = [f"--poisoned {poisoned(run)}"] if run.poison != CLEAN else []
        options += [f"--{name} {file}" for name, file in self._knowledge(run, wildcards)]
        options += [
            f"--stored {name}={adversarial(*source)}" for name, source in self.plan.transfers(run).items()
        ]
        return " ".join(options)

    def interpretation_options(self, wildcards: Any) -> str:
        """`--train FILE`, `--val FILE` and, where a run has it, `--poisoned FILE`."""
        return " ".join(f"--{name} {file}" for name, file in self._known(wildcards))

    def calibration_spec(self) -> str:
        """Parameters of the calibration."""
        return _text(self.experiment.model_dump(mode="json")["calibration"] or {})

    def fetch_spec(self, wildcards: Any) -> str:
        """Parameters of the fetch of a data set."""
        return _text(self.plan.fetching(wildcards.dataset))

    def poison_spec(self, wildcards: Any) -> str:
        """Parameters of a poison."""
        return _text(self.plan.poisoning(wildcards.poison))

    def train_spec(self, wildcards: Any) -> str:
        """Parameters of a training."""
        return _text(self.plan.training(run_of(wildcards)))

    def run_text(self, wildcards: Any) -> str:
        """The run, for the record of its training."""
        return _text(asdict(run_of(wildcards)))

    def attack_spec(self, wildcards: Any) -> str:
        """Parameters of the crafting of an adversarial set."""
        return _text(self.plan.block("attacks", wildcards.attack))

    def evaluate_spec(self, wildcards: Any) -> str:
        """Attacks, curves and number of examples of an evaluation."""
        return _text(self.plan.attacks(run_of(wildcards)))

    def interpretation_spec(self, wildcards: Any) -> str:
        """What is read off a run."""
        return _text(self.plan.interpretations(run_of(wildcards)))

    def fetch_code(self, wildcards: Any) -> str:
        """Fingerprint of a fetch."""
        return fingerprint("deconfound.steps.fetch", *self._modules("datasets", wildcards.dataset))

    def poison_code(self, wildcards: Any) -> str:
        """Fingerprint of a poisoning."""
        surrogate = self.experiment.poisons[wildcards.poison].get("surrogate")
        trained = self._modules("models", surrogate) if surrogate else []
        return fingerprint("deconfound.steps.poison", *self._modules("poisons", wildcards.poison), *trained)

    def train_code(self, wildcards: Any) -> str:
        """Fingerprint of a training."""
        run = run_of(wildcards)
        parts = self._modules("models", run.model) + self._modules("defenses", run.defense)
        return fingerprint("deconfound.steps.train", *parts)

    def attack_code(self, wildcards: Any) -> str:
        """Fingerprint of a crafting."""
        parts = self._modules("models", wildcards.model) + self._modules("attacks", wildcards.attack)
        return fingerprint("deconfound.steps.attack", *parts)

    def evaluate_code(self, wildcards: Any) -> str:
        """Fingerprint of an evaluation."""
        run = run_of(wildcards)
        blocks = self.plan.attacks(run)
        kinds = [*blocks["attacks"].values(), *(curve["attack"] for curve in blocks["curves"])]
        modules = {name for block in kinds for name in modules_of("attacks", block)}
        modules |= set(self._modules("models", run.model))
        for kind in ("properties", "detectors"):
            modules |= {name for block in blocks[kind].values() for name in modules_of(kind, block)}
        if blocks["properties"] or any(block["kind"] == "adaptive" for block in kinds):
            modules |= set(self._modules("defenses", run.defense))
        return fingerprint("deconfound.steps.evaluate", *sorted(modules))

    def interpretation_code(self, wildcards: Any) -> str:
        """Fingerprint of an interpretation."""
        run = run_of(wildcards)
        blocks = self.plan.interpretations(run).values()
        modules = {name for block in blocks for name in modules_of("interpretations", block)}
        modules |= {*self._modules("models", run.model), *self._modules("defenses", run.defense)}
        return fingerprint("deconfound.steps.interpret", *sorted(modules))

    def step_code(self, step: str) -> str:
        """Fingerprint of a step that depends on no method."""
        return fingerprint(f"deconfound.steps.{step}")

    @staticmethod
    def templates_digest() -> str:
        """Digest of the report's templates, which no import leads to."""
        folder = ROOT / "deconfound" / "report" / "templates"
        return digest({path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.*"))})

    def listing(self) -> dict[str, Any]:
        """Every artifact that the tables and the report are made from, and the whole experiment."""
        runs = self.runs
        datasets = sorted({run.dataset for run in runs})
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "controls": self.plan.controls(),
            "evaluations": self.evaluations,
            "interpretations": self.interpretations,
            "runs": [f"{self.plan.folder(run)}/run.json" for run in runs],
            "adversarial": self.crafted,
            "calibration": self.calibrations,
            "poisoned": sorted({poisoned(run) for run in runs if run.poison != CLEAN}),
            "timings": self.timings,
            "clean": {dataset: split(dataset, "test") for dataset in datasets},
            "ledgers": list(self.experiment.ledgers),
        }

    def listing_digest(self) -> str:
        """Digest of the listing: a parameter that changes with anything in the experiment."""
        return digest(self.listing())

    def _knowledge(self, run: Run, wildcards: Any) -> list[tuple[str, str]]:
        """Options and files of what an evaluation knows of the training: for properties and detectors."""
        studies = list(self.plan.studies(run))
        watched = any(study.detectors for study in studies)
        known = watched or any(study.properties for study in studies)
        found = [("train", self.training_set(wildcards))] if known else []
        return found + ([("val", split(run.dataset, "val"))] if watched else [])

    def _known(self, wildcards: Any) -> list[tuple[str, str]]:
        """Options and files of what an interpretation knows besides the model and the test split."""
        run = run_of(wildcards)
        found = [("train", self.training_set(wildcards)), ("val", split(run.dataset, "val"))]
        return found + ([("poisoned", poisoned(run))] if run.poison != CLEAN else [])

    def _training_crafts(self) -> set[tuple[Run, str]]:
        return {made for run in self.runs if (made := self.plan.crafted_for(run))}

    def _modules(self, kind: str, name: str) -> list[str]:
        return modules_of(kind, getattr(self.experiment, kind)[name])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
