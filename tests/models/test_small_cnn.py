"""The small network: sizes that can be counted by hand."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN


def flat_width(model: Classifier) -> int:
    """Inputs of the linear layer before the representation."""
    return next(module for module in model.body.modules() if isinstance(module, nn.Linear)).in_features


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "left"), [(8, 4), (28, 7), (32, 8)])
def test_two_blocks_halve_the_picture_while_it_is_larger_than_four(
    channels: int, side: int, left: int
) -> None:
    model = SmallCNN()((channels, side, side), 10)
    x = torch.rand(2, channels, side, side)
    assert flat_width(model) == 32 * left * left
    assert model(x).shape == (2, 10) and model.features(x).shape == (2, 64)
    assert model.mean.shape == model.std.shape == (channels,)


@pytest.mark.parametrize(
    ("shape", "until", "left"),
    [((1, 8, 8), 4, 4 * 4), ((1, 8, 8), 1, 1 * 1), ((1, 28, 28), 4, 3 * 3), ((1, 6, 12), 4, 3 * 6)],
)
def test_pooling_stops_at_the_stated_side(shape: tuple[int, int, int], until: int, left: int) -> None:
    model = SmallCNN(widths=(2, 2, 5), hidden=7, until=until)(shape, 3)
    assert flat_width(model) == 5 * left
    assert model.head.in_features == 7
    assert model(torch.rand(2, *shape)).shape == (2, 3)


def test_the_features_are_what_the_head_reads() -> None:
    model = SmallCNN(widths=(4,), hidden=5)((1, 8, 8), 3).eval()
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(model(x), model.head(model.features(x)))
    assert (model.features(x) >= 0).all()


@pytest.mark.parametrize("wrong", [{"widths": ()}, {"widths": (0,)}, {"hidden": 0}, {"until": 0}])
def test_a_network_of_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SmallCNN(**wrong)  # type: ignore[arg-type]
