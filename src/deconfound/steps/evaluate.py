"""Score one trained model: clean, attacked, triggered; and ask the trust gate whether to believe it."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.defenses import DEFENSES
from deconfound.defenses.workbench import Composed
from deconfound.engine import Engine, Notebook, Speed
from deconfound.errors import ConfigError
from deconfound.evaluation import Evaluation
from deconfound.gate import Gate
from deconfound.measures import poison_measures, training_measures
from deconfound.progress import progress
from deconfound.properties import PROPERTIES
from deconfound.properties.subject import Subject
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.steps.spec import require
from deconfound.steps.weights import load_model
from deconfound.storage import digest, provenance, read_json, read_npz, read_weights, sha256, write_json
from deconfound.trust import model_checks, threat_checks
from deconfound.types import Images

DEFAULT = Speed()
MOVED = {"do_style": "x_do_style"}  # name of the measure -> array beside the test split


def run(
    *,
    model: Path,
    test: Path,
    spec: Mapping[str, Any],
    out: Path,
    device: torch.device,
    poisoned: Path | None = None,
    stored: Mapping[str, Path] | None = None,
    train: Path | None = None,
    scratch: Path = Path("scratch"),
    speed: Speed = DEFAULT,
    code: str = "",
) -> None:
    """Write evaluation.json for the model in the folder `model`.

    spec: `attacks` (blocks by name), their `order`, those measured `alone`, `curves`, `properties`, `examples`, `gate`.
    poisoned: the poisoned set of the run, if any; stored: per transfer attack the file of images; train: what the model
    was trained on, for properties. scratch holds the finished batches of a killed evaluation, keyed by all that they
    depend on.
    """
    require(spec, "attacks", "curves", "examples", at="--spec")
    stored = stored or {}
    for name, block in spec["attacks"].items():
        if block.get("kind") == "transfer" and name not in stored:
            raise ConfigError(f"--stored: the transfer {name} needs its images: --stored NAME=FILE")
    about = read_json(model / "run.json")
    images, classes = load_images(test)
    inputs = {"model": model / "model.safetensors", "test": test} | dict(stored)
    key = digest([spec, about["run"], code, {name: sha256(path) for name, path in inputs.items()}])
    transfers = {name: torch.from_numpy(read_npz(path, "x_adv")["x_adv"]) for name, path in stored.items()}
    notebook = Notebook(scratch / f"evaluate-{key}.json", key)
    engine = Engine(
        load_model(model, device), images, int(about["run"]["seed"]), transfers, speed, notebook=notebook
    )
    knowledge = Knowledge(model, about, engine.model)
    evaluation = Evaluation(engine, spec["examples"], knowledge.term(spec))
    evaluation.clean_accuracy()
    for name, array in _moved(test).items():
        evaluation.moved(name, array)
    trust = _attack(evaluation, spec)
    subsets = {"test": images.y.numpy(), "attacked": images.y[: spec["examples"]].numpy()}
    measures: dict[str, float] = training_measures(about["history"])
    values: list[dict[str, str]] = []
    if spec.get("properties"):
        if train is None:
            raise ConfigError("--train: properties need the training set: --train FILE")
        values, numbers = _properties(evaluation, knowledge, train, spec["properties"])
        measures |= numbers
        inputs["train"] = train
    if poisoned:
        arrays = read_npz(poisoned, "mask", "test_x", "test_y")
        triggered = Images(torch.from_numpy(arrays["test_x"]), torch.from_numpy(arrays["test_y"]))
        subsets |= evaluation.backdoor(about["run"]["poison"], triggered)
        measures |= poison_measures(read_npz(model / "trace.npz"), arrays["mask"].astype(bool))
        inputs["poisoned"] = poisoned
    found = {
        "run": about["run"],
        "classes": list(classes),
        "subsets": {k: _packed(v) for k, v in subsets.items()},
    }
    entries = [entry.to_json() for entry in evaluation.entries]
    found |= {"entries": entries, "measures": measures, "values": values}
    found |= {"costs": [asdict(cost) for cost in evaluation.costs], "gate": trust}
    write_json(out, found | {"spec": dict(spec), "provenance": provenance(inputs)})
    notebook.forget()


@dataclass(frozen=True)
class Knowledge:
    """What is known of how a model was made: its folder, its record, and the defense that this names."""

    folder: Path
    about: Mapping[str, Any]
    model: Any

    def defense(self) -> Any:
        """The hyper-parameters of the defense."""
        return build(DEFENSES, self.about["spec"]["defense"], at="defense")

    def parts(self) -> dict[str, Any]:
        """Tensors that the defense left beside the model."""
        device = next(self.model.parameters()).device
        return {
            name: part.to(device) for name, part in read_weights(self.folder / "parts.safetensors").items()
        }

    def term(self, spec: Mapping[str, Any]) -> Any:
        """What the adaptive attack of the spec is told; None where there is no such attack, or nothing to tell."""
        if all(block.get("kind") != "adaptive" for block in spec["attacks"].values()):
            return None
        defense = self.defense()
        return defense.term(self.model, self.parts()) if isinstance(defense, Composed) else None


def _properties(
    evaluation: Evaluation, known: Knowledge, train: Path, blocks: Mapping[str, Any]
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Values per attacked image as stored, and numbers of the run."""
    engine = evaluation.engine
    images, classes = load_images(train)
    test = Images(engine.images.x[: evaluation.count], engine.images.y[: evaluation.count])
    budgets = [key for key in evaluation.standing if key[0] == "linf"]
    standing = None
    if budgets:
        standing = np.zeros(evaluation.count, bool)
        standing[evaluation.standing[max(budgets)]] = True
    subject = Subject(
        known.model,
        known.defense(),
        known.parts(),
        images,
        test,
        len(classes),
        partial(generator, engine.seed),
        standing,
    )
    values: list[dict[str, str]] = []
    numbers: dict[str, float] = {}
    with progress("measuring properties", len(blocks)) as tick:
        for name, block in blocks.items():
            found = build(PROPERTIES, block, at=f"properties.{name}")(subject)
            for key, array in found.values.items():
                text = base64.b64encode(np.asarray(array).astype("<f4").tobytes()).decode()
                values.append({"name": key, "subset": evaluation.subset, "values": text})
            numbers |= dict(found.numbers)
            tick(name)
    return values, numbers


def _attack(evaluation: Evaluation, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every attack and curve of the spec, then the gate; its checks, or None where the spec leaves it out."""
    order = spec.get("order") or sorted(spec["attacks"])
    blocks = {name: spec["attacks"][name] for name in order}
    gate = Gate(**spec["gate"]) if spec.get("gate") else None
    steps = len(blocks) + sum(len(curve["values"]) for curve in spec["curves"])
    with progress("evaluating", steps) as tick:
        evaluation.robust(blocks, tick, alone=spec.get("alone", blocks))
        for curve in spec["curves"]:
            evaluation.curve(curve["name"], curve["attack"], curve["axis"], curve["values"], tick)
    return _gate(evaluation, gate) if gate else None


def _gate(evaluation: Evaluation, gate: Gate) -> dict[str, Any]:
    engine = evaluation.engine
    reported = list(evaluation.costs)
    gate = replace(gate, examples=max(1, min(gate.examples, evaluation.count)))  # images that were attacked
    with progress("asking the trust gate", 1 + len(evaluation.standing)) as tick:
        found = {"model": [check.to_json() for check in model_checks(engine, gate)], "threats": []}
        tick("model")
        for key, threat in evaluation.threats.items():
            costs = [cost for cost in reported if (cost.norm, cost.eps) == key]
            checks = threat_checks(engine, threat, evaluation.standing[key], gate, costs)
            stored = [check.to_json() for check in checks]
            found["threats"].append({"norm": threat.norm, "eps": threat.eps, "checks": stored})
            tick(f"{threat.norm} {threat.eps:g}")
    return found


def _moved(test: Path) -> dict[str, Any]:
    present = read_npz(test)
    return {name: present[array] for name, array in MOVED.items() if array in present}


def _packed(labels: Any) -> str:
    return base64.b64encode(np.asarray(labels).astype("<u2").tobytes()).decode()
