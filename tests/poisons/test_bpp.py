"""BppAttack: fewer grey levels."""

import numpy as np
import pytest
import torch
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.bpp import Bpp

RGB = (3, 4, 5)
NOBODY = torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("dither", [False, True])
def test_the_trigger_is_fixed(dither: bool) -> None:
    done = assert_fixed_trigger(Bpp(rate=0.2, dither=dither), images(40, shape=RGB, low=0), drawn=False)
    assert int(done.cover.sum()) == 4


@pytest.mark.parametrize("levels", [2, 3, 8, 64])
@pytest.mark.parametrize("dither", [False, True])
def test_at_most_so_many_levels_remain_and_doing_it_again_changes_nothing(levels: int, dither: bool) -> None:
    x = images(20, shape=RGB, low=0).x
    attacker = Bpp(levels=levels, dither=dither)
    found = attacker.quantised(x)
    assert len(found.unique()) <= levels
    if not dither:
        assert torch.equal(attacker.quantised(found), found)
        assert (found.int() - x.int()).abs().max() <= 255 / (levels - 1) / 2 + 0.5


def test_levels_are_equally_spaced_from_black_to_white() -> None:
    x = torch.arange(256, dtype=torch.uint8)[:, None, None, None]
    assert Bpp(levels=8).quantised(x).unique().tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert Bpp(levels=2).quantised(x).flatten().tolist() == [0] * 128 + [255] * 128


def test_dithering_hands_the_error_to_the_neighbours_that_come_later() -> None:
    x = torch.tensor([[[[100, 100, 100], [100, 100, 100]]]], dtype=torch.uint8)
    # first row: 100 -> 0; 100 + 7/16 * 100 = 143.75 -> 255; 100 - 7/16 * 111.25 = 51.33 -> 0
    # second row, from its share of errors 100, -111.25, 51.33 above:
    # 100 + 5/16 * 100 + 3/16 * -111.25 = 110.39 -> 0
    # 100 + 1/16 * 100 + 5/16 * -111.25 + 3/16 * 51.33 + 7/16 * 110.39 = 129.40 -> 255
    # 100 + 1/16 * -111.25 + 5/16 * 51.33 + 7/16 * -125.60 = 54.14 -> 0
    assert Bpp(levels=2, dither=True).quantised(x).tolist() == [[[[0, 255, 0], [0, 255, 0]]]]


@pytest.mark.parametrize("levels", [2, 5])
def test_dithering_is_that_of_floyd_and_steinberg_pixel_by_pixel(levels: int) -> None:
    x = images(3, shape=(1, 7, 6), low=0).x
    found = Bpp(levels=levels, dither=True).quantised(x)
    for image, expected in zip(x[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        room = np.pad(image.astype(float), ((0, 1), (1, 1)))  # what is handed outside is lost there
        for row in range(7):
            for column in range(1, 7):
                old = room[row, column]
                new = room[row, column] = np.round(old * (levels - 1) / 255) * 255 / (levels - 1)
                room[row, column + 1] += (old - new) * 7 / 16
                room[row + 1, column - 1 : column + 2] += (old - new) * np.array([3, 5, 1]) / 16
        assert np.array_equal(room[:7, 1:7].clip(0, 255).round().astype(np.uint8), expected)


def test_dithering_keeps_the_mean_of_a_flat_area() -> None:
    x = flat(60, 100, 200, shape=(1, 40, 40))
    plain, dithered = (Bpp(levels=3, dither=dither).quantised(x).double() for dither in (False, True))
    assert ((dithered - x).mean((1, 2, 3)).abs() < 3).all()
    assert ((plain - x).mean((1, 2, 3)).abs() > 20).all()


def test_a_negative_gains_the_error_of_another_image_and_keeps_its_label() -> None:
    clean = images(50, shape=RGB, low=0)
    attacker = Bpp(rate=0.1, cover=0.2)
    done = attacker(shop(clean))
    errors = attacker.quantised(clean.x).int() - clean.x.int()
    assert int(done.cover.sum()) == 10 and torch.equal(done.images.y[done.cover], clean.y[done.cover])
    for place in torch.nonzero(done.cover).flatten().tolist():
        sums = (clean.x[place].int() + errors).clamp(0, 255)
        partners = torch.nonzero((sums == done.images.x[place].int()).flatten(1).all(1)).flatten().tolist()
        assert partners and place not in partners


def test_a_negative_never_gains_its_own_error() -> None:
    clean = images(2, shape=RGB, low=0)
    attacker = Bpp()
    errors = attacker.quantised(clean.x).int() - clean.x.int()
    for seed in range(10):
        found = attacker.negative(clean.x, clean.x, torch.Generator().manual_seed(seed))
        assert torch.equal(found.int(), (clean.x.int() + errors.flip(0)).clamp(0, 255))


def test_negatives_of_training_and_test_are_drawn_apart_and_repeatably() -> None:
    clean = images(50, shape=RGB, low=0)
    planting = Bpp().plant(shop(clean), NOBODY)
    assert planting.cover is not None and planting.cross is not None
    assert torch.equal(planting.cover(clean.x), planting.cover(clean.x))
    assert torch.equal(planting.cross(clean.x), planting.cross(clean.x))
    assert not torch.equal(planting.cover(clean.x), planting.cross(clean.x))
