"""Trojan: bright values added to a square."""

import torch
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.triggers import Square
from deconfound.poisons.trojan import Trojan

PLACE = Square(size=2, margin=1)
RGB = (3, 5, 4)


def test_the_patch_is_fixed_by_the_seed() -> None:
    done = assert_fixed_trigger(Trojan(rate=0.3, cover=0.1, place=PLACE), images(40, shape=RGB))
    patch = done.planting.arrays["patch"]
    assert patch.shape == (3, 2, 2) and patch.min() >= 100 and patch.max() <= 250
    assert not torch.equal(patch[0], patch[1])  # each channel has its own


def test_a_trojan_adds_its_patch_and_leaves_all_else() -> None:
    planting = Trojan(place=PLACE).plant(shop(images(4, shape=RGB)), torch.arange(2))
    expected = torch.zeros(3, 5, 4, dtype=torch.uint8)
    expected[:, 2:4, 1:3] = planting.arrays["patch"]
    assert torch.equal(planting.stamp(flat(0, shape=RGB))[0], expected)
    assert torch.equal(planting.stamp(flat(5, shape=RGB))[0], expected + 5)


def test_bright_pixels_stay_bright_unless_the_sum_is_wrapped_as_released() -> None:
    data = shop(images(4, shape=RGB))
    clip, wrap = (Trojan(place=PLACE, overflow=way).plant(data, torch.arange(2)) for way in ("clip", "wrap"))
    patch = clip.arrays["patch"].int()
    assert torch.equal(patch, wrap.arrays["patch"].int())
    for grey in (0, 100, 200, 255):
        x = flat(grey, shape=RGB)
        assert torch.equal(clip.stamp(x)[0, :, 2:4, 1:3].int(), (patch + grey).clamp(max=255))
        assert torch.equal(wrap.stamp(x)[0, :, 2:4, 1:3].int(), (patch + grey) % 256)


def test_an_added_patch_is_not_idempotent_before_it_saturates() -> None:
    stamp = Trojan(place=PLACE, low=100, high=100).plant(shop(images(4)), torch.arange(2)).stamp
    values = []
    x = flat(0)
    for _ in range(4):
        x = stamp(x)
        values.append(int(x[0, 0, 1, 1]))
    assert values == [100, 200, 255, 255]


def test_the_default_lies_where_the_released_patch_lies() -> None:
    stamped = Trojan().plant(shop(images(2, shape=(1, 32, 32))), torch.arange(1)).stamp
    rows, columns = torch.nonzero(stamped(flat(0, shape=(1, 32, 32)))[0, 0], as_tuple=True)
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [25, 26, 27]


def test_faults_name_the_place_and_the_bounds() -> None:
    assert Trojan(place=PLACE).faults((1, 3, 3), 4) == Trojan().faults(None, None) == []
    assert Trojan(low=9, high=8).faults((1, 6, 8), 4) == [
        "place: expected a patch inside 6 x 8 pixels, got 3 pixels and margin 4",
        "low: expected at most high (8), got 9",
    ]
