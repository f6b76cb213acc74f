"""Numbers per run that are no rates over test examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

RATES = ("auroc", "precision", "recall", "precision_at_n", "recall_at_1_5n")
"""Ends of the names of numbers that lie in [0, 1]."""
SPLITS = {"flagged": "suspicion", "isolated": "isolation_loss", "dropped": "sce_loss"}
"""Records of a defense that sets examples apart: (N,) bool, and the score (N,) that it judged them by."""
LOWER = ("isolation_loss",)  # scores of which the smaller is the more suspicious


def poison_measures(trace: Mapping[str, NDArray[np.generic]], mask: Bools) -> dict[str, float]:
    """How well per-example records of a defense tell poison from clean; for scoring, after training has
    ended.

    biased_auroc: that a poisoned example has the lower loss in the biased twin; medians of that loss in nats;
    ratio of mean weights after the first epoch (cbd.md section 9, H2 and H6). Of examples that were set apart: see
    `flag_measures`.
    """
    found: dict[str, float] = {}
    for flags, score in SPLITS.items():
        if flags in trace:
            scores = trace[score].astype(float) if score in trace else None
            signed = -scores if scores is not None and score in LOWER else scores
            found |= flag_measures(trace[flags].astype(bool), mask, signed, prefix=f"{flags}_")
    if "biased_loss" in trace:
        loss = trace["biased_loss"].astype(float)
        found["biased_auroc"] = auroc(-loss, mask)
        found["biased_loss_poisoned"] = float(np.median(loss[mask]))
        found["biased_loss_clean"] = float(np.median(loss[~mask]))
    if "first_weight" in trace:
        weight = trace["first_weight"].astype(float)
        found["first_weight_ratio"] = float(weight[mask].mean() / weight[~mask].mean())
    return found


def flag_measures(
    flags: Bools, mask: Bools, scores: NDArray[np.float64] | None = None, *, prefix: str = ""
) -> dict[str, float]:
    """flags (N,): examples set apart; mask (N,): the poisoned ones; scores (N,): larger is more suspicious.

    share: of all examples that were set apart; precision: of those, the share that is poisoned; recall: of the
    poison, the share that was set apart; left: share of poison in what remains; auroc: of the scores. Without poison,
    only the share.
    """
    found = {f"{prefix}share": float(flags.mean())}
    if not mask.any():
        return found
    if flags.any():
        found[f"{prefix}precision"] = float(mask[flags].mean())
    found[f"{prefix}recall"] = float(flags[mask].mean())
    if not flags.all():
        found[f"{prefix}left"] = float(mask[~flags].mean())
    if scores is not None and not mask.all():
        found[f"{prefix}auroc"] = auroc(scores, mask)
    return found


def training_measures(history: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """robust_overfitting: best minus last robust accuracy on `val` over the epochs, where it was recorded (causaladv.md
    section 9, row 5; there on the test set).
    """
    robust = [record["val_robust"] for record in history.get("model", ()) if "val_robust" in record]
    return {"robust_overfitting": max(robust) - robust[-1]} if robust else {}


def cost_measures(about: Mapping[str, Any]) -> dict[str, float]:
    """What a training took, from its record: `training_cost` in plain trainings, and the `clean_images` that a repair
    used, where it says so.
    """
    found = {"training_cost": float(about["cost"]["plain_trainings"])}
    clean = about.get("notes", {}).get("clean_images")
    return found | ({"clean_images": float(clean)} if clean is not None else {})


def ends(name: str) -> tuple[float, float]:
    """The least and the greatest value that a number of this name can have."""
    return (0.0, 1.0) if name.endswith(RATES) else (float("-inf"), float("inf"))


def auroc(score: NDArray[np.float64], positive: Bools) -> float:
    """Probability that a positive example has the higher score than a negative one, ties counting half; scores (N,).

    Exact, and without an import that costs more than the evaluation of a small model.
    """
    negative = np.sort(score[~positive])
    below, not_above = (np.searchsorted(negative, score[positive], side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(negative)))


def hits_among(score: NDArray[np.float64], positive: Bools, count: float) -> float:
    """How many positives are among the `count` examples with the highest scores (N,), or all if there are fewer; the
    expectation over the order of equal scores.
    """
    count = min(count, len(score))
    if count <= 0:
        return 0.0
    limit = np.sort(score)[::-1][int(np.ceil(count)) - 1]
    above, tied = score > limit, score == limit
    return float(positive[above].sum() + (count - above.sum()) * positive[tied].mean())
