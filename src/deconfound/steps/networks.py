"""Fresh networks, as steps hand them out."""

from typing import Any

import torch

from deconfound.models.classifier import Classifier
from deconfound.rng import generator, global_seed
from deconfound.types import Images


def fresh(
    architecture: Any, images: Images, classes: int, seed: int, device: torch.device, purpose: str
) -> Classifier:
    """A fresh network for images like these, normalised for them; the purpose selects the initialisation."""
    with global_seed(generator(seed, "init", purpose)):
        model: Classifier = architecture(tuple(images.x.shape[1:]), classes)
    model.normalise_like(images.x)
    return model.to(device)
