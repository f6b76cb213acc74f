"""What a step knows of a trained model beyond its weights, and what it measures with that."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconfound.defenses import DEFENSES
from deconfound.defenses.workbench import Composed
from deconfound.detection import Truth, detect
from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Evidence
from deconfound.evaluation import Evaluation, target_of
from deconfound.progress import progress
from deconfound.properties import PROPERTIES
from deconfound.properties.subject import Subject
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.storage import read_weights
from deconfound.types import Array, Images, Term


@dataclass(frozen=True)
class Knowledge:
    """How a model was made: its folder, its record (run.json), and the network itself."""

    folder: Path
    about: Mapping[str, Any]
    model: Any

    def defense(self) -> Any:
        """The hyper-parameters of the defense that it was trained with."""
        return build(DEFENSES, self.about["spec"]["defense"], at="defense")

    def parts(self) -> dict[str, Tensor]:
        """Tensors that the defense left beside the model."""
        device = next(self.model.parameters()).device
        return {
            name: part.to(device) for name, part in read_weights(self.folder / "parts.safetensors").items()
        }

    def term(self, spec: Mapping[str, Any]) -> Term | None:
        """What the adaptive attack of the spec is told; None where there is no such attack, or nothing to tell."""
        if all(block.get("kind") != "adaptive" for block in spec["attacks"].values()):
            return None
        defense = self.defense()
        return defense.term(self.model, self.parts()) if isinstance(defense, Composed) else None


def measure(
    evaluation: Evaluation, known: Knowledge, train: Path | None, blocks: Mapping[str, Any]
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Properties by name: values per attacked image, packed for storing, and the numbers of the run that there were."""
    values: list[dict[str, str]] = []
    numbers: dict[str, float] = {}
    if not blocks or train is None:
        return values, numbers
    engine, (images, classes) = evaluation.engine, load_images(train)
    attacked = Images(engine.images.x[: evaluation.count], engine.images.y[: evaluation.count])
    subject = Subject(
        model=known.model,
        defense=known.defense(),
        parts=known.parts(),
        train=images,
        test=attacked,
        classes=len(classes),
        rng=partial(generator, engine.seed),
        standing=_standing(evaluation),
    )
    with progress("measuring properties", len(blocks)) as tick:
        for name, block in blocks.items():
            found = build(PROPERTIES, block, at=f"properties.{name}")(subject)
            for key, array in found.values.items():
                values.append({"name": key, "subset": evaluation.subset, "values": _packed(array)})
            numbers |= {key: number for key, number in found.numbers.items() if not math.isnan(number)}
            tick(name)
    return values, numbers


def look(
    evaluation: Evaluation,
    known: Knowledge,
    files: tuple[Path | None, Path | None],
    poisoned: Mapping[str, Array] | None,
    blocks: Mapping[str, Any],
) -> dict[str, float]:
    """Ask detectors by name; their entries go to the evaluation, the numbers of the run come back. files: training set
    and held-out images.
    """
    train, val = (load_images(file)[0] for file in files if file)
    engine = evaluation.engine
    seen = Evidence(known.model, train, val, partial(generator, engine.seed, "detector"))
    truth = Truth(np.zeros(len(train.y), bool), None, engine.images.x, engine.images.x[:0])
    if poisoned is not None:
        hoped = torch.from_numpy(poisoned["test_y"])
        stamped = torch.from_numpy(poisoned["test_x"])[hoped != engine.images.y]
        mask = poisoned["mask"].astype(bool)
        truth = Truth(mask, target_of(engine.images.y, hoped), engine.images.x, stamped)
    measures: dict[str, float] = {}
    with progress("asking detectors", len(blocks)) as tick:
        for name, block in blocks.items():
            found = detect(name, build(DETECTORS, block, at=f"detectors.{name}"), seen, truth)
            evaluation.entries += found.entries
            measures |= found.measures
            tick(name)
    return measures


def _standing(evaluation: Evaluation) -> Array | None:
    """(N,) bool: attacked images that no linf attack broke, at the largest eps; None without such an attack."""
    budgets = [key for key in evaluation.standing if key[0] == "linf"]
    if not budgets:
        return None
    standing = np.zeros(evaluation.count, bool)
    standing[evaluation.standing[max(budgets)]] = True
    return standing


def _packed(array: Array) -> str:
    return base64.b64encode(np.asarray(array).astype("<f4").tobytes()).decode()
