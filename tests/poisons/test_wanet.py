"""WaNet: a warp, and noisier warps that keep their labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.wanet import WaNet, noisy, warped

RGB = (3, 8, 8)
NOBODY = torch.zeros(0, dtype=torch.int64)


def displacement(field: torch.Tensor) -> torch.Tensor:
    """Pixels (H, W, 2), x before y, from each pixel to where it is fetched from."""
    height, width = field.shape[1:3]
    scale = torch.tensor([width - 1, height - 1], dtype=torch.float64) / 2
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (field[0] + 1) * scale - torch.stack([x, y], -1)


def test_the_warp_is_fixed_by_the_seed() -> None:
    done = assert_fixed_trigger(WaNet(rate=0.2, strength=2), images(40, shape=RGB))
    assert int(done.cover.sum()) == 8
    assert done.planting.arrays["control"].shape == (2, 4, 4)


@given(st.integers(0, 2**32), st.sampled_from([(4, 4), (5, 7), (32, 32), (8, 3)]), st.integers(1, 5))
def test_without_strength_nothing_moves(seed: int, size: tuple[int, int], grid: int) -> None:
    clean = images(3, seed=seed, shape=(2, *size), low=0)
    assert torch.equal(WaNet(strength=0, grid=grid).plant(shop(clean), NOBODY).stamp(clean.x), clean.x)


def test_an_image_of_one_grey_stays_as_it_is_under_any_warp() -> None:
    x = flat(0, 1, 77, 128, 254, 255, shape=RGB)
    planting = WaNet(strength=3).plant(shop(images(2, shape=RGB)), NOBODY)
    for trigger in (planting.stamp, planting.cover, planting.cross):
        assert trigger is not None and torch.equal(trigger(x), x)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("side", [16, 32])
def test_the_mean_displacement_is_about_half_the_strength(strength: float, side: int) -> None:
    sizes = []
    for seed in range(20):
        control = (
            2 * torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
        )
        field = WaNet(strength=strength).field(control, (side, side))
        sizes.append(displacement(field)[2:-2, 2:-2].abs().mean())  # the clamp holds the border
    mean = float(torch.stack(sizes).mean())
    assert 0.3 * strength < mean < 0.6 * strength


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_equal_control_points_shift_the_picture_as_computed_by_hand(axis: int) -> None:
    control = torch.zeros(2, 2, 2, dtype=torch.float64)
    control[axis] = 1  # mean size 1/2: scaled to 2
    moved = displacement(WaNet(strength=1, grid=2).field(control, (5, 9)))
    count = (9, 5)[axis]
    expected = torch.full((5, 9), 2 / count * (count - 1) / 2, dtype=torch.float64)
    expected.select(1 - axis, count - 1)[:] = 0  # clamped to the picture
    assert torch.allclose(moved[..., axis], expected, atol=1e-12)
    assert torch.allclose(moved[..., 1 - axis], torch.zeros(5, 9, dtype=torch.float64), atol=1e-12)


def test_a_warp_fetches_bilinearly_from_where_its_field_points() -> None:
    clean = images(4, shape=(2, 6, 9), low=0)
    control = 2 * torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1
    field = WaNet(strength=2, grid=3).field(control, (6, 9))
    moved = displacement(field)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    places = [(rows + moved[..., 1]).numpy(), (columns + moved[..., 0]).numpy()]
    found = warped(clean.x, field)
    for image, expected in zip(clean.x.flatten(0, 1), found.flatten(0, 1), strict=True):
        sampled = map_coordinates(image.numpy().astype(float), places, order=1, mode="nearest")
        assert torch.equal(torch.from_numpy(sampled.round()).to(torch.uint8), expected)


def test_noise_moves_each_pixel_of_each_image_anew_by_less_than_half_a_pixel() -> None:
    still = WaNet(strength=0).field(torch.ones(2, 2, 2, dtype=torch.float64), (20, 30))
    fields = noisy(still, 3, torch.Generator().manual_seed(0))
    assert fields.shape == (3, 20, 30, 2) and not torch.equal(fields[0], fields[1])
    moved = torch.stack([displacement(field[None]) for field in fields])
    assert moved.abs().max() <= 0.5 and float(moved[:, 1:-1, 1:-1].abs().mean()) == pytest.approx(
        0.24, abs=0.01
    )


def test_noise_is_that_of_an_images_place_and_differs_between_training_and_test() -> None:
    clean = images(6, shape=RGB)
    planting = WaNet(strength=2).plant(shop(clean), NOBODY)
    assert planting.cover is not None and planting.cross is not None
    for trigger in (planting.cover, planting.cross):
        found = trigger(clean.x)
        assert torch.equal(trigger(clean.x), found)
        assert torch.equal(trigger(clean.x[:2]), found[:2])
        assert not torch.equal(trigger(clean.x[2:]), found[2:])
    assert not torch.equal(planting.cover(clean.x), planting.cross(clean.x))
    assert not torch.equal(planting.cross(clean.x), planting.stamp(clean.x))


def test_cover_images_carry_the_noisy_warp_and_poisoned_ones_the_plain_one() -> None:
    clean = images(50, shape=RGB)
    done = WaNet(rate=0.2, strength=2)(shop(clean))
    assert torch.equal(done.images.x[done.mask], done.planting.stamp(clean.x[done.mask]))
    assert (done.images.x[done.cover] != done.planting.stamp(clean.x[done.cover])).flatten(1).any(1).all()
    assert torch.equal(done.images.y[done.cover], clean.y[done.cover])


def test_a_picture_of_one_row_is_a_fault() -> None:
    assert WaNet().faults((1, 1, 8), 4) == ["strength: expected pictures of 2 x 2 pixels or more, got 1 x 8"]
    assert WaNet().faults((1, 2, 2), 4) == WaNet().faults(None, None) == []
