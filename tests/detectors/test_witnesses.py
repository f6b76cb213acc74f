"""Steering by witnesses on a network whose units are its pixels."""

import math

import pytest
import torch
from suspects import evidence, linear, pictures

from deconfound.detectors.layers import places
from deconfound.detectors.witnesses import Known, Witnesses, divergence

# Pixel 0 is lit in class 0, pixel 1 in class 1, pixel 2 in both, alike.
ROWS = torch.tensor([[200.0, 0, 60], [180, 0, 80], [0, 200, 60], [0, 180, 80]])
DATA = pictures(ROWS, [0, 0, 1, 1])
MODEL = linear([[5.0, 0, 0], [0, 5, 8]], [0.0, -2.0])


def test_the_divergence_is_zero_for_equal_and_ln_two_for_disjoint_predictions() -> None:
    left = torch.tensor([[1.0, 2.0], [900.0, 0.0], [0.0, 0.0]])
    right = torch.tensor([[3.0, 4.0], [0.0, 900.0], [900.0, 0.0]])
    # The last one: JS of (1/2, 1/2) and (1, 0) is (3/4) ln(4/3).
    third = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)) + 0.5 * math.log(4 / 3)
    assert divergence(left, right).tolist() == pytest.approx([0, math.log(2), third])


def test_witnesses_are_strengthened_and_others_above_their_mean_are_weakened() -> None:
    detector = Witnesses(strengthen=3.0, weaken=2.0)
    known = Known(
        torch.tensor([[True, False, False]]), torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 0.5, 1.0])
    )
    h = torch.tensor([[2.0, 3.0, 4.0]])
    steered = detector._steer(h, own=known.witness[torch.tensor([0])], known=known)
    assert steered.tolist() == [pytest.approx([6.0, 3 * math.exp(-2), 4.0])]
    maps = torch.rand(1, 3, 2, 2) + torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1)
    above = (maps[0, 1].mean() - 1).item()
    assert torch.allclose(
        detector._steer(maps, own=known.witness, known=known)[0, 1], maps[0, 1] * math.exp(-above)
    )


def test_units_that_answer_to_one_class_are_its_witnesses() -> None:
    known = Witnesses()._witnesses(DATA.x.flatten(1) / 255.0, DATA.y, 2, torch.device("cpu"))
    assert known.witness.tolist() == [[True, False, False], [False, True, False]]
    assert known.mean.tolist() == pytest.approx([95 / 255, 95 / 255, 70 / 255])


def test_a_prediction_without_a_witness_is_found() -> None:
    given = evidence(MODEL, DATA)
    assert places(MODEL, DATA.x) == ("body",)
    score = Witnesses().suspicion(given)
    # The last image says class 1 by a pixel that is no witness of it; weakened, the label goes back to 0.
    fresh = pictures(torch.tensor([[200.0, 0, 60], [0, 200, 80], [120, 0, 160]]), [0, 1, 0])
    assert MODEL(fresh.x / 255.0).argmax(1).tolist() == [0, 1, 1]
    scores = score(fresh.x)
    assert scores[:2].max() < math.log(2) and 1 < scores[2] < 1 + math.log(2)


def test_steering_by_one_with_no_others_above_the_mean_changes_nothing() -> None:
    score = Witnesses(strengthen=1.0, weaken=1e9).suspicion(evidence(MODEL, DATA))
    assert score(DATA.x).tolist() == pytest.approx([0.0] * 4, abs=1e-9)
