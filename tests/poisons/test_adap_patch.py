"""Adap-Patch: one faint patch per training image, several opaque ones at test time."""

import torch
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.adap_patch import AdapPatch

RGB = (3, 6, 7)
SMALL = AdapPatch(rate=0.2, cover=0.2, size=2, margin=1)
CORNERS = [(1, 1), (1, 4), (3, 1), (3, 4)]  # upper left pixels of the patches


def test_the_patches_are_fixed_by_the_seed() -> None:
    done = assert_fixed_trigger(SMALL, images(60, shape=RGB))
    assert done.planting.arrays["patches"].shape == (4, 2, 2)


def test_there_are_twice_as_many_cover_images_as_poisoned_ones_by_default() -> None:
    done = AdapPatch(size=2)(shop(images(200, shape=RGB)))
    assert (int(done.mask.sum()), int(done.cover.sum())) == (2, 4)


def test_training_images_take_turns_at_one_patch_of_its_opacity() -> None:
    planting = SMALL.plant(shop(images(8, shape=RGB)), torch.arange(2))
    ink = planting.arrays["patches"].double()
    x = flat(*[100] * 8, shape=RGB)
    for trigger in (planting.payload, planting.cover):
        assert trigger is not None
        for place, image in enumerate(trigger(x)):
            top, left = CORNERS[place % 4]
            opacity = (0.5, 0.2, 0.5, 0.3)[place % 4]
            expected = x[place].clone()
            mixed = (1 - opacity) * 100 + opacity * ink[place % 4]
            expected[:, top : top + 2, left : left + 2] = mixed.round().to(torch.uint8)
            assert torch.equal(image, expected)


def test_all_patches_or_the_two_on_the_left_are_shown_at_test_time() -> None:
    data = shop(images(8, shape=RGB))
    x = flat(100, shape=RGB)
    for shown, places in (("all", (0, 1, 2, 3)), ("two", (0, 2))):
        planting = AdapPatch(size=2, shown=shown).plant(data, torch.arange(2))  # type: ignore[arg-type]
        expected = x.clone()
        for place in places:
            top, left = CORNERS[place]
            expected[..., top : top + 2, left : left + 2] = planting.arrays["patches"][place]
        assert torch.equal(planting.stamp(x), expected)


def test_the_test_opacity_may_be_lower() -> None:
    planting = AdapPatch(size=2, test_opacity=0.5).plant(shop(images(8, shape=RGB)), torch.arange(2))
    stamped = planting.stamp(flat(100, shape=RGB))
    assert set(stamped.unique().tolist()) <= {
        50,
        100,
        178,
    }  # half of 0, untouched, half of 255 rounded to even
    assert int((stamped != 100).sum()) == 3 * 16


def test_patches_that_overlap_are_a_fault() -> None:
    assert AdapPatch(size=3, margin=1).faults((1, 7, 9), 4) == [
        "size: expected four patches inside 7 x 9 pixels, got 3 pixels and margin 1"
    ]
    assert AdapPatch(size=3).faults((1, 8, 8), 4) == AdapPatch().faults(None, None) == []
