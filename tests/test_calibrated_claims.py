"""A claim about differences of estimates leans on the calibration of the bound that they were read with."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deconfound.steps import claims as step
from experiments import evaluation

LEDGER = """
paper: P
title: T
source: S
premises:
  calibrated:
    - {measure: namid_released_usable_to, above: 1.0}
claims:
  - id: one
    statement: A.
    metric: natural_gap
    treatment: {defense: a}
    direction: above
    margin: 0
    premise: calibrated
"""


def judged(folder: Path, bounds: list[dict[str, Any]] | None) -> Any:
    paths = [
        evaluation(folder, f"d/clean/m/a/{seed}", [], test=[0], measures={"natural_gap": 1.0 + seed / 10})
        for seed in range(3)
    ]
    (folder / "ledger.yaml").write_text(LEDGER)
    calibration = []
    if bounds is not None:
        calibration = [folder / "calibration.json"]
        calibration[0].write_text(json.dumps({"bounds": bounds}))
    step.run(
        evaluations=paths, ledgers=[folder / "ledger.yaml"], controls={}, out=folder, calibration=calibration
    )
    return pd.read_csv(folder / "claims.csv").iloc[0]


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ([{"name": "namid_released", "usable_to": 2.0}], "supported"),
        ([{"name": "namid_released", "usable_to": 0.5}], "premise not met"),
        ([{"name": "namid_released", "usable_to": None}], "premise not met"),
        (None, "premise not met"),
    ],
)
def test_an_estimate_that_cannot_be_read_carries_no_claim(
    bounds: list[dict[str, Any]] | None, verdict: str, tmp_path: Path
) -> None:
    row = judged(tmp_path, bounds)
    assert row["verdict"] == verdict and row["effect"] == pytest.approx(1.1)
