"""Poison a training set, and stamp the test set for scoring."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deconfound.poisons import POISONS
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.storage import provenance, write_npz


def run(*, train: Path, test: Path, spec: Mapping[str, Any], seed: int, out: Path) -> None:
    """Write the poisoned training set with its mask, and every test image stamped with its hoped-for label."""
    clean, classes = load_images(train)
    held, _ = load_images(test)
    poison = build(POISONS, spec, at="poisons")
    edited = poison(clean, classes=len(classes), rng=generator(seed, "poison"))
    stamped = poison.triggered(held, classes=len(classes))
    arrays = {
        "x": edited.images.x.numpy(),
        "y": edited.images.y.numpy(),
        "mask": edited.mask.numpy(),
        "test_x": stamped.x.numpy(),
        "test_y": stamped.y.numpy(),
        "classes": np.array(classes),
    }
    about = {"spec": dict(spec), "seed": seed, "provenance": provenance({"train": train, "test": test})}
    write_npz(out, arrays, about=about)
