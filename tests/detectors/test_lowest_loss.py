"""Lowest loss against losses computed by hand."""

import math

import pytest
import torch
from suspects import evidence, linear, nothing, pictures

from deconfound.detectors.evidence import ExampleDetector
from deconfound.detectors.lowest_loss import LowestLoss

MODEL = linear([[0.0], [2.0]], [0.0, 0.0])


def test_the_best_fitted_images_come_first_and_a_fraction_is_flagged() -> None:
    data = pictures(255 * torch.tensor([[0.0], [1.0], [1.0], [0.0]]), [0, 1, 0, 1])
    found = LowestLoss(fraction=0.5).examine(evidence(MODEL, data))
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert found.scores.tolist() == pytest.approx([-math.log(2), -right, -wrong, -math.log(2)])
    assert found.flags.tolist() == [True, True, False, False]
    assert isinstance(LowestLoss(), ExampleDetector)


def test_no_images_are_no_suspects() -> None:
    assert len(LowestLoss().examine(evidence(MODEL, nothing(1))).scores) == 0
