"""Score one trained model: clean, attacked, triggered; and ask the trust gate whether to believe it."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.engine import Engine, Notebook, Speed
from deconfound.errors import ConfigError
from deconfound.evaluation import Evaluation
from deconfound.gate import Gate
from deconfound.measures import cost_measures, poison_measures, training_measures
from deconfound.progress import progress
from deconfound.steps.images import load_images
from deconfound.steps.knowledge import Knowledge, look, measure
from deconfound.steps.spec import require
from deconfound.steps.weights import load_model
from deconfound.storage import digest, provenance, read_json, read_npz, sha256, write_json
from deconfound.trust import model_checks, threat_checks
from deconfound.types import Array, Images

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
    val: Path | None = None,
    scratch: Path = Path("scratch"),
    speed: Speed = DEFAULT,
    code: str = "",
) -> None:
    """Write evaluation.json for the model in the folder `model`.

    spec: `attacks` (blocks by name), their `order`, those measured `alone`, `curves`, `properties`, `detectors`,
    `examples`, `gate`. poisoned: the poisoned set of the run, if any; stored: per transfer attack the file of images;
    train: what the model was trained on, for properties and detectors; val: clean held-out images, for detectors.
    scratch holds the finished batches of a killed evaluation, keyed by all that they depend on.
    """
    require(spec, "attacks", "curves", "examples", at="--spec")
    stored = stored or {}
    _check(spec, stored, train, val)
    about = read_json(model / "run.json")
    images, classes = load_images(test)
    inputs = {"model": model / "model.safetensors", "parts": model / "parts.safetensors", "test": test}
    inputs |= dict(stored)
    key = digest([spec, about["run"], code, {name: sha256(path) for name, path in inputs.items()}])
    transfers = {name: torch.from_numpy(read_npz(path, "x_adv")["x_adv"]) for name, path in stored.items()}
    notebook = Notebook(scratch / f"evaluate-{key}.json", key)
    network, seed = load_model(model, device), int(about["run"]["seed"])
    engine = Engine(network, images, seed, transfers, speed, notebook=notebook)
    known = Knowledge(model, about, engine.model)
    evaluation = Evaluation(engine, spec["examples"], known.term(spec))
    evaluation.clean_accuracy()
    for name, array in _moved(test).items():
        evaluation.moved(name, array)
    trust = _attack(evaluation, spec)
    subsets = {"test": images.y.numpy(), "attacked": images.y[: spec["examples"]].numpy()}
    values, measures = measure(evaluation, known, train, spec.get("properties", {}))
    measures |= training_measures(about["history"]) | cost_measures(about)
    inputs |= {name: path for name, path in (("train", train), ("val", val), ("poisoned", poisoned)) if path}
    arrays = read_npz(poisoned) if poisoned else None
    if arrays:
        subsets |= _backdoor(evaluation, about["run"]["poison"], arrays)
        measures |= poison_measures(read_npz(model / "trace.npz"), arrays["mask"].astype(bool))
    if spec.get("detectors"):
        measures |= look(evaluation, known, (train, val), arrays, spec["detectors"])
    packed = {name: _packed(labels) for name, labels in subsets.items()}
    found = {"run": about["run"], "classes": list(classes), "subsets": packed}
    entries = [entry.to_json() for entry in evaluation.entries]
    found |= {"entries": entries, "measures": measures, "values": values}
    found |= {"costs": [asdict(cost) for cost in evaluation.costs], "gate": trust}
    write_json(out, found | {"spec": dict(spec), "provenance": provenance(inputs)})
    notebook.forget()


def _backdoor(evaluation: Evaluation, poison: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Score the stamped test images of a poisoned set; the labels of the new subsets."""
    stamped = Images(torch.from_numpy(arrays["test_x"]), torch.from_numpy(arrays["test_y"]))
    cross = torch.from_numpy(arrays["cross_x"]) if "cross_x" in arrays else None
    return evaluation.backdoor(poison, stamped, cross)


def _check(spec: Mapping[str, Any], stored: Mapping[str, Path], train: Path | None, val: Path | None) -> None:
    """Files that the spec needs and the command lacks."""
    for name, block in spec["attacks"].items():
        if block.get("kind") == "transfer" and name not in stored:
            raise ConfigError(f"--stored: the transfer {name} needs its images: --stored NAME=FILE")
    if spec.get("properties") and train is None:
        raise ConfigError("--train: properties need the training set: --train FILE")
    if spec.get("detectors") and (train is None or val is None):
        raise ConfigError(
            "--train, --val: detectors need what the model was trained on, and clean held-out images"
        )


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
