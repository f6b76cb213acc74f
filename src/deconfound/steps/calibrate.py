"""Measure how far estimates of mutual information can be trusted, where the truth is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconfound.calibration import BOUNDS, calibrate
from deconfound.calibration_spec import Calibration
from deconfound.progress import progress
from deconfound.registry import build
from deconfound.storage import provenance, write_json

TABLE = {"calibration": f"{Calibration.__module__}:{Calibration.__name__}"}


def run(*, spec: Mapping[str, Any], out: Path) -> None:
    """Write what `calibrate` finds for a block of settings (see `Calibration`), with provenance, as JSON to `out`."""
    calibration: Calibration = build(TABLE, {"kind": "calibration", **spec}, at="calibration")
    with progress("calibrating", len(BOUNDS)) as tick:
        found = calibrate(calibration, tick)
    write_json(out, found | {"provenance": provenance({})})
