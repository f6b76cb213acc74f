"""SCALE-UP on networks whose answers under scaling are known."""

import pytest
import torch
from suspects import evidence, identity, linear, noise, nothing, pictures

from deconfound.detectors.evidence import ExampleDetector, InputDetector
from deconfound.detectors.scale_up import ScaleUp
from deconfound.errors import UserError
from deconfound.types import Images

BRIGHT = linear([[0.0], [1.0]], [0.6, 0.0])  # class 1 where the pixel is above 0.6


def grey(*pixels: float) -> Images:
    return pictures(255 * torch.tensor(pixels)[:, None], [0] * len(pixels))


def test_the_score_counts_the_multipliers_that_change_nothing() -> None:
    score = ScaleUp().suspicion(evidence(BRIGHT, grey(0.1)))
    # 0.1 becomes 0.3, 0.5, 0.7, 0.9, 1 (clipped); 0.2 becomes 0.6 and more; 0.8 stays bright, 0 stays dark.
    assert score(grey(0.1, 0.22, 0.8, 0.0).x).tolist() == pytest.approx([0.4, 0.0, 1.0, 1.0])


def test_scaled_pixels_are_clipped_at_one() -> None:
    model = linear(
        [[0.0, 0.0], [1.0, -1.0]], [0.1, 0.0]
    )  # class 1 where the first pixel is brighter by more than 0.1
    data = pictures(255 * torch.tensor([[0.8, 0.4]]), [0])  # multiplied by 3 and more, both are white
    assert ScaleUp().examine(evidence(model, data)).scores.tolist() == [0.0]


def test_black_and_white_pictures_score_one_whatever_the_network() -> None:
    model = linear([[3.0, -2.0, 1.0], [0.5, 1.0, -1.0], [0.0, 0.0, 2.0]], [0.1, 0.2, 0.0])
    rows = 255.0 * (noise(20, 3) > 100)
    assert ScaleUp().suspicion(evidence(model, nothing(3)))(pictures(rows, [0] * 20).x).tolist() == [1.0] * 20


def test_a_network_that_scaling_cannot_move_scores_one() -> None:
    assert set(
        ScaleUp().examine(evidence(identity(4, 3), pictures(noise(9, 4), [0] * 9))).scores.tolist()
    ) == {1.0}


def test_from_the_threshold_on_an_image_is_flagged() -> None:
    given = evidence(BRIGHT, grey(0.1, 0.22, 0.8))
    assert ScaleUp().examine(given).flags.tolist() == [False, False, True]
    assert ScaleUp(threshold=0.4).examine(given).flags.tolist() == [True, False, True]
    assert isinstance(ScaleUp(), InputDetector) and isinstance(ScaleUp(), ExampleDetector)


def test_scores_are_standardised_by_the_held_out_images() -> None:
    given = evidence(
        BRIGHT, grey(0.1, 0.8), grey(0.1, 0.1, 0.22, 0.22, 0.8, 0.8)
    )  # scores 0.4, 0, 1: dark mean 0.2
    every = ScaleUp(standardise="all").examine(given).scores
    mean, deviation = 2.8 / 6, (2 * (0.16 + 0 + 1) / 6 - (2.8 / 6) ** 2) ** 0.5
    assert every.tolist() == pytest.approx([(0.4 - mean) / deviation, (1 - mean) / deviation])
    own = ScaleUp(standardise="class").examine(given).scores
    assert own.tolist() == pytest.approx(
        [(0.4 - 0.2) / 0.2, (1 - 1) / 0.1]
    )  # of bright ones all agree: the floor


def test_a_class_without_held_out_images_takes_the_moments_of_all() -> None:
    given = evidence(BRIGHT, grey(0.8), grey(0.1, 0.22))
    assert ScaleUp(standardise="class").examine(given).scores.tolist() == pytest.approx([(1 - 0.2) / 0.2])


def test_images_are_scored_alone_and_none_is_fine() -> None:
    score = ScaleUp(standardise="class").suspicion(evidence(BRIGHT, grey(0.1), grey(0.1, 0.3, 0.7)))
    x = grey(*torch.linspace(0, 1, 40).tolist()).x
    assert torch.equal(score(x), torch.cat([score(one[None]) for one in x])) and score(x[:0]).shape == (0,)
    with pytest.raises(UserError, match="held-out"):
        ScaleUp(standardise="all").suspicion(evidence(BRIGHT, grey(0.1)))
