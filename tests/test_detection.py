"""Detectors are scored with the truth that they were not shown."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle_models import small_network, tiny_images
from torch import Tensor

from deconfound.detection import Truth, detect, threshold
from deconfound.detectors.evidence import Evidence, Flagged, Scanned
from deconfound.measures import cost_measures, flag_measures, poison_measures
from deconfound.rng import generator

NOBODY = torch.zeros(0, 1, 4, 4, dtype=torch.uint8)


def evidence() -> Evidence:
    return Evidence(
        small_network().eval(), tiny_images(12), tiny_images(20, seed=1), lambda p: generator(0, p)
    )


def filled(*values: int) -> Tensor:
    """One image per value, of that grey."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


class Brightness:
    """Bright images are suspicious."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        return lambda x: x.double().mean((1, 2, 3))


class First:
    """Accuses the first three examples."""

    def examine(self, evidence: Evidence) -> Flagged:
        scores = -torch.arange(len(evidence.data.y), dtype=torch.float32)
        return Flagged(scores, scores > -3)


class Two:
    """Accuses class 2."""

    def scan(self, evidence: Evidence) -> Scanned:
        anomaly = torch.tensor([0.5, 0.0, 3.0])
        return Scanned(anomaly, anomaly > 2)


def test_an_input_detector_is_scored_at_thresholds_of_held_out_images() -> None:
    held = Evidence(
        evidence().model, tiny_images(12), tiny_images(20)._replace(x=filled(*range(20))), evidence().rng
    )
    # at 5 % one of the twenty held-out images may exceed the threshold: it is 18
    truth = Truth(np.zeros(12, bool), 1, filled(1, 18, 19, 40), filled(18, 20, 30))
    found = detect("bright", Brightness(), held, truth)
    rates = {(e.metric, e.attack, e.subset): e.hits.tolist() for e in found.entries}
    assert rates == {
        ("false_alarm_rate", "bright", "test"): [False, False, True, True],
        ("detection_rate", "bright", "triggered"): [False, True, True],
    }
    assert found.measures["bright_auroc"] == pytest.approx((1.5 + 3 + 3) / 12)
    assert found.measures["bright_detected_at_10"] == pytest.approx(1)  # threshold 17
    assert found.measures["bright_false_alarms_at_10"] == pytest.approx(3 / 4)
    assert found.measures["bright_detected_at_1"] == pytest.approx(2 / 3)  # threshold 19: none may exceed it


def test_on_a_clean_run_only_false_alarms_are_counted() -> None:
    truth = Truth(np.zeros(12, bool), None, filled(1, 2), NOBODY)
    found = detect("bright", Brightness(), evidence(), truth)
    assert [e.metric for e in found.entries] == ["false_alarm_rate"]
    assert not [name for name in found.measures if "auroc" in name or "detected" in name]
    assert detect("two", Two(), evidence(), truth).measures == {"two_anomaly": 3.0, "two_accused": 1.0}


@pytest.mark.parametrize(
    ("values", "share", "limit"),
    [([1, 2, 3, 4], 0.25, 3), ([1, 2, 3, 4], 0.24, 4), ([5, 5, 5], 0.5, 5), ([2, 9], 1, 2)],
)
def test_a_threshold_is_the_lowest_score_that_at_most_the_share_exceeds(
    values: list[float], share: float, limit: float
) -> None:
    scores = np.array(values, float)
    assert threshold(scores, share) == limit
    assert (scores > limit).mean() <= share


def test_a_scan_is_scored_on_the_attackers_target() -> None:
    truth = Truth(np.zeros(12, bool), 2, filled(1), filled(2))
    assert detect("two", Two(), evidence(), truth).measures == {
        "two_anomaly": 3.0,
        "two_accused": 1.0,
        "two_target_anomaly": 3.0,
        "two_target_accused": 1.0,
    }
    other = Truth(truth.mask, 0, truth.clean, truth.stamped)
    assert detect("two", Two(), evidence(), other).measures["two_target_accused"] == 0.0


def test_an_example_detector_is_scored_by_precision_recall_and_what_is_left() -> None:
    mask = np.zeros(12, bool)
    mask[[0, 1, 7, 8]] = True
    found = detect("first", First(), evidence(), Truth(mask, 1, filled(1), filled(2)))
    assert found.entries == []
    assert found.measures == pytest.approx(
        {
            "first_share": 3 / 12,
            "first_precision": 2 / 3,
            "first_recall": 2 / 4,
            "first_left": 2 / 9,
            "first_auroc": (8 + 8 + 3 + 3) / 32,
        }
    )


def test_flags_without_poison_or_without_flags_leave_out_what_has_no_meaning() -> None:
    nobody, everybody = np.zeros(4, bool), np.ones(4, bool)
    some = np.array([True, False, False, False])
    assert flag_measures(some, nobody) == {"share": 0.25}
    assert flag_measures(nobody, some) == {"share": 0, "recall": 0, "left": 0.25}
    assert flag_measures(everybody, some) == {"share": 1, "precision": 0.25, "recall": 1}


def test_a_training_says_what_it_cost_and_how_many_clean_images_it_was_given() -> None:
    about = {"cost": {"plain_trainings": 1.5}, "notes": {"clean_images": 280, "units": 3}}
    assert cost_measures(about) == {"training_cost": 1.5, "clean_images": 280.0}
    assert cost_measures({"cost": {"plain_trainings": 1}, "notes": {}}) == {"training_cost": 1.0}


def test_records_of_a_defense_are_scored_with_the_sign_of_their_score() -> None:
    mask = np.array([True, True, False, False])
    trace = {
        "isolated": np.array([True, False, False, False]),
        "isolation_loss": np.array([0.1, 0.2, 3.0, 4.0]),
    }
    found = poison_measures(trace, mask)
    assert (
        found["isolated_auroc"] == 1 and found["isolated_precision"] == 1 and found["isolated_recall"] == 0.5
    )
    trace = {"dropped": np.array([True, False, False, False]), "sce_loss": np.array([9.0, 8.0, 3.0, 4.0])}
    assert poison_measures(trace, mask)["dropped_auroc"] == 1
    trace = {"flagged": np.array([True, False, False, False]), "suspicion": np.array([9.0, 8.0, 3.0, 4.0])}
    assert poison_measures(trace, mask)["flagged_auroc"] == 1
