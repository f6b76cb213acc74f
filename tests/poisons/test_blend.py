"""Blend: a picture that shines through."""

import pytest
import torch
from shops import assert_fixed_trigger, images, shop

from deconfound.poisons.blend import Blend

RGB = (3, 5, 4)


def test_the_picture_is_fixed_by_the_seed() -> None:
    done = assert_fixed_trigger(Blend(rate=0.3, cover=0.1), images(40, shape=RGB))
    pattern = done.planting.arrays["pattern"]
    assert pattern.dtype == torch.uint8 and pattern.shape == (1, 5, 4)


def test_the_picture_is_uniform_over_all_grey_values() -> None:
    pattern = Blend().plant(shop(images(1, shape=(1, 64, 64))), torch.zeros(0)).arrays["pattern"]
    counts = torch.histc(pattern.to(torch.float64), 8, 0, 256)
    assert (counts - 512).abs().max() < 110  # five standard deviations
    assert pattern.min() == 0 and pattern.max() == 255


def test_a_ratio_of_0_changes_nothing_and_a_ratio_of_1_shows_the_picture_alone() -> None:
    clean = images(20, shape=RGB, low=0)
    planting = Blend(ratio=1, train_ratio=0).plant(shop(clean), torch.arange(3))
    assert planting.payload is not None and planting.cover is not None
    assert torch.equal(planting.payload(clean.x), clean.x) and torch.equal(planting.cover(clean.x), clean.x)
    assert torch.equal(planting.stamp(clean.x), planting.arrays["pattern"].expand(20, 3, -1, -1))


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5])
def test_a_blend_moves_each_pixel_towards_the_picture_by_the_ratio(ratio: float) -> None:
    clean = images(20, shape=RGB, low=0)
    planting = Blend(ratio=ratio).plant(shop(clean), torch.arange(3))
    step = planting.stamp(clean.x).double() - clean.x.double()
    way = planting.arrays["pattern"].double() - clean.x.double()
    assert (step - ratio * way).abs().max() <= 0.5 + 1e-9
    assert step.abs().max() <= 255 * ratio + 0.5


def test_training_may_show_a_fainter_picture_and_otherwise_shows_the_same() -> None:
    clean = images(40, shape=RGB)
    same, faint = (Blend(rate=0.5, ratio=0.2, train_ratio=ratio)(shop(clean)) for ratio in (None, 0.1))
    assert torch.equal(same.images.x[same.mask], same.planting.stamp(clean.x[same.mask]))
    tenth = Blend(ratio=0.1).plant(shop(clean), torch.arange(3))
    assert torch.equal(faint.images.x[faint.mask], tenth.stamp(clean.x[faint.mask]))
    assert torch.equal(faint.planting.stamp(clean.x), same.planting.stamp(clean.x))
