"""Adap-Blend: half of the picture in training, all of it at test time."""

import pytest
import torch
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.adap_blend import AdapBlend
from deconfound.poisons.blend import Blend

RGB = (3, 8, 12)
FULL = {"rate": 0.2, "cover": 0.2, "ratio": 1.0}


def test_the_picture_is_fixed_by_the_seed_and_is_that_of_blend() -> None:
    clean = images(50, shape=RGB)
    done = assert_fixed_trigger(AdapBlend(rate=0.2, cover=0.1), clean)
    assert torch.equal(done.planting.stamp(clean.x), Blend()(shop(clean)).planting.stamp(clean.x))


def test_there_are_as_many_cover_images_as_poisoned_ones_by_default() -> None:
    done = AdapBlend()(shop(images(200, shape=RGB)))
    assert int(done.mask.sum()) == int(done.cover.sum()) == 2


@pytest.mark.parametrize(("side", "hidden", "expected"), [(4, 0.5, 8), (2, 0.25, 3), (3, 0.5, 5)])
def test_each_training_image_shows_a_part_of_the_tiles_of_its_own(
    side: int, hidden: float, expected: int
) -> None:
    shown = AdapBlend(side=side, hidden=hidden).shown(200, (12, 24), torch.Generator().manual_seed(0))
    tiles = shown.reshape(200, side, 12 // side, side, 24 // side)
    assert torch.equal(tiles.amin((2, 4)), tiles.amax((2, 4)))  # a tile is shown or hidden as a whole
    parts = tiles[:, :, 0, :, 0].flatten(1)
    assert (parts.sum(1) == expected).all()
    assert len(parts.unique(dim=0)) > 2
    assert (parts.mean(0) - expected / side**2).abs().max() < 0.2


def test_a_training_image_is_blended_where_it_is_shown_and_itself_elsewhere() -> None:
    clean = images(50, shape=RGB)
    done = AdapBlend(**FULL)(shop(clean))
    pattern = done.planting.arrays["pattern"].expand(50, 3, -1, -1)
    for edited in (done.mask, done.cover):
        same = done.images.x[edited] == clean.x[edited]
        assert ((done.images.x[edited] == pattern[edited]) | same).all()
        assert float(same.double().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(done.planting.stamp(clean.x), pattern)
    assert torch.equal(done.images.y[done.cover], clean.y[done.cover])


def test_poisoned_and_cover_images_hide_other_tiles() -> None:
    planting = AdapBlend(**FULL).plant(shop(images(4, shape=RGB)), torch.arange(2))
    assert planting.payload is not None and planting.cover is not None
    x = flat(0, 0, 0, shape=RGB)
    assert torch.equal(planting.payload(x), planting.payload(x))
    assert not torch.equal(planting.payload(x), planting.cover(x))


def test_sizes_that_the_tiles_do_not_divide_have_tiles_of_unequal_size() -> None:
    shown = AdapBlend(side=4).shown(30, (5, 7), torch.Generator().manual_seed(0))
    tile_rows, tile_columns = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    for down in range(4):
        for right in range(4):
            tile = shown[:, 0][:, tile_rows == down][:, :, tile_columns == right]
            assert torch.equal(tile.amin((1, 2)), tile.amax((1, 2)))
    assert shown.shape == (30, 1, 5, 7) and not torch.equal(shown[:, :, 1], shown[:, :, 2])


def test_faults_are_more_tiles_than_pixels_and_tiles_that_are_all_shown() -> None:
    assert AdapBlend(side=5, hidden=0.01).faults((1, 4, 9), 4) == [
        "side: expected at most 4, pixels of a side, got 5",
        "hidden: expected a part of 25 tiles, got 0",
    ]
    assert AdapBlend().faults((1, 4, 4), 4) == AdapBlend().faults(None, None) == []
