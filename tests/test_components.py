"""Statistics of units on activations written by hand, and concepts whose answer is known."""

import pytest
import torch
from torch import Tensor

from deconfound.components import (
    activation_change,
    overlap,
    selectivity,
    selectivity_for,
    sensitivity,
)

Y = torch.tensor([0, 0, 1, 1, 2, 2])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_unit_of_one_class_is_fully_selective_and_a_constant_one_is_not_at_all() -> None:
    h = torch.tensor(
        [[0.0, 3.0, 0.0, 1.0], [0, 3, 0, 3], [5, 3, 0, 1], [7, 3, 0, 1], [0, 3, 0, 1], [0, 3, 0, 1]]
    )
    # The last unit: means 2, 1, 1, so (2 - 1) / (2 + 1).
    assert selectivity(h, Y, 3).tolist() == pytest.approx([1, 0, 0, 1 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_selectivity_of_activations_that_are_not_negative_lies_between_zero_and_one(seed: int) -> None:
    h = normal(6, 40, seed=seed)
    own = selectivity_for(h, Y, 3)
    assert own.min() >= -1 and own.max() <= 1
    rectified = selectivity(h.clamp_min(0), Y, 3)
    assert rectified.min() >= 0 and rectified.max() <= 1


def test_selectivity_for_a_class_changes_sign_with_the_side_that_it_is_on() -> None:
    h = torch.tensor([[4.0], [4], [1], [1], [1], [1]])  # of class 0: (4 - 1) / 5; of class 1: (1 - 2.5) / 3.5
    assert selectivity_for(h, Y, 4)[:, 0].tolist() == pytest.approx([0.6, -1.5 / 3.5, -1.5 / 3.5, 0])


def test_a_class_without_images_changes_nothing() -> None:
    h = normal(6, 5).abs()
    assert torch.equal(selectivity(h, Y, 9), selectivity(h, Y, 3))
    below = -h - 1  # an absent class has no mean, and must not be the largest one
    assert torch.equal(selectivity(below, Y, 9), selectivity(below, Y, 3))


def test_activation_change_is_the_mean_length_of_what_a_trigger_adds() -> None:
    before = normal(2, 3, 4, 4)
    after = before.clone()
    after[0, 1, 0, 0] += 3
    after[0, 1, 2, 3] -= 4  # length 5 in one of two images
    assert activation_change(before, after).tolist() == pytest.approx([0, 2.5, 0])
    assert activation_change(before[..., 0, 0], after[..., 0, 0]).tolist() == pytest.approx([0, 1.5, 0])


def test_sensitivity_is_the_mean_absolute_change_per_position() -> None:
    before = normal(2, 3, 4, 4)
    after = before.clone()
    after[0, 1, 0, 0] += 3
    after[1, 1, 2, 3] -= 5
    assert sensitivity(before, after).tolist() == pytest.approx([0, 8 / 32, 0])
    assert sensitivity(before[..., 0, 0], after[..., 0, 0]).tolist() == pytest.approx([0, 1.5, 0])


def test_the_overlap_of_a_channel_that_is_the_mask_is_one() -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:4, 5:7] = True  # 4 of 64 pixels
    noise = normal(4, 8, 8).abs() / 100
    elsewhere = torch.zeros(4, 8, 8, dtype=torch.float64)
    elsewhere[:, 0:2, 0:2] = 1
    half = masks * noise.clone().fill_(1.0)
    half[:2] = 0  # the mask in half of the pictures only
    maps = torch.stack([masks + noise, elsewhere + noise, torch.full_like(noise, 3.0), half], 1)
    assert overlap(maps, masks, top=4 / 64).tolist() == pytest.approx([1, 0, 0, 0.5])


def test_coarse_maps_are_enlarged_to_the_masks() -> None:
    maps = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    maps[0, 0, 0, 0] = 1
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, :2, :2] = True
    # Bilinear without aligned corners: 3 x 3 pixels lie above 0, the mask has 4 of them.
    assert overlap(maps, masks, top=0.25).item() == pytest.approx(4 / 9)
