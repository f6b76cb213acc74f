"""The baseline, by hand."""

import math

import pytest
import torch
from suspects import evidence, linear, pictures

from deconfound.detectors.confidence import Confidence

MODEL = linear([[0.0], [1.0], [0.0]], [0.0, 0.0, 0.0])
DATA = pictures(torch.tensor([[0.0], [255.0]]), [0, 1])


def test_the_score_is_one_minus_the_largest_probability() -> None:
    score = Confidence().suspicion(evidence(MODEL, DATA))
    assert score(DATA.x).tolist() == pytest.approx([2 / 3, 1 - math.e / (2 + math.e)])


def test_a_temperature_divides_the_logits() -> None:
    score = Confidence(temperature=0.5).suspicion(evidence(MODEL, DATA))
    assert score(DATA.x)[1].item() == pytest.approx(2 / (2 + math.e**2))


def test_scores_do_not_run_out_of_digits_where_the_probability_rounds_to_one() -> None:
    sure = linear([[0.0], [100.0]], [0.0, 0.0])
    x = torch.tensor([0.8, 0.9, 1.0]).view(3, 1, 1, 1)
    scores = Confidence().suspicion(evidence(sure, DATA))(x)
    assert scores.tolist() == pytest.approx([math.exp(-80), math.exp(-90), math.exp(-100)], rel=1e-3, abs=0)
