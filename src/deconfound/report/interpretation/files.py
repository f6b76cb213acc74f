"""What the jobs of interpretation left for each run: sentences, numbers per test image, pictures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconfound.errors import DataError
from deconfound.report.inputs import Cell
from deconfound.storage import read_json, read_npz

Array = NDArray[Any]
Place = tuple[str, str, str, str]  # name of the block, subject, condition, metric


@dataclass(frozen=True, kw_only=True)
class Interpreted(Cell):
    """An interpretation.json with the pictures.npz beside it. classes: names of the labels; spec: blocks by name;
    notes: by name, what could not be read and why.
    """

    seed: int
    path: Path
    classes: Sequence[str]
    spec: Mapping[str, Mapping[str, Any]]
    notes: Mapping[str, Sequence[str]]
    readings: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Run id."""
        return f"{self.group}/seed{self.seed}"

    @cached_property
    def pictures(self) -> dict[str, Array]:
        """Arrays for drawing, named `{block}.{name}`; none where the file is missing."""
        path = self.path.with_name("pictures.npz")
        return read_npz(path) if path.exists() else {}

    @cached_property
    def values(self) -> dict[Place, Array]:
        """Numbers per test image (N,) by place, NaN where there is none; numbers of the run are left out."""
        found = {}
        for one in self.readings:
            if "values" in one:
                place = (str(one["of"]), str(one["subject"]), str(one["condition"]), str(one["metric"]))
                found[place] = np.frombuffer(base64.b64decode(one["values"]), "<f4").astype(np.float64)
        return found

    def drawn(self, name: str) -> dict[str, Array]:
        """Pictures of a block, by their own names."""
        start = f"{name}."
        return {
            key.removeprefix(start): value for key, value in self.pictures.items() if key.startswith(start)
        }

    def kind(self, name: str) -> str:
        """Method of a block."""
        return str(self.spec[name]["kind"])


def read_all(paths: Sequence[Path]) -> list[Interpreted]:
    """Records of the runs, in the order of their names and seeds; DataError for a foreign file."""
    return sorted((read_one(path) for path in paths), key=lambda one: (one.group, one.seed))


def read_one(path: Path) -> Interpreted:
    """The record of a run; DataError when the file is something else."""
    found = read_json(path)
    try:
        run = found["run"]
        return Interpreted(
            **{name: str(run[name]) for name in ("dataset", "poison", "model", "defense")},
            seed=int(run["seed"]),
            path=path,
            classes=[str(name) for name in found["classes"]],
            spec={str(name): dict(block) for name, block in found["spec"].items()},
            notes={str(name): [str(text) for text in said] for name, said in found["notes"].items()},
            readings=list(found["readings"]),
            provenance=dict(found["provenance"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: expected the interpretation of a run: {error!r}; remove it and run again"
        ) from error


def first_of_each(records: Sequence[Interpreted]) -> list[Interpreted]:
    """Of every cell the run of the lowest seed: whose pictures are shown."""
    seen: dict[str, Interpreted] = {}
    for one in records:
        if one.group not in seen or one.seed < seen[one.group].seed:
            seen[one.group] = one
    return list(seen.values())
