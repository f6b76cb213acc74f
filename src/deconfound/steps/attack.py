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
    *,
    model: Path,
    images: Path,
    spec: Mapping[str, Any],
    name: str,
    seed: int,
    out: Path,
    device: torch.device,
) -> None:
    """Attack every image of a stored set (a test split, a training set) on the model in the folder `model`; write
    images, originals, labels and predictions.
    """
    network = load_model(model, device)
    originals, classes = load_images(images)
    attack = build(ATTACKS, spec, at=f"attacks.{name}")
    crafted = []
    parts = torch.arange(len(originals.y)).split(BATCH)  # type: ignore[no-untyped-call]
    with progress(f"attacking with {name}", len(parts)) as tick:
        for number, chosen in enumerate(parts):
            x, y = to_unit(originals.x[chosen].to(device)), originals.y[chosen].to(device)
            crafted.append(attack(network, x, y, rng=generator(seed, "attack", name, number)).cpu())
            tick()
    x_adv = torch.cat(crafted)
    arrays = {
        "x_adv": x_adv.numpy(),
        "x": originals.x.numpy(),
        "y": originals.y.numpy(),
        "before": predict(network, originals.x).argmax(1).numpy(),
        "after": predict(network, x_adv).argmax(1).numpy(),
        "classes": np.array(classes),
    }
    inputs = {"model": model / "model.safetensors", "images": images}
    write_npz(out, arrays, about={"spec": dict(spec), "seed": seed, "provenance": provenance(inputs)})
