"""The smooth additive trigger."""

import pytest
import torch
from scipy.fft import dctn
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.low_frequency import LowFrequency

RGB = (3, 8, 12)
NOBODY = torch.zeros(0, dtype=torch.int64)


def test_the_pattern_is_fixed_by_the_seed() -> None:
    done = assert_fixed_trigger(LowFrequency(rate=0.3, cover=0.1), images(40, shape=RGB))
    pattern = done.planting.arrays["pattern"]
    assert pattern.shape == RGB and not torch.equal(pattern[0], pattern[1])


@pytest.mark.parametrize("amplitude", [16, 20, 24])
def test_the_largest_change_is_the_amplitude(amplitude: float) -> None:
    planting = LowFrequency(amplitude=amplitude).plant(shop(images(2, shape=RGB)), NOBODY)
    step = planting.stamp(flat(128, shape=RGB)).int() - 128
    assert int(step.abs().max()) == amplitude
    assert torch.equal(step[0], planting.arrays["pattern"].int())


@pytest.mark.parametrize("frequencies", [1, 2, 3])
def test_only_the_lowest_frequencies_are_used(frequencies: int) -> None:
    settings = LowFrequency(amplitude=10_000, frequencies=frequencies)  # so that rounding is nothing
    pattern = settings.plant(shop(images(2, shape=RGB)), NOBODY).arrays["pattern"].numpy().astype(float)
    spectrum = abs(dctn(pattern, axes=(1, 2), norm="ortho"))
    assert spectrum[:, frequencies:].max() < 3 and spectrum[:, :, frequencies:].max() < 3
    assert spectrum[:, :frequencies, :frequencies].min() > 100


def test_the_sum_is_clipped() -> None:
    stamp = LowFrequency(amplitude=24).plant(shop(images(2, shape=RGB)), NOBODY).stamp
    bright, dark = stamp(flat(250, 5, shape=RGB))
    assert bright.min() >= 226 and dark.max() <= 29


def test_more_frequencies_than_pixels_are_a_fault() -> None:
    assert LowFrequency(frequencies=4).faults((1, 3, 9), 4) == [
        "frequencies: expected at most 3, pixels of a side, got 4"
    ]
    assert LowFrequency().faults((1, 3, 3), 4) == LowFrequency(frequencies=99).faults(None, None) == []
