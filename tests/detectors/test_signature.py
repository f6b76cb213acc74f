"""Explanations of linear networks, and numbers of maps written by hand."""

import pytest
import torch
from suspects import linear, noise, pictures
from torch import Tensor, nn

from deconfound.detectors.signature import maps, shape
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.rng import generator, global_seed

MODEL = linear([[3.0, -2.0, 1.0, 0.0], [0.0, 1.0, -1.0, 5.0]], [0.1, 0.4])


def test_of_a_linear_network_all_explanations_are_weight_times_pixel() -> None:
    x = pictures(noise(9, 4), [0] * 9).x / 255.0
    weight = MODEL.head.weight.detach()[MODEL(x).argmax(1)]
    contributions, saliency, integrated = maps(MODEL, x, steps=3)
    assert torch.allclose(contributions, weight * x.flatten(1))
    assert torch.allclose(saliency.flatten(1), weight)
    assert torch.allclose(integrated.flatten(1), weight * x.flatten(1))


def test_contributions_sum_to_the_logit_without_its_bias_and_integrated_gradients_to_its_rise_from_black() -> (
    None
):
    with global_seed(generator(0, "init")):
        model = SmallCNN(widths=(4,), hidden=8)((1, 8, 8), 3).eval()
    x = torch.rand(6, 1, 8, 8, generator=generator(0, "x"))
    contributions, _, integrated = maps(model, x, steps=400)
    with torch.no_grad():
        logits, black = model(x), model(torch.zeros(1, 1, 8, 8))
    label = logits.argmax(1)
    chosen = logits.gather(1, label[:, None])[:, 0]
    assert torch.allclose(contributions.sum(1), chosen - model.head.bias[label], atol=1e-5)
    assert torch.allclose(integrated.flatten(1).sum(1), chosen - black[0, label], atol=5e-3)


class Square(nn.Module):
    """Pixels squared."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square()


def test_one_step_in_the_middle_of_the_way_is_exact_for_a_quadratic_network() -> None:
    model = Classifier(Square(), MODEL.head, channels=1).eval()
    x = torch.rand(5, 1, 1, 4, generator=generator(0, "x"))
    contributions, _, integrated = maps(model, x, steps=1)
    assert torch.allclose(integrated.flatten(1), contributions)


def test_without_gradients_nothing_is_attached() -> None:
    with torch.no_grad():
        found = maps(MODEL, torch.rand(2, 1, 1, 4), steps=2)
        assert not any(part.requires_grad for part in found)
    assert maps(MODEL, torch.rand(2, 1, 1, 4), steps=2)[2].requires_grad


def test_a_map_in_one_pixel_and_one_that_is_even() -> None:
    found = torch.zeros(2, 1, 4, 5)
    found[0, 0, 1, 2], found[1] = -3.0, 2.0
    single, even = shape(found).tolist()
    # std of nineteen zeros and -3: 3 * sqrt(19) / 20
    assert single == pytest.approx([3 * 19**0.5 / 20, 3 / 20, 0, 1, 1])
    assert even == pytest.approx([0, 2, 0, 1 / 20, 1 / 20])


def test_an_empty_map_has_finite_numbers() -> None:
    assert shape(torch.zeros(1, 3, 4, 4)).tolist() == [[0, 0, 0, 0, 0]]
