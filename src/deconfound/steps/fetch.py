"""Fetch a data set and cut its splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deconfound.data import DATASETS
from deconfound.data.splits import cut_val, limit
from deconfound.registry import build
from deconfound.steps.spec import require
from deconfound.storage import provenance, write_npz
from deconfound.types import Array, Split


def run(*, spec: Mapping[str, Any], cache: Path, out: Path) -> None:
    """Write train.npz, val.npz and test.npz into `out`; downloads stay in `cache`.

    spec: `source` (the block of the data set), `val` (fraction of train), `slice` (sizes), `split_seed`.
    """
    require(spec, "source", "val", "slice", "split_seed", at="--spec")
    source = build(DATASETS, spec["source"], at="datasets").fetch(cache)
    seed = int(spec["split_seed"])
    sizes = spec["slice"]
    train, val = cut_val(source.train, float(spec["val"]), seed=seed)
    parts = {
        "train": _sliced(train, sizes["train"], seed),
        "val": val,
        "test": _sliced(source.test, sizes["test"], seed),
    }
    about = {"spec": dict(spec), "provenance": provenance({})}
    for name, split in parts.items():
        write_npz(out / f"{name}.npz", arrays(split, source.classes), about=about)


def _sliced(split: Split, count: int | None, seed: int) -> Split:
    return split if count is None else limit(split, count, seed=seed)


def arrays(split: Split, classes: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of a stored split."""
    content: dict[str, Array] = {
        "x": split.images.x.numpy(),
        "y": split.images.y.numpy(),
        "classes": np.array(classes),
    }
    return content | dict(split.extra)
