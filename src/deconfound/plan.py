"""Which runs and artifacts an experiment consists of, and whether its parts fit together.

The workflow asks here what exists; nothing is computed. A run is
{dataset}/{poison}/{model}/{defense}/seed{seed}.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from deconfound.attacks.transfer import Transfer
from deconfound.defenses.workbench import Adaptive
from deconfound.experiment import CLEAN, Block, Curve, Experiment, Study, full, make, preparation
from deconfound.registry import field_names, nearest


@dataclass(frozen=True, order=True)
class Run:
    """One trained model."""

    dataset: str
    poison: str
    model: str
    defense: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.poison}/{self.model}/{self.defense}/seed{self.seed}"

    def with_(self, **changes: Any) -> "Run":
        """The same run with other parts."""
        return Run(**(asdict(self) | changes))


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

    def training(self, run: Run) -> Block:
        """Blocks `model`, `training` and `defense`, all defaults written out."""
        recipe = next(self.studies(run)).recipe
        parts = {
            "model": ("models", run.model),
            "training": ("recipes", recipe),
            "defense": ("defenses", run.defense),
        }
        return {key: self.block(*part) for key, part in parts.items()}

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
            "examples": None if None in examples else max(examples),  # type: ignore[type-var]
            "gate": asdict(max(gates, key=lambda gate: gate.examples)) if gates else None,
        }

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
        return {str(run).rpartition("/")[0]: next(self.studies(run)).control for run in self.runs()}

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


RESERVED = {"poisons": {CLEAN: "no poison", "any": "every poison, in a ledger"}}
RESERVED |= {
    "attacks": {"none": "no attack", "worst_case": "the worst of all attacks", "do_style": "an intervention"}
}


def check(experiment: Experiment, *, parts_are_valid: bool = True) -> list[str]:
    """Faults between the parts: unknown names, impossible combinations, each said once.

    With invalid parts only the names are checked, since nothing can be built.
    """
    faults = (
        []
        if len(set(experiment.seeds)) == len(experiment.seeds)
        else [f"seeds: expected different seeds, got {experiment.seeds}"]
    )
    for kind, names in RESERVED.items():
        for name in sorted(names & getattr(experiment, kind).keys()):
            faults.append(f"{kind}.{name}: the name {name!r} stands for {names[name]}; choose another")
    faults += _check_starts(experiment)
    for name, study in experiment.studies.items():
        faults += [f"studies.{name}.{fault}" for fault in _check_names(study, experiment)]
    if parts_are_valid:
        faults += _check_transfers(experiment)
        faults += _check_adaptive(experiment)
    if faults or not parts_are_valid:
        return faults
    for name, study in experiment.studies.items():
        faults += [f"studies.{name}{fault}" for fault in _check_study(study, experiment)]
    return faults or list(dict.fromkeys(_check_runs(Plan(experiment))))


def _check_starts(experiment: Experiment) -> Iterator[str]:
    for name, block in experiment.defenses.items():
        before = block.get("starts_from")
        if before is None:
            continue
        if not isinstance(before, str) or before not in experiment.defenses or before == name:
            hint = nearest(before, set(experiment.defenses) - {name})
            yield f"defenses.{name}.starts_from: expected another defense, got {before!r}{hint}"
        elif experiment.defenses[before].get("starts_from"):
            yield f"defenses.{name}.starts_from: expected a defense that starts from nothing, got {before!r}"


def _check_transfers(experiment: Experiment) -> Iterator[str]:
    crafting = {
        n: b for n, b in experiment.attacks.items() if not isinstance(make("attacks", n, b), Transfer)
    }
    for name in sorted(set(experiment.attacks) - set(crafting)):
        source = make("attacks", name, experiment.attacks[name]).attack
        if source in experiment.attacks and source not in crafting:
            yield f"attacks.{name}.attack: expected an attack that crafts images, got the transfer {source!r}"
        elif source not in crafting:
            hint = nearest(source, crafting)
            yield f"attacks.{name}.attack: expected a name defined in this experiment, got {source!r}{hint}"


def _check_adaptive(experiment: Experiment) -> Iterator[str]:
    """Every defense declares how it is attacked by somebody who knows it."""
    for name, block in experiment.defenses.items():
        defense = make("defenses", name, block)
        adaptive = getattr(defense, "adaptive", None)
        if not isinstance(adaptive, Adaptive) or not (adaptive.attacks or adaptive.poisons):
            yield (
                f"defenses.{name}: expected a defense that declares its adaptive attack (a class attribute `adaptive ="
                f" Adaptive(why, attacks=(...))`), got {type(defense).__name__}, which has none"
            )


def _check_names(study: Study, experiment: Experiment) -> Iterator[str]:
    sections: list[tuple[str, list[str], Iterable[str]]] = [
        ("datasets", study.datasets, experiment.datasets),
        ("poisons", study.poisons, {*experiment.poisons, CLEAN}),
        ("models", study.models, experiment.models),
        ("recipe", [study.recipe], experiment.recipes),
        ("defenses", study.defenses, experiment.defenses),
        ("control", [study.control], study.defenses),
        ("attacks", study.attacks, experiment.attacks),
        ("alone", study.alone, study.attacks),
        ("keep", study.keep, experiment.attacks),
        ("curves", [curve.attack for curve in study.curves], experiment.attacks),
    ]
    for key, names, known in sections:
        for index, name in enumerate(names):
            place = {"recipe": key, "control": key, "curves": f"{key}.{index}.attack"}.get(
                key, f"{key}.{index}"
            )
            if name not in set(known):
                yield f"{place}: expected a name defined in this experiment, got {name!r}{nearest(name, known)}"
            elif name in names[:index] and key != "curves":
                yield f"{place}: {name!r} stands twice"


def _check_study(study: Study, experiment: Experiment) -> Iterator[str]:
    for name in study.defenses:
        before = experiment.defenses[name].get("starts_from")
        if before and before not in study.defenses:
            yield f".defenses: {name!r} starts from {before!r}, which is not in the list"
    for key, names in (("keep", study.keep), ("curves", [curve.attack for curve in study.curves])):
        for name in names:
            if isinstance(make("attacks", name, experiment.attacks[name]), Transfer):
                yield f".{key}: expected an attack that crafts images, got the transfer {name!r}"
    for index, curve in enumerate(study.curves):
        attack = make("attacks", curve.attack, experiment.attacks[curve.attack])
        inner = getattr(attack, "inner", attack)
        if curve.axis not in field_names(type(inner)) and not isinstance(attack, Transfer):
            yield f".curves.{index}: expected an attack that has {curve.axis}, got {type(attack).__name__}"
    for dataset, poison in product(study.datasets, study.poisons):
        if poison != CLEAN:
            shape, classes = make("datasets", dataset, experiment.datasets[dataset]).expects
            for fault in make("poisons", poison, experiment.poisons[poison]).faults(shape, classes):
                yield f" on {dataset}: poisons.{poison}.{fault}"


def _check_runs(plan: Plan) -> Iterator[str]:
    runs = plan.runs()
    for run in runs:
        for key in ("recipe", "control"):
            found = sorted({getattr(study, key) for study in plan.studies(run)})
            if len(found) > 1:
                named = f"{str(run).rpartition('/')[0]} has two {key}s ({', '.join(found)})"
                yield f"studies: {named}; let the studies agree, or give a part another name"
        yield from _unadapted(plan, run)
        for name, (source, _) in plan.transfers(run).items():
            if source not in runs:
                yield f"attacks.{name}: expected a run of this experiment as source, got {source} (for {run})"


def _unadapted(plan: Plan, run: Run) -> Iterator[str]:
    """Where a run is attacked at test time, one of the attacks has to know its defense."""
    blocks = [plan.experiment.attacks[name] for study in plan.studies(run) for name in study.attacks]
    kinds = {(block["attack"] if block["kind"] == "eot" else block)["kind"] for block in blocks}
    wanted = make("defenses", run.defense, plan.experiment.defenses[run.defense]).adaptive.attacks
    if kinds and wanted and not kinds & set(wanted):
        yield (
            f"studies: {run.defense!r} needs an attack that knows it ({', '.join(wanted)}), got"
            f" {', '.join(sorted(kinds))}"
        )
