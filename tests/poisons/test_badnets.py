"""BadNets: who is edited, how, and with which label."""

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

from deconfound.errors import ConfigError
from deconfound.poisons.badnets import BadNets
from deconfound.poisons.triggers import Patch
from deconfound.steps import poison as poison_step
from deconfound.storage import read_npz
from deconfound.types import Images

PATCH = Patch(size=2, margin=0)
Mode = Literal["all_to_one", "all_to_all"]


def images(count: int, classes: int = 4, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 255, (count, 1, 4, 4)).astype(np.uint8)  # neither ink occurs by chance
    return Images(torch.from_numpy(x), torch.from_numpy(rng.integers(0, classes, count)))


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    st.integers(1, 120),
    st.integers(1, 99),
    st.integers(0, 3),
    st.sampled_from(["all_to_one", "all_to_all"]),
    st.booleans(),
    st.integers(0, 9),
)
def test_poisoning_edits_the_chosen_images_and_nothing_else(
    count: int, percent: int, target: int, mode: Mode, from_target: bool, seed: int
) -> None:
    clean = images(count, seed=seed)
    x, y = clean.x.clone(), clean.y.clone()
    attacker = BadNets(rate=percent / 100, target=target, mode=mode, from_target=from_target, trigger=PATCH)
    everyone = mode == "all_to_all" or from_target
    victims = torch.ones(count, dtype=torch.bool) if everyone else y != target
    floor = int(Fraction(percent, 100) * count)
    if not 0 < floor <= int(victims.sum()):
        with pytest.raises(ConfigError, match=f"rate: expected 1 to {int(victims.sum())} of {count} images"):
            attacker(clean, classes=4, rng=fresh(seed))
        return

    done = attacker(clean, classes=4, rng=fresh(seed))

    assert done.mask.shape == (count,) and done.mask.dtype == torch.bool
    assert int(done.mask.sum()) == floor
    assert not (done.mask & ~victims).any()
    assert torch.equal(done.images.x[~done.mask], x[~done.mask])
    assert torch.equal(done.images.y[~done.mask], y[~done.mask])
    assert torch.equal(done.images.x[done.mask], PATCH(x[done.mask]))
    wanted = torch.full_like(y, target) if mode == "all_to_one" else (y + 1) % 4
    assert torch.equal(done.images.y[done.mask], wanted[done.mask])
    assert done.images.x.dtype == torch.uint8 and done.images.y.dtype == torch.int64
    assert torch.equal(clean.x, x) and torch.equal(clean.y, y)


def test_exactly_the_floor_of_the_rate_is_edited_where_doubles_fall_short() -> None:
    assert int(0.29 * 100) == 28  # what this test guards against
    done = BadNets(rate=0.29, trigger=PATCH)(images(100), classes=4, rng=fresh())
    assert int(done.mask.sum()) == 29


def test_the_generator_chooses_the_victims() -> None:
    clean, attacker = images(200), BadNets(trigger=PATCH)
    masks = [attacker(clean, classes=4, rng=fresh(seed)).mask for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_victims_come_from_every_other_class_alike() -> None:
    clean = Images(torch.ones(400, 1, 4, 4, dtype=torch.uint8), torch.arange(400) % 4)
    attacker = BadNets(rate=0.3, target=1, trigger=PATCH)
    counts = sum(
        torch.bincount(clean.y[attacker(clean, classes=4, rng=fresh(seed)).mask], minlength=4)
        for seed in range(20)
    )
    assert counts[1] == 0  # type: ignore[index]
    assert all(abs(int(counts[label]) - 800) < 100 for label in (0, 2, 3))  # type: ignore[index]


def test_the_whole_test_split_is_stamped_in_its_order_with_the_hoped_for_label() -> None:
    test = images(40)
    one = BadNets(target=2, trigger=PATCH).triggered(test, classes=4)
    every = BadNets(mode="all_to_all", trigger=PATCH).triggered(test, classes=4)
    assert torch.equal(one.x, PATCH(test.x)) and torch.equal(every.x, PATCH(test.x))
    assert one.y.tolist() == [2] * 40
    assert every.y.tolist() == [(label + 1) % 4 for label in test.y.tolist()]


def test_training_and_test_carry_the_same_trigger() -> None:
    clean, attacker = images(50), BadNets(rate=0.5, trigger=PATCH)
    done = attacker(clean, classes=4, rng=fresh())
    assert torch.equal(attacker.triggered(clean, classes=4).x[done.mask], done.images.x[done.mask])


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
    spec = {"kind": "badnets", "rate": "1/5", "target": 3, "trigger": {"size": 2, "margin": 0}}
    outs = [tmp_path / f"{number}.npz" for number in range(3)]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        poison_step.run(**paths, spec=spec, seed=seed, out=out)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    found, other = read_npz(outs[0]), read_npz(outs[2])
    assert not np.array_equal(found["mask"], other["mask"])
    mask = found["mask"]
    assert mask.dtype == bool and mask.sum() == 12
    assert np.array_equal(found["x"][~mask], train.x.numpy()[~mask])
    assert np.array_equal(found["y"][~mask], train.y.numpy()[~mask]) and (found["y"][mask] == 3).all()
    assert np.array_equal(found["x"][mask], PATCH(train.x).numpy()[mask])
    assert np.array_equal(found["test_x"], PATCH(test.x).numpy()) and (found["test_y"] == 3).all()
    assert found["classes"].tolist() == ["0", "1", "2", "3"]


def test_cover_images_are_stamped_and_keep_their_labels() -> None:
    clean = images(100)
    plain = BadNets(rate=0.1, trigger=PATCH)(clean, classes=4, rng=fresh())
    done = BadNets(rate=0.1, cover=0.05, trigger=PATCH)(clean, classes=4, rng=fresh())
    relabelled = done.images.y != clean.y
    assert (int(done.mask.sum()), int(relabelled.sum())) == (15, 10)
    assert torch.equal(done.images.x[done.mask], PATCH(clean.x[done.mask]))
    assert torch.equal(relabelled, plain.images.y != clean.y)  # the victims are those without cover
    assert not (relabelled & ~done.mask).any()


@pytest.mark.parametrize("rate, cover", [(0.004, 0.0), (0.5, 0.6), (0.99, 0.0)])
def test_a_rate_of_no_image_or_of_more_than_there_are_is_refused(rate: float, cover: float) -> None:
    with pytest.raises(ConfigError, match="rate: expected 1 to"):
        BadNets(rate=rate, cover=cover, trigger=PATCH)(images(100), classes=4, rng=fresh())
