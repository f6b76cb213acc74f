"""Stored images, as steps read them."""

from pathlib import Path

import torch

from deconfound.errors import DataError
from deconfound.storage import read_npz
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
