"""Squeezers against their definitions, and a score that is 0 where they change nothing."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from suspects import evidence, linear, noise, pictures
from torch import Tensor, nn

from deconfound.detectors.feature_squeezing import FeatureSqueezing, fewer_bits, median, non_local_means
from deconfound.models.classifier import Classifier
from deconfound.rng import generator

X = torch.rand(3, 2, 7, 6, generator=generator(0, "x"))


@pytest.mark.parametrize(
    "identity",
    [
        FeatureSqueezing(bits=8, median=None, search=None),
        FeatureSqueezing(bits=None, median=1, search=None),
        FeatureSqueezing(bits=None, median=None, search=1),
        FeatureSqueezing(bits=8, median=1, search=1),
    ],
)
def test_a_squeezer_that_changes_nothing_scores_exactly_zero(identity: FeatureSqueezing) -> None:
    model = linear([[3.0, -2, 1, 0], [0, 1, -1, 2]], [0.1, 0.0])
    data = pictures(noise(200, 4), [0] * 200)
    assert identity.suspicion(evidence(model, data))(data.x).tolist() == [0.0] * 200


class Restless(nn.Module):
    """Pixels, but that every row of a batch is a little off, each in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + 1e-3 * torch.arange(len(x))[:, None]


def test_rounding_that_depends_on_the_batch_is_no_distance() -> None:
    model = Classifier(Restless(), linear([[3.0, -2], [0, 1]], [0.1, 0.0]).head, channels=1).eval()
    data = pictures(noise(20, 2), [0] * 20)
    score = FeatureSqueezing(bits=8, median=None, search=None).suspicion(evidence(model, data))
    assert score(data.x).tolist() == [0.0] * 20


def test_the_score_is_the_largest_l1_distance_between_probabilities() -> None:
    model = linear([[10.0], [0.0]], [0.0, 5.0])
    score = FeatureSqueezing(bits=1, median=1, search=None).suspicion(
        evidence(model, pictures(X[:1, 0, :1, :1], [0]))
    )
    p, q = (1 / (1 + math.exp(-(10 * pixel - 5))) for pixel in (0.6, 1.0))
    assert score(torch.tensor([0.6]).view(1, 1, 1, 1)).item() == pytest.approx(2 * (q - p), rel=1e-5)


def test_scores_lie_between_zero_and_two() -> None:
    model = linear([[400.0, 0, 0, 0], [0, 0, 0, 0]], [-250.0, 0.0])
    data = pictures(noise(100, 4, spread=60.0), [0] * 100)
    scores = FeatureSqueezing(bits=1, search=3).suspicion(evidence(model, data))(data.x)
    assert scores.min() >= 0 and scores.max() <= 2 and scores.max() > 1.9


def test_fewer_bits_round_to_the_nearest_of_their_values() -> None:
    x = torch.tensor([0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
    assert fewer_bits(x, 1).tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(fewer_bits(x, 2) * 3, torch.tensor([0.0, 0, 1, 2, 3, 3]))
    stored = torch.arange(256) / 255
    assert torch.equal(fewer_bits(stored, 8), stored)


def test_the_gradient_passes_rounding_straight_through() -> None:
    x = torch.tensor([0.1, 0.6], requires_grad=True)
    value = fewer_bits(x, 1)
    assert value.tolist() == [0, 1]
    value.mul(torch.tensor([2.0, 3.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2, 3]


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_median_is_that_of_scipy(side: int) -> None:
    expected = ndimage.median_filter(X.numpy(), size=(1, 1, side, side), mode="reflect")
    assert np.array_equal(median(X, side).numpy(), expected)


def test_non_local_means_of_a_plain_picture_is_itself_and_with_a_large_h_the_mean_of_the_window() -> None:
    plain = torch.full((1, 3, 5, 5), 0.3)
    assert torch.allclose(non_local_means(plain, 5, 3, 0.01), plain)
    found = non_local_means(X, 3, 1, 1e6)
    expected = ndimage.uniform_filter(X.double().numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_non_local_means_weigh_a_pixel_by_how_alike_the_patches_are() -> None:
    x = torch.tensor([0.0, 0.1]).view(1, 1, 1, 2)  # beyond the border the pixels repeat
    near = math.exp(-(0.1**2) / 0.2**2)
    # A row of two, patches of one pixel: to the left 0 0 0.1, three times (above, here, below).
    expected = [near * 0.1 / (2 + near), (2 * 0.1 + near * 0.0) / (2 + near)]
    assert non_local_means(x, 3, 1, 0.2).flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_a_detector_needs_a_squeezer_and_windows_with_a_middle() -> None:
    with pytest.raises(ValidationError, match="expected a squeezer"):
        FeatureSqueezing(bits=None, median=None, search=None)
    with pytest.raises(ValidationError, match="expected odd search and patch, got 4 and 3"):
        FeatureSqueezing(search=4)
