"""Score one trained model: clean, attacked, triggered."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.errors import ConfigError
from deconfound.evaluation import Evaluation, poison_measures
from deconfound.progress import progress
from deconfound.steps.images import load_images
from deconfound.steps.spec import require
from deconfound.steps.weights import load_model
from deconfound.storage import provenance, read_json, read_npz, write_json
from deconfound.types import Images

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
) -> None:
    """Write evaluation.json for the model in the folder `model`.

    spec: `attacks` (blocks by name), `curves`, `examples`. poisoned: the poisoned set of the run, if any;
    stored: per transfer attack the file of images.
    """
    require(spec, "attacks", "curves", "examples", at="--spec")
    stored = stored or {}
    for name, block in spec["attacks"].items():
        if block.get("kind") == "transfer" and name not in stored:
            raise ConfigError(f"--stored: the transfer {name} needs its images: --stored NAME=FILE")
    about = read_json(model / "run.json")
    images, classes = load_images(test)
    network = load_model(model, device)
    transfers = {name: torch.from_numpy(read_npz(path, "x_adv")["x_adv"]) for name, path in stored.items()}
    evaluation = Evaluation(network, images, int(about["run"]["seed"]), transfers, spec["examples"])
    evaluation.clean_accuracy()
    for name, array in _moved(test).items():
        evaluation.moved(name, array)
    steps = len(spec["attacks"]) + sum(len(curve["eps"]) for curve in spec["curves"])
    with progress("evaluating", steps) as tick:
        evaluation.robust(spec["attacks"], tick)
        for curve in spec["curves"]:
            evaluation.curve(curve["name"], curve["attack"], curve["eps"], tick)
    subsets = {"test": images.y.numpy(), "attacked": images.y[: spec["examples"]].numpy()}
    measures: dict[str, float] = {}
    inputs = {"model": model / "model.safetensors", "test": test} | dict(stored)
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
    found |= {"entries": [entry.to_json() for entry in evaluation.entries], "measures": measures}
    write_json(out, found | {"spec": dict(spec), "provenance": provenance(inputs)})


def _moved(test: Path) -> dict[str, Any]:
    present = read_npz(test)
    return {name: present[array] for name, array in MOVED.items() if array in present}


def _packed(labels: Any) -> str:
    return base64.b64encode(np.asarray(labels).astype("<u2").tobytes()).decode()
