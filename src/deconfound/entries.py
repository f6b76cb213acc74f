"""Hits and misses as they are stored, per example."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Entry:
    """One metric of one model: a hit or a miss per example of a named subset of the test split.

    curve: `eps` or `steps` for a point of a security curve over it, else empty; steps: of such a point.
    """

    metric: str
    attack: str
    subset: str
    hits: Bools
    norm: str = ""
    eps: float = 0.0
    curve: str = ""
    steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """Counts and packed bits; the inverse is `unpack`."""
        bits = base64.b64encode(np.packbits(self.hits, bitorder="little").tobytes()).decode()
        found = {name: value for name, value in asdict(self).items() if name != "hits"}
        return found | {"hits": int(self.hits.sum()), "total": len(self.hits), "bits": bits}


def unpack(entry: Mapping[str, Any]) -> Bools:
    """Hits (N,) bool of a stored entry."""
    packed = np.frombuffer(base64.b64decode(entry["bits"]), np.uint8)
    return np.unpackbits(packed, count=entry["total"], bitorder="little").astype(bool)
