"""Craft adversarial images on a trained model and keep them, for transfer, detectors and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.attacks import ATTACKS
from deconfound.models.classifier import predict, to_unit
from deconfound.progress import progress
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.steps.weights import load_model
from deconfound.storage import provenance, write_npz

BATCH = 256


def run(
    *, model: Path, test: Path, spec: Mapping[str, Any], name: str, seed: int, out: Path, device: torch.device
) -> None:
    """Attack every test image of the model in the folder `model`; write images, originals, labels and
    predictions.
    """
    network = load_model(model, device)
    images, classes = load_images(test)
    attack = build(ATTACKS, spec, at=f"attacks.{name}")
    crafted = []
    parts = torch.arange(len(images.y)).split(BATCH)  # type: ignore[no-untyped-call]
    with progress(f"attacking with {name}", len(parts)) as tick:
        for number, chosen in enumerate(parts):
            x, y = to_unit(images.x[chosen].to(device)), images.y[chosen].to(device)
            crafted.append(attack(network, x, y, rng=generator(seed, "attack", name, number)).cpu())
            tick()
    x_adv = torch.cat(crafted)
    arrays = {
        "x_adv": x_adv.numpy(),
        "x": images.x.numpy(),
        "y": images.y.numpy(),
        "before": predict(network, images.x).argmax(1).numpy(),
        "after": predict(network, x_adv).argmax(1).numpy(),
        "classes": np.array(classes),
    }
    inputs = {"model": model / "model.safetensors", "test": test}
    write_npz(out, arrays, about={"spec": dict(spec), "seed": seed, "provenance": provenance(inputs)})
