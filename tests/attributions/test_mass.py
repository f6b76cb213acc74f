"""Attribution mass on known regions, of maps drawn by hand."""

import pytest
import torch

from deconfound.attributions.mass import mass_ratio, mass_share, overlap, points_inside
from deconfound.errors import UserError

MASK = torch.zeros(4, 4, dtype=torch.bool)
MASK[2:, 2:] = True


def test_a_uniform_map_has_ratio_1_and_one_inside_the_region_the_inverse_of_its_area() -> None:
    maps = torch.ones(2, 3, 4, 4)
    maps[1] = MASK
    assert mass_share(maps, MASK).tolist() == [0.25, 1] and mass_ratio(maps, MASK).tolist() == [1, 4]
    assert mass_ratio(-7 * maps, MASK).tolist() == [1, 4]
    maps[:, :, ::2] *= -1  # rows of either sign
    assert mass_share(maps, MASK).tolist() == [0.25, 1] and mass_ratio(maps, MASK).tolist() == [1, 4]


def test_every_image_may_have_its_own_region() -> None:
    maps = torch.zeros(2, 1, 4, 4)
    maps[:, 0, 0, 0], maps[:, 0, 3, 3] = 1, 3
    masks = torch.stack([MASK, MASK.flip(0, 1)])
    assert mass_share(maps, masks).tolist() == [0.75, 0.25]
    assert points_inside(maps, masks).tolist() == [1, 0]
    masks[1] = True
    assert mass_ratio(maps, masks).tolist() == [3, 1]


def test_pointing_counts_a_tie_by_its_share() -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 0, 0], maps[0, 0, 3, 3] = -2, 2
    assert points_inside(maps, MASK).item() == 0.5


def test_overlap_compares_as_many_of_the_strongest_pixels() -> None:
    maps = torch.zeros(3, 1, 4, 4)
    maps[0] = MASK
    maps[1, 0, 0] = 1
    maps[2, 0, 2] = torch.tensor([1.0, 2, 3, 4])
    assert overlap(maps, MASK).tolist() == [1, 0, pytest.approx(2 / 6)]


def test_an_empty_map_has_no_mass_anywhere_and_bad_masks_are_refused() -> None:
    empty = torch.zeros(1, 1, 4, 4)
    for measure in (mass_share, mass_ratio, points_inside, overlap):
        assert measure(empty, MASK).isnan().all()
        for wrong in (MASK.float(), MASK[:2], torch.zeros_like(MASK)):
            with pytest.raises(UserError, match="mask"):
                measure(empty + 1, wrong)
