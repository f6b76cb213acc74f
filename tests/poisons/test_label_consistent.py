"""Label-consistent: the pattern drawn by hand, the ball, and who is touched."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import tiny_images
from surrogates import assert_a_killed_run_goes_on, assert_the_seed_decides, full_shop, trainer

from deconfound.models.classifier import predict
from deconfound.poisons.label_consistent import CornerPattern, LabelConsistent
from deconfound.types import Images

GREY = 100
DRAWN = {"+": 40, "-": -40, ".": 0}
CORNERS = {
    "one": "....... ....... ....... ....--+ ....-+- ....+-+",
    "all": "+-+.+-+ -+-.-+- +--.--+ +--.--+ -+-.-+- +-+.+-+",
}
BRIEF: dict[str, Any] = {"steps": 3, "step_size": "4/255", "epochs": 1, "target": 1}


@pytest.mark.parametrize("corners", CORNERS)
def test_the_pattern_looks_as_drawn_in_every_image_and_channel(corners: Any) -> None:
    rows = [[GREY + DRAWN[mark] for mark in row] for row in CORNERS[corners].split()]
    expected = torch.tensor(rows, dtype=torch.uint8).expand(2, 3, 6, 7)
    x = torch.full_like(expected, GREY).contiguous()
    assert torch.equal(CornerPattern(corners=corners, amplitude=40 / 255)(x), expected)
    assert (x == GREY).all()


def test_the_pattern_in_all_corners_is_its_own_mirror_image() -> None:
    stamped = CornerPattern(corners="all", amplitude=0.5)(torch.full((1, 1, 9, 8), GREY, dtype=torch.uint8))
    assert torch.equal(stamped, stamped.flip(3)) and torch.equal(stamped, stamped.flip(2))


def test_bright_stays_bright_and_dark_stays_dark() -> None:
    for level in (0, 255):
        stamped = CornerPattern()(torch.full((1, 1, 3, 3), level, dtype=torch.uint8))
        assert set(stamped.unique().tolist()) <= {0, 255}
        assert stamped[0, 0, 0, 2] == 255 and stamped[0, 0, 0, 0] == 0


def test_images_of_the_target_class_are_moved_within_the_ball_and_then_stamped() -> None:
    clean = tiny_images(40)
    poison = LabelConsistent(eps=6.5 / 255, trigger=CornerPattern(amplitude=0.1), **BRIEF)
    done = poison(full_shop(clean))
    assert torch.equal(done.images.y, clean.y)
    assert int(done.mask.sum()) == 6 and (clean.y[done.mask] == 1).all()  # half of 13
    assert torch.equal(done.images.x[~done.mask], clean.x[~done.mask])
    outside = torch.ones(4, 4, dtype=torch.bool)
    outside[1:, 1:] = False
    moved = (done.images.x.int() - clean.x.int())[done.mask]
    assert int(moved[..., outside].abs().max()) == 6  # the whole number below 6.5
    before = clean.x[done.mask].int()
    reach = [poison.trigger((before + step).clamp(0, 255).to(torch.uint8)).int() for step in (-6, 6)]
    assert ((done.images.x[done.mask].int() >= reach[0]) & (done.images.x[done.mask].int() <= reach[1])).all()


def test_the_movement_makes_the_robust_network_less_sure_of_the_true_class() -> None:
    clean = tiny_images(40)
    loop = trainer(clean)
    networks: list[Any] = []
    shop = full_shop(clean, loop=loop)
    make = shop.network
    assert make is not None
    object.__setattr__(shop, "network", lambda purpose: networks.append(make(purpose)) or networks[-1])
    done = LabelConsistent(eps=8 / 255, trigger=CornerPattern(amplitude=1e-6), **BRIEF)(shop)
    (robust,) = networks
    before, after = (predict(robust, x[done.mask]).log_softmax(1)[:, 1] for x in (clean.x, done.images.x))
    assert (after < before).all()


def test_without_a_radius_only_the_pattern_is_left() -> None:
    clean, poison = tiny_images(40), LabelConsistent(eps=0, **BRIEF)
    done = poison(full_shop(clean))
    assert torch.equal(done.images.x[done.mask], poison.trigger(clean.x[done.mask]))
    assert torch.equal(done.planting.stamp(clean.x), poison.trigger(clean.x))


def test_an_image_is_moved_alike_whoever_else_is_poisoned() -> None:
    clean = tiny_images(40)
    few, many = (LabelConsistent(rate=rate, **BRIEF)(full_shop(clean)) for rate in (0.4, 1.0))
    assert (few.mask <= many.mask).all() and int(few.mask.sum()) < int(many.mask.sum())
    assert torch.equal(few.images.x[few.mask], many.images.x[few.mask])
    payload = many.planting.payload
    assert payload is not None
    assert torch.equal(payload(clean.x.flip(0)), payload(clean.x).flip(0))


def test_a_test_image_carries_the_pattern_alone() -> None:
    poison, held = LabelConsistent(**BRIEF), tiny_images(9, seed=1)
    assert torch.equal(poison(full_shop()).planting.stamp(held.x), CornerPattern()(held.x))


def test_cover_images_of_other_classes_carry_the_pattern_alone() -> None:
    clean, poison = tiny_images(40), LabelConsistent(cover=0.4, **BRIEF)
    done = poison(full_shop(clean))
    assert int(done.cover.sum()) == 5 and (clean.y[done.cover] != 1).all()
    assert torch.equal(done.images.x[done.cover], poison.trigger(clean.x[done.cover]))


def test_faults_name_the_least_size() -> None:
    assert LabelConsistent().faults((1, 3, 3), 3) == []
    wide = LabelConsistent(trigger=CornerPattern(corners="all"))
    assert wide.faults((1, 5, 9), 3) == [
        "trigger: expected pictures of 6 x 6 pixels or more for all corner(s), got 5 x 9"
    ]
    assert wide.faults((1, 6, 6), 3) == wide.faults(None, None) == []


def test_the_seed_decides() -> None:
    assert_the_seed_decides(LabelConsistent(**BRIEF))


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = LabelConsistent(steps=2, epochs=3)
    assert_a_killed_run_goes_on(poison, 6, tmp_path, monkeypatch)


def test_the_robust_network_is_trained_adversarially_for_its_own_epochs() -> None:
    clean = tiny_images(40)
    loop = trainer(clean)
    LabelConsistent(steps=1, epochs=3)(full_shop(clean, loop=loop))
    assert [len(loop.history[phase]) for phase in loop.history] == [3] and "robust" in loop.history


def test_a_picture_of_one_class_alone_is_no_obstacle() -> None:
    some = tiny_images(40)
    every = Images(some.x, torch.ones_like(some.y))
    assert int(LabelConsistent(**BRIEF)(full_shop(every)).mask.sum()) == 20
