"""Stored images and stored models, as steps read them."""

from pathlib import Path

import torch

from deconfound.errors import DataError
from deconfound.models import MODELS
from deconfound.models.classifier import Classifier
from deconfound.registry import build
from deconfound.storage import read_json, read_npz, read_weights
from deconfound.types import Images


def load_images(path: Path) -> tuple[Images, tuple[str, ...]]:
    """Images and class names of a stored split or poisoned set; the poison mask stays in the file."""
    arrays = read_npz(path, "x", "y", "classes")
    if arrays["x"].dtype != "uint8" or arrays["x"].ndim != 4:
        raise DataError(
            f"{path}: expected uint8 images (N, C, H, W), got {arrays['x'].dtype} {arrays['x'].shape}"
        )
    images = Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]))
    return images, tuple(map(str, arrays["classes"]))


def load_model(folder: Path, device: torch.device) -> Classifier:
    """The trained network of a run's folder, in evaluation mode."""
    about = read_json(folder / "run.json")
    architecture = build(MODELS, about["spec"]["model"], at="models")
    model: Classifier = architecture(tuple(about["shape"]), len(about["classes"]))
    try:
        model.load_state_dict(read_weights(folder / "model.safetensors"))
    except RuntimeError as error:
        raise DataError(f"{folder}: the weights do not fit the architecture in run.json: {error}") from error
    return model.to(device).eval()
