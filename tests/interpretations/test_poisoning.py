"""Influence poisoning as a reading: who is attacked, what is counted, and what stands beside it."""

import numpy as np
import pytest
import torch
from interpretation_cases import case

from deconfound.interpretations.case import Place
from deconfound.interpretations.poisoning import InfluencePoisoning

SPEC = InfluencePoisoning(moved=(1, 48), eps=0.5, steps=4, targets=3, examples=12, pictured=2)


def test_only_the_first_images_that_the_head_gets_right_are_targets() -> None:
    found = SPEC(case())
    right = found.each[Place("head", "clean", "right")]
    flipped = found.each[Place("images_1", "influence", "flipped")]
    assert right.sum() >= 3 and len(flipped) == 12
    assert np.flatnonzero(np.isfinite(flipped)).tolist() == np.flatnonzero(right)[:3].tolist()


def test_moving_more_images_moves_the_loss_further_and_further_than_noise() -> None:
    found = SPEC(case())
    means = {
        (count, condition): float(np.nanmean(found.each[Place(f"images_{count}", condition, "loss_change")]))
        for count in (1, 48)
        for condition in ("influence", "noise")
    }
    assert means[48, "influence"] > means[1, "influence"] > 0
    assert means[48, "influence"] > means[48, "noise"]


def test_without_room_nothing_is_flipped_and_nothing_changes() -> None:
    still = InfluencePoisoning(moved=(2,), eps=0.0, steps=2, targets=2, examples=6)(case())
    flipped = still.each[Place("images_2", "influence", "flipped")]
    change = still.each[Place("images_2", "influence", "loss_change")]
    assert np.nansum(flipped) == 0 and np.nanmax(np.abs(change)) < 1e-9


def test_pictures_show_what_moved_within_its_budget() -> None:
    whole = case()
    drawn = SPEC(whole).pictures
    assert drawn["before"].shape == drawn["after"].shape == (2, 3, 8, 8)
    assert np.array_equal(drawn["before"], whole.train.x[torch.from_numpy(drawn["places"])].numpy())
    moved = np.abs(drawn["after"].astype(int) - drawn["before"].astype(int))
    assert 0 < moved.max() <= 127


@pytest.mark.parametrize("count", [49, 1000])
def test_more_images_than_there_are_is_left_out(count: int) -> None:
    found = InfluencePoisoning(moved=(count,), steps=1, targets=1, examples=3)(case())
    assert {place.subject for place in found.each} == {"head"}
