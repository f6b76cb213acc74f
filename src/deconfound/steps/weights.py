"""Stored models, as steps read them."""

from pathlib import Path

import torch

from deconfound.errors import DataError
from deconfound.models import MODELS
from deconfound.models.classifier import Classifier, placed
from deconfound.registry import build
from deconfound.storage import read_json, read_weights


def load_model(folder: Path, device: torch.device) -> Classifier:
    """The trained network of a run's folder, in evaluation mode."""
    about = read_json(folder / "run.json")
    architecture = build(MODELS, about["spec"]["model"], at="models")
    model: Classifier = architecture(tuple(about["shape"]), len(about["classes"]))
    try:
        model.load_state_dict(read_weights(folder / "model.safetensors"))
    except RuntimeError as error:
        raise DataError(f"{folder}: the weights do not fit the architecture in run.json: {error}") from error
    return placed(model, device, shape=about["shape"]).eval()
