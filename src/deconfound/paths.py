"""Files of the artifacts of an experiment, relative to its root. Paths carry names, never values."""

from typing import Any

from deconfound.runs import Run

WEIGHTS = ("model.safetensors", "run.json", "trace.npz", "parts.safetensors")
SPLITS = ("train", "val", "test")


def run_of(wildcards: Any) -> Run:
    """The run that a job's wildcards name."""
    return Run(wildcards.dataset, wildcards.poison, wildcards.model, wildcards.defense, int(wildcards.seed))


def split(dataset: str, name: str) -> str:
    """File of a split."""
    return f"data/clean/{dataset}/{name}.npz"


def poisoned(run: Run) -> str:
    """File of the poisoned sets of a run."""
    return f"data/poisoned/{run.dataset}/{run.poison}/seed{run.seed}.npz"


def manifest(run: Run) -> str:
    """File from which the poisoned sets of a run are made again."""
    return f"data/poisoned/{run.dataset}/{run.poison}/seed{run.seed}.json"


def adversarial(run: Run, attack: str) -> str:
    """File of a crafted set."""
    return f"data/adversarial/{run}/{attack}.npz"


def crafted(run: Run, attack: str) -> str:
    """File of a training set crafted on a run, for a defense."""
    return f"data/crafted/{run}/{attack}.npz"


def evaluation(run: Run) -> str:
    """File of the results of a run."""
    return f"results/{run}/evaluation.json"


def interpretation(run: Run) -> str:
    """File of what was read off a run."""
    return f"results/{run}/interpretation.json"
