"""Which runs and artifacts an experiment consists of.

The workflow asks here what exists; nothing is computed. A run is
{dataset}/{poison}/{model}/{defense}/seed{seed}.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

from deconfound.attacks.transfer import Transfer
from deconfound.experiment import Block, Curve, Experiment, Study, full, make, preparation
from deconfound.runs import Run


@dataclass(frozen=True)
class Plan:
    """An experiment with its runs enumerated, in a fixed order."""

    experiment: Experiment

    def runs(self) -> list[Run]:
        """All runs of all studies, each once."""
        return sorted(
            {run for study in self.experiment.studies.values() for run in _grid(study, self.experiment)}
        )

    def studies(self, run: Run) -> Iterator[Study]:
        """The studies that a run belongs to."""
        for study in self.experiment.studies.values():
            cell = (run.dataset in study.datasets, run.poison in study.poisons, run.model in study.models)
            if all(cell) and run.defense in study.defenses:
                yield study

    def is_base(self, defense: str) -> bool:
        """Base training is the kind `standard`, from scratch."""
        return is_base(self.experiment.defenses[defense])

    def folder(self, run: Run) -> str:
        """Where its checkpoint lies: base and defended models are versioned apart."""
        return f"checkpoints/{'base' if self.is_base(run.defense) else 'defended'}/{run}"

    def start(self, run: Run) -> Run | None:
        """The run that its defense starts from."""
        before = self.experiment.defenses[run.defense].get("starts_from")
        return run.with_(defense=before) if before else None

    def crafted_for(self, run: Run) -> tuple[Run, str] | None:
        """The adversarial training set that its defense asks for: the run it is crafted on, and the attack."""
        attack, start = self.experiment.defenses[run.defense].get("crafted_by"), self.start(run)
        return (start, attack) if attack and start else None

    def recipe(self, run: Run) -> str:
        """Name of the recipe of a run: that of its defense, or of its study."""
        return self.experiment.defenses[run.defense].get("recipe") or next(self.studies(run)).recipe

    def training(self, run: Run) -> Block:
        """Blocks `model`, `training` and `defense`, all defaults written out."""
        recipe = self.recipe(run)
        parts = {
            "model": ("models", run.model),
            "training": ("recipes", recipe),
            "defense": ("defenses", run.defense),
        }
        return {key: self.block(*part) for key, part in parts.items()}

    def poisoning(self, name: str) -> Block:
        """Block `poison` with all defaults, and `surrogate` and `training` where it trains a network of its own."""
        block = self.experiment.poisons[name]
        found = {"poison": self.block("poisons", name)}
        if block.get("surrogate"):
            found["surrogate"] = self.block("models", block["surrogate"])
            found["training"] = self.block("recipes", block["recipe"])
        return found

    def attacks(self, run: Run) -> Block:
        """Everything that a run is evaluated under: blocks by name, their order, those measured alone, curves, number
        of examples, and what the trust gate spends.
        """
        studies = list(self.studies(run))
        order = list(dict.fromkeys(name for study in studies for name in study.attacks))
        curves: list[Curve] = []
        for study in studies:
            curves += [curve for curve in study.curves if curve not in curves]
        examples = [study.examples for study in studies]
        gates = [study.gate for study in studies if study.gate]
        blocks = {name: self.block("attacks", name) for name in sorted(order)}
        for block in blocks.values():
            if block["kind"] == "transfer":  # the budget is that of the attack that crafted the images
                block["crafted_by"] = self.block("attacks", block["attack"])
        return {
            "attacks": blocks,
            "order": order,
            "alone": [name for name in order if any(name in study.alone for study in studies)],
            "curves": [
                {
                    "name": c.attack,
                    "axis": c.axis,
                    "values": c.values,
                    "attack": self.block("attacks", c.attack),
                }
                for c in curves
            ],
            "properties": {
                name: self.block("properties", name) for study in studies for name in study.properties
            },
            "detectors": {
                name: self.block("detectors", name) for study in studies for name in study.detectors
            },
            "examples": None if None in examples else max(examples),  # type: ignore[type-var]
            "gate": asdict(max(gates, key=lambda gate: gate.examples)) if gates else None,
        }

    def interpretations(self, run: Run) -> Block:
        """What is read off a run: blocks by name with all defaults; empty where nothing is."""
        names = dict.fromkeys(name for study in self.studies(run) for name in study.interpretations)
        return {name: self.block("interpretations", name) for name in names}

    def interpreted(self) -> list[Run]:
        """The runs that something is read off."""
        return [run for run in self.runs() if any(study.interpretations for study in self.studies(run))]

    def transfers(self, run: Run) -> dict[str, tuple[Run, str]]:
        """Per transfer attack of a run: the run that its images were crafted on, and the attack that crafted
        them.
        """
        found = {}
        for name in self.attacks(run)["attacks"]:
            attack = make("attacks", name, self.experiment.attacks[name])
            if isinstance(attack, Transfer):
                found[name] = (attack.source(run), attack.attack)
        return found

    def crafted(self) -> list[tuple[Run, str]]:
        """Adversarial sets to keep: those that a study asks for on its base runs, and those that transfers
        need.
        """
        found = {pair for run in self.runs() for pair in self.transfers(run).values()}
        for run in self.runs():
            for study in self.studies(run):
                found |= {(run, attack) for attack in study.keep if self.is_base(run.defense)}
        return sorted(found)

    def block(self, kind: str, name: str) -> Block:
        """A named block with every default written out."""
        return full(kind, name, getattr(self.experiment, kind)[name])

    def controls(self) -> dict[str, str]:
        """Name of the control by cell `dataset/poison/model/defense`."""
        return {str(run).rpartition("/")[0]: self.controls_of(run)[0] for run in self.runs()}

    def controls_of(self, run: Run) -> list[str]:
        """The names that its studies give to its control: one, unless they disagree. A study of one defense compares
        nothing, and has a say only where no other study has.
        """
        studies = list(self.studies(run))
        comparing = [study for study in studies if len(study.defenses) > 1]
        return sorted({study.control for study in comparing or studies})

    def fetching(self, dataset: str) -> Block:
        """The block of a data set with all defaults, and how its splits are cut."""
        block = self.experiment.datasets[dataset]
        cut = preparation(dataset, block)
        return {
            "source": full("datasets", dataset, block),
            "val": cut.val,
            "slice": cut.slice.model_dump(),
            "split_seed": cut.split_seed,
        }


def is_base(block: Block) -> bool:
    """Is this defense's block base training?"""
    return block["kind"] == "standard" and not block.get("starts_from")


def _grid(study: Study, experiment: Experiment) -> Iterator[Run]:
    for parts in product(study.datasets, study.poisons, study.models, study.defenses, experiment.seeds):
        yield Run(*parts)
