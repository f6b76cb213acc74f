"""Numbers per run that are no rates over test examples."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deconfound.types import Array

Bools = NDArray[np.bool_]


def poison_measures(trace: Mapping[str, Array], mask: Bools) -> dict[str, float]:
    """How well per-example records of a defense tell poison from clean; for scoring, after training has
    ended.

    biased_auroc: that a poisoned example has the lower loss in the biased twin; medians of that loss in nats;
    ratio of mean weights after the first epoch (cbd.md section 9, H2 and H6).
    """
    found = {}
    if "biased_loss" in trace:
        loss = trace["biased_loss"].astype(float)
        found["biased_auroc"] = auroc(-loss, mask)
        found["biased_loss_poisoned"] = float(np.median(loss[mask]))
        found["biased_loss_clean"] = float(np.median(loss[~mask]))
    if "first_weight" in trace:
        weight = trace["first_weight"].astype(float)
        found["first_weight_ratio"] = float(weight[mask].mean() / weight[~mask].mean())
    return found


def training_measures(history: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """robust_overfitting: best minus last robust accuracy on `val` over the epochs, where it was recorded (causaladv.md
    section 9, row 5; there on the test set).
    """
    robust = [record["val_robust"] for record in history.get("model", ()) if "val_robust" in record]
    return {"robust_overfitting": max(robust) - robust[-1]} if robust else {}


def auroc(score: NDArray[np.float64], positive: Bools) -> float:
    """Probability that a positive example has the higher score than a negative one, ties counting half; scores (N,).

    Exact, and without an import that costs more than the evaluation of a small model.
    """
    negative = np.sort(score[~positive])
    below, not_above = (np.searchsorted(negative, score[positive], side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(negative)))
