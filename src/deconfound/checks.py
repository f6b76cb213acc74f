"""Do the parts of an experiment fit together? Unknown names and impossible combinations, each said once."""

from collections.abc import Iterable, Iterator
from itertools import product

from deconfound.attacks.transfer import Transfer
from deconfound.defenses.workbench import Adaptive
from deconfound.experiment import Experiment, Study, make
from deconfound.plan import Plan
from deconfound.registry import field_names, nearest
from deconfound.runs import CLEAN, Run

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
    faults += [*_check_starts(experiment), *_check_lineage(experiment), *_check_surrogates(experiment)]
    for name, study in experiment.studies.items():
        faults += [f"studies.{name}.{fault}" for fault in _check_names(study, experiment)]
    if parts_are_valid:
        faults += _check_transfers(experiment)
        faults += _check_adaptive(experiment)
        faults += _check_needs(experiment)
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


def _check_lineage(experiment: Experiment) -> Iterator[str]:
    """The attack that crafts a defense's training set, and its own recipe."""
    for name, block in experiment.defenses.items():
        attack, recipe = block.get("crafted_by"), block.get("recipe")
        if recipe is not None and recipe not in experiment.recipes:
            hint = nearest(recipe, experiment.recipes)
            yield f"defenses.{name}.recipe: expected a name defined in this experiment, got {recipe!r}{hint}"
        if attack is None:
            continue
        if attack not in experiment.attacks:
            hint = nearest(attack, experiment.attacks)
            yield f"defenses.{name}.crafted_by: expected a name defined in this experiment, got {attack!r}{hint}"
        elif experiment.attacks[attack].get("kind") == "transfer":
            yield f"defenses.{name}.crafted_by: expected an attack that crafts images, got the transfer {attack!r}"
        if not block.get("starts_from"):
            yield f"defenses.{name}.crafted_by: expected starts_from beside it: the run that the images are crafted on"


def _check_surrogates(experiment: Experiment) -> Iterator[str]:
    """The network that a poison trains for itself: its architecture and its recipe; and its remark."""
    for name, block in experiment.poisons.items():
        if not isinstance(block.get("remark", ""), str):
            yield f"poisons.{name}.remark: expected text, got {block['remark']!r}"
        for key, known in (("surrogate", experiment.models), ("recipe", experiment.recipes)):
            given = block.get(key)
            if given is not None and given not in known:
                hint = nearest(given, known)
                yield f"poisons.{name}.{key}: expected a name defined in this experiment, got {given!r}{hint}"


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


def _check_needs(experiment: Experiment) -> Iterator[str]:
    """Every defense and every poison has what it needs to start."""
    for kind in ("defenses", "poisons"):
        for name, block in getattr(experiment, kind).items():
            for key in getattr(make(kind, name, block), "needs", ()):
                if not block.get(key):
                    start = f"a {block['kind']} cannot start without it"
                    yield f"{kind}.{name}.{key}: required key is missing ({start})"


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
        ("properties", study.properties, experiment.properties),
        ("detectors", study.detectors, experiment.detectors),
        ("interpretations", study.interpretations, experiment.interpretations),
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
        own = plan.experiment.defenses[run.defense].get("recipe")
        recipes = [] if own else sorted({study.recipe for study in plan.studies(run)})
        for key, found in (("recipe", recipes), ("control", plan.controls_of(run))):
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
