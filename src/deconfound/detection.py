"""How well detectors tell poison from clean: scored with the truth that they were not shown."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconfound.detectors.evidence import Evidence, ExampleDetector, InputDetector, ModelScan
from deconfound.entries import Entry
from deconfound.measures import Bools, auroc, flag_measures

Floats = NDArray[np.float64]

FALSE_ALARMS = 0.05  # share of held-out clean images that a threshold may flag, for the rates with intervals
FURTHER = (0.01, 0.1)  # further operating points, as numbers of the run


@dataclass(frozen=True)
class Truth:
    """What only the judge knows. mask (N,) bool: poisoned training examples, all False on clean data; target: the
    class that the attacker wants, None where there is none or more than one; clean, stamped: test images (n, C, H, W)
    uint8, without and with the trigger, the stamped ones only of victims; empty on clean data.
    """

    mask: Bools
    target: int | None
    clean: Tensor
    stamped: Tensor


@dataclass
class Found:
    """Entries with a hit per example, and numbers of the run."""

    entries: list[Entry]
    measures: dict[str, float]


def detect(name: str, detector: object, evidence: Evidence, truth: Truth) -> Found:
    """What a detector finds, in each of the ways that it can look."""
    found = Found([], {})
    if isinstance(detector, ExampleDetector):
        scores, flags = detector.examine(evidence)
        found.measures |= flag_measures(flags.numpy(), truth.mask, scores.double().numpy(), prefix=f"{name}_")
    if isinstance(detector, InputDetector):
        _inputs(name, detector, evidence, truth, found)
    if isinstance(detector, ModelScan):
        anomaly, flags = detector.scan(evidence)
        found.measures |= {f"{name}_anomaly": float(anomaly.max()), f"{name}_accused": float(flags.sum())}
        if truth.target is not None:
            found.measures[f"{name}_target_anomaly"] = float(anomaly[truth.target])
            found.measures[f"{name}_target_accused"] = float(flags[truth.target])
    return found


def _inputs(name: str, detector: InputDetector, evidence: Evidence, truth: Truth, found: Found) -> None:
    """Rates at thresholds that held-out clean images set, and the AUROC, which needs none."""
    suspicion = detector.suspicion(evidence)
    held, clean, stamped = (_scores(suspicion(x)) for x in (evidence.val.x, truth.clean, truth.stamped))
    for share in (FALSE_ALARMS, *FURTHER):
        limit = threshold(held, share)
        if share == FALSE_ALARMS:
            found.entries.append(Entry("false_alarm_rate", name, "test", clean > limit))
            if len(stamped):
                found.entries.append(Entry("detection_rate", name, "triggered", stamped > limit))
        else:
            found.measures[f"{name}_false_alarms_at_{share:.0%}".rstrip("%")] = float((clean > limit).mean())
            if len(stamped):
                found.measures[f"{name}_detected_at_{share:.0%}".rstrip("%")] = float(
                    (stamped > limit).mean()
                )
    if len(stamped):
        positive = np.arange(len(clean) + len(stamped)) >= len(clean)
        found.measures[f"{name}_auroc"] = auroc(np.concatenate([clean, stamped]), positive)


def threshold(held: Floats, share: float) -> float:
    """The lowest score of held-out images (n,) that at most the share of them exceeds."""
    ordered = np.sort(held)[::-1]
    return float(ordered[min(int(share * len(held) + 1e-9), len(held) - 1)])


def _scores(scores: Tensor) -> Floats:
    if not torch.isfinite(scores).all():
        raise ValueError("expected finite scores of a detector")
    found: Floats = scores.double().numpy()
    return found
