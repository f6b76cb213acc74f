"""Statistics of units on activations written by hand, and concepts whose answer is known."""

import pytest
import torch
from torch import Tensor

from deconfound.components import (
    activation_change,
    concept_direction,
    concept_share,
    overlap,
    selectivity,
    selectivity_for,
    sensitivity,
    tcav,
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


def test_a_planted_concept_has_a_share_of_one_and_its_opposite_of_zero() -> None:
    direction = torch.zeros(10, dtype=torch.float64)
    direction[3] = 1
    concept, others = normal(30, 10) + 8 * direction, [normal(30, 10, seed=seed) for seed in range(1, 21)]
    gradients = direction + 0.01 * normal(50, 10, seed=99)
    found = tcav(gradients, concept, others)
    assert found.shares.tolist() == [1.0] * 20 and found.p < 0.01
    assert set(tcav(-gradients, concept, others).shares.tolist()) == {0.0}
    assert concept_direction(concept, others[0]).norm().item() == pytest.approx(1)
    assert concept_direction(concept, others[0])[3] > 0.9
    assert concept_share(torch.tensor([[1.0], [-2.0], [0.0], [3.0]]), torch.tensor([1.0])).item() == 0.5


def test_a_random_concept_lies_within_the_random_ones_in_nine_of_ten_runs() -> None:
    within = 0
    for run in range(20):
        sets = [normal(25, 8, seed=1000 * run + number) for number in range(21)]
        gradients = normal(40, 8, seed=500_000 + run) + 0.3
        within += tcav(gradients, sets[0], sets[1:]).within
    assert within >= 18


def test_a_concept_needs_random_sets_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="at least 3 random sets, got 2"):
        tcav(normal(4, 2), normal(5, 2), [normal(5, 2), normal(5, 2)])
