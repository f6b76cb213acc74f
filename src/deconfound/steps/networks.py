"""Fresh networks and their recipes, as steps hand them out."""

from collections.abc import Mapping
from typing import Any

import torch

from deconfound.models.classifier import Classifier, placed
from deconfound.recipe import Recipe
from deconfound.registry import build
from deconfound.rng import generator, global_seed
from deconfound.types import Images


def fresh(
    architecture: Any, images: Images, classes: int, seed: int, device: torch.device, purpose: str
) -> Classifier:
    """A fresh network for images like these, normalised for them; the purpose selects the initialisation."""
    with global_seed(generator(seed, "init", purpose)):
        model: Classifier = architecture(tuple(images.x.shape[1:]), classes)
    model.normalise_like(images.x)
    return placed(model, device, shape=images.x.shape[1:])


def recipe_of(block: Mapping[str, Any]) -> Recipe:
    """The recipe that a spec describes."""
    table = {"recipe": f"{Recipe.__module__}:{Recipe.__name__}"}
    made: Recipe = build(table, {"kind": "recipe", **block}, at="training")
    return made
