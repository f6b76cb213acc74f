"""Poison a training set, and stamp the test set for scoring. What is kept is a manifest of a few kilobytes, from which
the sets are made again byte for byte.
"""

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.errors import DataError
from deconfound.models import MODELS
from deconfound.poisons import POISONS
from deconfound.poisons.workshop import Poisoned, Workshop
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.steps.networks import fresh, recipe_of
from deconfound.steps.spec import require
from deconfound.storage import array_digest, digest, provenance, read_json, write_json, write_npz
from deconfound.training import Trainer, only_one
from deconfound.types import Array, Images

CPU = torch.device("cpu")


def run(
    *,
    train: Path,
    test: Path,
    spec: Mapping[str, Any],
    seed: int,
    out: Path,
    device: torch.device = CPU,
    scratch: Path = Path("scratch"),
) -> None:
    """Write the poisoned training set with its mask and every test image stamped with its hoped-for label (OUT), and
    the manifest beside it (OUT with the suffix .json).

    spec: `poison` (a block), and the blocks `surrogate` and `training` for a poison that trains a network of its own.
    """
    arrays, manifest = _make(train, test, spec, seed, device, scratch)
    write_npz(out, arrays)
    inputs = provenance({"train": train, "test": test})
    write_json(out.with_suffix(".json"), manifest | {"provenance": inputs})


def again(
    *,
    train: Path,
    test: Path,
    manifest: Path,
    out: Path,
    device: torch.device = CPU,
    scratch: Path = Path("scratch"),
) -> None:
    """Make the sets of a manifest again, from the clean splits.

    Raises DataError where the splits are others, or what comes out is not what the manifest promises.
    """
    promised = read_json(manifest)
    require(promised, "spec", "seed", "checksums", at=str(manifest))
    clean, _ = load_images(train)
    if array_digest(clean.x.numpy(), clean.y.numpy()) != promised["checksums"]["clean"]:
        raise DataError(f"{train}: not the training set that {manifest} was made from")
    arrays, made = _make(train, test, promised["spec"], promised["seed"], device, scratch)
    for key in ("poisoned", "cover", "checksums"):
        if made[key] != promised[key]:
            raise DataError(
                f"{manifest}: expected the same {key} again, got others; another version or machine?"
            )
    write_npz(out, arrays)


def _make(
    train: Path, test: Path, spec: Mapping[str, Any], seed: int, device: torch.device, scratch: Path
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of the poisoned set, and its manifest."""
    require(spec, "poison", at="--spec")
    clean, classes = load_images(train)
    held, _ = load_images(test)
    poison = build(POISONS, spec["poison"], at="poisons")
    room = scratch / digest(["poison", spec, seed, array_digest(clean.x.numpy(), clean.y.numpy())])
    with only_one(room):
        done: Poisoned = poison(_workshop(clean, len(classes), spec, seed, device, room))
        arrays = _arrays(done, held, poison.hoped(held.y, classes=len(classes)))
        for state in room.glob("*.safetensors"):
            state.unlink()
    manifest = {
        "spec": dict(spec),
        "seed": seed,
        "classes": list(classes),
        "images": len(clean.y),
        "poisoned": _places(done.mask),
        "cover": _places(done.cover),
        "checksums": {
            "clean": array_digest(clean.x.numpy(), clean.y.numpy()),
            "poisoned": array_digest(arrays["x"], arrays["y"]),
            "triggered": array_digest(arrays["test_x"], arrays["test_y"]),
            "trigger": {
                name: array_digest(part.numpy()) for name, part in sorted(done.planting.arrays.items())
            },
        },
    }
    return arrays | {"classes": np.array(classes)}, manifest


def _workshop(
    clean: Images, classes: int, spec: Mapping[str, Any], seed: int, device: torch.device, room: Path
) -> Workshop:
    """The bench of an attacker; with a surrogate to train where the spec has one."""
    rng = partial(generator, seed, "poison")
    if not spec.get("surrogate"):
        return Workshop(clean, classes, rng)
    require(spec, "training", at="--spec")
    recipe = recipe_of(spec["training"])
    architecture = build(MODELS, spec["surrogate"], at="surrogate")
    nobody = Images(clean.x[:0], clean.y[:0])
    own = int(generator(seed, "poison", "surrogate").initial_seed())
    fit = Trainer(clean, nobody, recipe, own, device, scratch=room).fit
    return Workshop(
        clean, classes, rng, partial(fresh, architecture, clean, classes, own, device), recipe, fit
    )


def _arrays(done: Poisoned, held: Images, hoped: torch.Tensor) -> dict[str, Array]:
    arrays = {
        "x": done.images.x,
        "y": done.images.y,
        "mask": done.mask,
        "cover": done.cover,
        "test_x": done.planting.stamp(held.x),
        "test_y": hoped,
    }
    if done.planting.cross:
        arrays["cross_x"] = done.planting.cross(held.x)
    return {name: array.numpy() for name, array in arrays.items()}


def _places(mask: torch.Tensor) -> dict[str, Any]:
    """Which images, as a count and as packed bits (N / 8 bytes, little endian, base64)."""
    bits = np.packbits(mask.numpy(), bitorder="little").tobytes()
    return {"count": int(mask.sum()), "bits": base64.b64encode(bits).decode()}
