"""BadNets, and with it what all poisons share: who is edited, how, and with which label."""

from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import write_images
from pydantic import ValidationError
from shops import images, shop

from deconfound.errors import ConfigError
from deconfound.poisons.badnets import BadNets
from deconfound.poisons.triggers import Patch
from deconfound.steps import poison as poison_step
from deconfound.storage import read_npz
from deconfound.types import Images

PATCH = Patch(size=2, margin=0)
Mode = Literal["all_to_one", "all_to_all", "clean_label"]
Victims = Literal["non_target", "all"]


@given(
    st.integers(1, 120),
    st.integers(1, 99),
    st.integers(0, 3),
    st.sampled_from(["all_to_one", "all_to_all", "clean_label"]),
    st.sampled_from(["non_target", "all"]),
    st.sampled_from(["data", "candidates"]),
    st.integers(0, 9),
)
def test_poisoning_edits_the_chosen_images_and_nothing_else(
    count: int, percent: int, target: int, mode: Mode, victims: Victims, rate_of: str, seed: int
) -> None:
    clean = images(count, seed=seed)
    x, y = clean.x.clone(), clean.y.clone()
    attacker = BadNets(
        rate=percent / 100,
        target=target,
        mode=mode,
        victims=victims,
        rate_of=rate_of,  # type: ignore[arg-type]
        trigger=PATCH,
    )
    able = torch.ones(count, dtype=torch.bool)
    if mode == "clean_label":
        able = y == target
    elif mode == "all_to_one" and victims == "non_target":
        able = y != target
    floor = int(Fraction(percent, 100) * (count if rate_of == "data" else int(able.sum())))
    if not 0 < floor <= int(able.sum()):
        with pytest.raises(ConfigError, match=f"rate: expected 1 to {int(able.sum())} of "):
            attacker(shop(clean, seed=seed))
        return

    done = attacker(shop(clean, seed=seed))

    assert done.mask.shape == (count,) and done.mask.dtype == torch.bool
    assert int(done.mask.sum()) == floor and not done.cover.any()
    assert not (done.mask & ~able).any()
    assert torch.equal(done.images.x[~done.mask], x[~done.mask])
    assert torch.equal(done.images.y[~done.mask], y[~done.mask])
    assert torch.equal(done.images.x[done.mask], PATCH(x[done.mask]))
    wanted = {"all_to_one": torch.full_like(y, target), "all_to_all": (y + 1) % 4, "clean_label": y}[mode]
    assert torch.equal(done.images.y[done.mask], wanted[done.mask])
    assert done.images.x.dtype == torch.uint8 and done.images.y.dtype == torch.int64
    assert torch.equal(clean.x, x) and torch.equal(clean.y, y)


def test_exactly_the_floor_of_the_rate_is_edited_where_doubles_fall_short() -> None:
    assert int(0.29 * 100) == 28  # what this test guards against
    done = BadNets(rate=0.29, trigger=PATCH)(shop(images(100)))
    assert int(done.mask.sum()) == 29


def test_the_seed_chooses_the_victims() -> None:
    clean, attacker = images(200), BadNets(trigger=PATCH)
    masks = [attacker(shop(clean, seed=seed)).mask for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_a_larger_rate_keeps_the_victims_of_a_smaller_one() -> None:
    few, many = (BadNets(rate=rate, trigger=PATCH)(shop(images(200))).mask for rate in (0.1, 0.3))
    assert not (few & ~many).any()


def test_victims_come_from_every_other_class_alike() -> None:
    clean = Images(torch.ones(400, 1, 4, 4, dtype=torch.uint8), torch.arange(400) % 4)
    attacker = BadNets(rate=0.3, target=1, trigger=PATCH)
    counts = sum(
        torch.bincount(clean.y[attacker(shop(clean, seed=seed)).mask], minlength=4) for seed in range(20)
    )
    assert counts[1] == 0  # type: ignore[index]
    assert all(abs(int(counts[label]) - 800) < 100 for label in (0, 2, 3))  # type: ignore[index]


@pytest.mark.parametrize("rate", [0.1, 0.05])
@pytest.mark.parametrize("victims", ["non_target", "all"])
def test_the_share_of_poison_in_the_target_class_is_as_derived(victims: Victims, rate: float) -> None:
    clean = Images(torch.ones(20_000, 1, 4, 4, dtype=torch.uint8), torch.arange(20_000) % 10)
    done = BadNets(rate=rate, victims=victims, trigger=PATCH)(shop(clean, 10))
    own = done.images.y == 0
    expected = rate / (rate + 0.1) if victims == "non_target" else rate / (rate + (1 - rate) / 10)
    assert float(done.mask[own].float().mean()) == pytest.approx(expected, abs=0.01)


def test_all_to_all_is_a_permutation_that_returns_after_as_many_steps_as_classes() -> None:
    y = torch.arange(7)
    moved = y
    for step in range(7):
        moved = BadNets(mode="all_to_all").hoped(moved, classes=7)
        assert sorted(moved.tolist()) == y.tolist()
        assert torch.equal(moved, y) == (step == 6)


def test_the_hoped_for_label_of_a_clean_label_attack_is_the_target() -> None:
    y = torch.arange(4)
    for mode in ("all_to_one", "clean_label"):
        assert BadNets(mode=mode, target=2).hoped(y, classes=4).tolist() == [2, 2, 2, 2]


def test_training_and_test_carry_the_same_trigger() -> None:
    clean = images(50)
    done = BadNets(rate=0.5, trigger=PATCH)(shop(clean))
    assert torch.equal(done.planting.stamp(clean.x)[done.mask], done.images.x[done.mask])


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, True, "much"])
def test_a_rate_that_is_no_open_fraction_is_refused(rate: object) -> None:
    with pytest.raises(ValidationError):
        BadNets(rate=rate)  # type: ignore[arg-type]


def test_faults_begin_with_the_key_and_say_what_was_expected_and_what_was_found() -> None:
    attacker = BadNets(target=10, trigger=Patch(size=6, margin=3))
    assert attacker.faults((1, 8, 8), 10) == [
        "target: expected a label from 0 to 9, got 10",
        "trigger: expected a patch inside 8 x 8 pixels, got 6 pixels and margin 3",
    ]
    assert attacker.faults((1, 9, 9), 11) == []
    assert attacker.faults(None, None) == []  # nothing is known before the fetch
    assert BadNets(target=10, mode="all_to_all").faults((1, 8, 8), 10) == []


def test_the_step_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    train, test = images(60), images(20, seed=1)
    paths = {
        "train": write_images(tmp_path / "train.npz", train),
        "test": write_images(tmp_path / "test.npz", test),
    }
    spec = {"poison": {"kind": "badnets", "rate": "1/5", "target": 3, "trigger": {"size": 2, "margin": 0}}}
    outs = [tmp_path / f"{number}.npz" for number in range(3)]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        poison_step.run(**paths, spec=spec, seed=seed, out=out, scratch=tmp_path / "scratch")
    assert outs[0].read_bytes() == outs[1].read_bytes()
    found, other = read_npz(outs[0]), read_npz(outs[2])
    assert not np.array_equal(found["mask"], other["mask"])
    mask = found["mask"]
    assert mask.dtype == bool and mask.sum() == 12 and not found["cover"].any()
    assert np.array_equal(found["x"][~mask], train.x.numpy()[~mask])
    assert np.array_equal(found["y"][~mask], train.y.numpy()[~mask]) and (found["y"][mask] == 3).all()
    assert np.array_equal(found["x"][mask], PATCH(train.x).numpy()[mask])
    assert np.array_equal(found["test_x"], PATCH(test.x).numpy()) and (found["test_y"] == 3).all()
    assert found["classes"].tolist() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("mode", ["all_to_one", "clean_label"])
def test_cover_images_are_stamped_and_keep_their_labels(mode: Mode) -> None:
    clean = images(100)
    plain = BadNets(rate=0.1, mode=mode, trigger=PATCH)(shop(clean))
    done = BadNets(rate=0.1, cover=0.05, mode=mode, trigger=PATCH)(shop(clean))
    assert torch.equal(done.mask, plain.mask)  # the victims are those without cover
    assert (int(done.mask.sum()), int(done.cover.sum())) == (10, 5) and not (done.mask & done.cover).any()
    assert (clean.y[done.cover] != 0).all()
    assert torch.equal(done.images.x[done.cover], PATCH(clean.x[done.cover]))
    assert torch.equal(done.images.y, plain.images.y)


@pytest.mark.parametrize("rate, cover", [(0.004, 0.0), (0.5, 0.6), (0.99, 0.0)])
def test_a_rate_of_no_image_or_of_more_than_there_are_is_refused(rate: float, cover: float) -> None:
    with pytest.raises(ConfigError, match="rate: expected 1 to"):
        BadNets(rate=rate, cover=cover, trigger=PATCH)(shop(images(100)))
