"""Read off one trained model where its evidence lies, with the truth at hand."""

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconfound.defenses.standard import cross_entropy
from deconfound.experiment import make
from deconfound.interpretations.case import Case, Floats, Place, Truth
from deconfound.models import MODELS
from deconfound.models.classifier import Classifier
from deconfound.progress import progress
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.steps.knowledge import Knowledge
from deconfound.steps.networks import fresh, recipe_of
from deconfound.steps.weights import load_model
from deconfound.storage import provenance, read_json, read_npz, write_json, write_npz
from deconfound.training import Trainer
from deconfound.types import Array, Images

TRUTHS = {"mask": "mask", "style": "style", "moved": "x_do_style", "moved_style": "style_do"}


def run(
    *,
    model: Path,
    test: Path,
    train: Path,
    val: Path,
    spec: Mapping[str, Any],
    out: Path,
    device: torch.device,
    poisoned: Path | None = None,
) -> None:
    """Write interpretation.json for the model in the folder `model`, and pictures.npz beside it.

    spec: blocks of interpretations by name. train: what the model was trained on; val: clean held-out images; poisoned:
    the poisoned set of the run, if any.
    """
    about = read_json(model / "run.json")
    case, classes = _case(model, about, test, train, val, poisoned, device)
    found: list[dict[str, Any]] = []
    pictures: dict[str, Array] = {}
    notes: dict[str, list[str]] = {}
    with progress("interpreting", len(spec)) as tick:
        for name, block in spec.items():
            readings = make("interpretations", name, block)(case)
            common = {"of": name, "kind": block["kind"]}
            found += [common | _stored(place, values) for place, values in readings.each.items()]
            found += [
                common | place._asdict() | {"number": number} for place, number in readings.once.items()
            ]
            pictures |= {f"{name}.{key}": array for key, array in readings.pictures.items()}
            notes[name] = readings.notes
            tick(name)
    inputs = {"model": model / "model.safetensors", "parts": model / "parts.safetensors", "test": test}
    inputs |= {"train": train, "val": val} | ({"poisoned": poisoned} if poisoned else {})
    write_npz(out.with_name("pictures.npz"), pictures)
    said = {"run": about["run"], "classes": list(classes), "readings": found, "notes": notes}
    write_json(out, said | {"spec": dict(spec), "provenance": provenance(inputs)})


def _stored(place: Place, values: Floats) -> dict[str, str]:
    packed = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return place._asdict() | {"values": packed}


def _case(
    folder: Path,
    about: Mapping[str, Any],
    test: Path,
    train: Path,
    val: Path,
    poisoned: Path | None,
    device: torch.device,
) -> tuple[Case, tuple[str, ...]]:
    network, seed = load_model(folder, device), int(about["run"]["seed"])
    known = Knowledge(folder, about, network)
    images, classes = load_images(test)
    held, _ = load_images(val)
    trained, _ = load_images(train)
    case = Case(
        model=network,
        defense=known.defense(),
        parts=known.parts(),
        train=trained,
        test=images,
        classes=len(classes),
        rng=partial(generator, seed),
        val=held,
        truth=_truth(test, poisoned),
        retrained=partial(_retrained, about, held, seed, device),
    )
    return case, classes


def _truth(test: Path, poisoned: Path | None) -> Truth:
    """All that the files say beside images and labels."""
    arrays = read_npz(test)
    known: dict[str, Tensor] = {
        name: torch.from_numpy(arrays[array]) for name, array in TRUTHS.items() if array in arrays
    }
    if poisoned is not None:
        stored = read_npz(poisoned, "test_x", "test_y", "mask")
        names = {"stamped": "test_x", "hoped": "test_y", "poisoned": "mask"}
        known |= {name: torch.from_numpy(np.asarray(stored[array])) for name, array in names.items()}
    return Truth(**known)


def _retrained(
    about: Mapping[str, Any], held: Images, seed: int, device: torch.device, images: Images, purpose: str
) -> Classifier:
    """A network of the run's architecture and recipe, trained the plain way."""
    architecture = build(MODELS, about["spec"]["model"], at="model")
    model = fresh(architecture, images, len(about["classes"]), seed, device, purpose)
    trainer = Trainer(images, held, recipe_of(about["spec"]["training"]), seed, device)
    trainer.fit(model, cross_entropy, phase=purpose)
    return model.eval()
