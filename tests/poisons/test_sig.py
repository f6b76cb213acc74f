"""SIG: a sinusoid over images of the target class."""

import pytest
import torch
from shops import assert_fixed_trigger, flat, images, shop

from deconfound.poisons.sig import SIG

WIDE = (3, 5, 16)


def pattern(**settings: int) -> torch.Tensor:
    found = SIG(**settings).plant(shop(images(2, shape=WIDE)), torch.arange(1)).arrays["pattern"]
    return found.to(torch.float64)


def test_the_sinusoid_is_fixed_and_goes_to_the_target_class_with_its_labels() -> None:
    clean = images(80, shape=WIDE)
    done = assert_fixed_trigger(SIG(frequency=2, rate=0.2, target=1), clean, drawn=False)
    assert (clean.y[done.mask] == 1).all() and int(done.mask.sum()) == 16
    assert torch.equal(done.images.y, clean.y)


def test_columns_follow_the_formula_and_rows_do_not_differ() -> None:
    stamped = SIG(frequency=2, delta=40).plant(shop(images(2, shape=WIDE)), torch.arange(1)).stamp
    x = flat(100, shape=WIDE)
    by_hand = {0: 100, 1: 128, 2: 140, 5: 72, 6: 60}  # 40 sin(pi/4) = 28.28
    for column, grey in by_hand.items():
        assert (stamped(x)[..., column] == grey).all()


def test_bright_stays_bright_and_dark_stays_dark() -> None:
    stamp = SIG(frequency=2, delta=40).plant(shop(images(2, shape=WIDE)), torch.arange(1)).stamp
    bright, dark = stamp(flat(250, 5, shape=WIDE))
    assert bright.min() >= 210 and dark.max() <= 45
    assert (bright[..., 2] == 255).all() and (dark[..., 6] == 0).all()


@pytest.mark.parametrize("frequency", [1, 2, 3, 7])
def test_the_mean_over_the_columns_is_zero_and_the_flipped_wave_is_the_negated_one(frequency: int) -> None:
    wave = pattern(frequency=frequency, delta=1000)
    assert abs(float(wave.mean())) < 1e-9
    assert torch.equal(wave.flip(0)[:-1], -wave[1:])  # up to one column's shift


def test_the_period_is_the_width_over_the_frequency() -> None:
    wave = pattern(frequency=2)
    assert torch.equal(wave[:8], wave[8:]) and not torch.equal(wave[:4], wave[4:8])


def test_at_half_the_width_nothing_would_be_left_which_is_a_fault() -> None:
    assert float(pattern(frequency=8).abs().max()) == 0
    assert SIG(frequency=8).faults((1, 9, 16), 4) == [
        "frequency: expected less than half of 16 columns, got 8"
    ]
    assert SIG(frequency=7).faults((1, 2, 16), 4) == SIG().faults(None, None) == []


def test_the_rate_is_counted_on_all_images_unless_candidates_are_asked_for() -> None:
    clean = images(200, shape=WIDE)
    own = int((clean.y == 0).sum())
    of_data, of_class = (
        SIG(frequency=2, rate=0.1, rate_of=base)(shop(clean)).mask.sum() for base in ("data", "candidates")
    )
    assert int(of_data) == 20 and int(of_class) == own // 10
