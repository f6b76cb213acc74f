"""Trigger inversion on a linear network with a planted shortcut."""

from typing import Any

import pytest
import torch
from oracle_models import same, snapshot
from suspects import CLASSES, SHORTCUT, SIDE, TARGET, dark, linear, shortcut
from torch import Generator, Tensor

from deconfound.attacks.ascent import Point
from deconfound.detectors import inversion
from deconfound.detectors.inversion import Descent, Inversion, Inverted, Look, stamp
from deconfound.rng import generator

QUICK = Inversion(passes=40, batch_size=8, patience=2)
IMAGES = dark()


def rng(purpose: str) -> Generator:
    return generator(0, purpose)


@pytest.fixture(scope="module")
def found() -> Inverted:
    return QUICK(shortcut(), IMAGES, rng=rng)


def test_a_stamp_mixes_by_the_mask() -> None:
    x, mask = torch.full((2, 3, 1, 2), 0.5), torch.tensor([0.0, 0.25]).view(1, 1, 2)
    assert torch.equal(stamp(x, mask, torch.ones(3, 1, 2))[1, 2], torch.tensor([[0.5, 0.625]]))


def test_the_mask_of_a_shortcut_lies_on_its_pixel(found: Inverted) -> None:
    mask = found.mask[TARGET].flatten()
    assert mask.argmax() == SHORTCUT and mask[SHORTCUT] > 0.8 * mask.sum()
    others = [label for label in range(CLASSES) if label != TARGET]
    assert found.norms[TARGET] < 0.5 * found.norms[others].min()


def test_kept_triggers_send_the_images_to_their_class(found: Inverted) -> None:
    assert found.mask.shape == (CLASSES, 1, SIDE, SIDE) and found.pattern.shape == (CLASSES, 1, SIDE, SIDE)
    for part in (found.mask, found.pattern):
        assert part.min() >= 0 and part.max() <= 1
    for label in range(CLASSES):
        hits = shortcut()(stamp(IMAGES, found.mask[label], found.pattern[label])).argmax(1) == label
        assert found.success[label] >= 0.98 and hits.double().mean() > 0.9  # judged while it was moving


def test_classes_do_not_influence_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Inversion(passes=10, batch_size=8, patience=2, stale=2)  # some are done before the others
    together = spec(shortcut(), IMAGES, rng=rng)
    monkeypatch.setattr(inversion, "GROUP", 1)
    alone = spec(shortcut(), IMAGES, rng=rng)
    assert torch.allclose(alone.mask, together.mask, atol=1e-3) and torch.equal(
        alone.success, together.success
    )


def test_the_same_seed_gives_the_same_triggers_and_the_network_stays(found: Inverted) -> None:
    model = shortcut().train()
    before = snapshot(model)
    torch.manual_seed(9)
    again = QUICK(model, IMAGES, rng=rng)
    assert same(tuple(again), tuple(found)) and same(snapshot(model), before)
    other = QUICK(model, IMAGES, rng=lambda purpose: generator(1, purpose))
    assert not torch.equal(other.mask, found.mask)


def test_a_class_that_nothing_reaches_says_so() -> None:
    model = linear([[0.0] * 16] * 3, [0.0, 1.0, 0.0])
    success = Inversion(passes=3, batch_size=8)(model, IMAGES, rng=rng).success
    assert success.tolist() == [0, 1, 0]


# The weight of the mask


def looking(logits: Tensor, **settings: Any) -> Look:
    """A look at a network with constant logits (K,), for classes 0 and 1, in passes of three batches."""
    spec = Inversion(**{"batch_size": 8, "patience": 2, "cost": 0.01} | settings)
    start = torch.full((2, 2, SIDE, SIDE), 0.5)

    def network(x: Tensor) -> Tensor:
        return logits.expand(len(x), -1) + 0 * x.sum()

    return Look(spec, network, IMAGES, None, torch.arange(2), start, rng("b"))


def passes(look: Look, count: int, mask: float = 0.5) -> Tensor:
    """So many passes at one place; who is done."""
    done = torch.zeros(2).bool()
    for _ in range(3 * count):
        _, done = look(torch.full((2, 2, SIDE, SIDE), mask), torch.arange(2))
    return done


def test_the_weight_doubles_while_a_trigger_works_and_falls_while_it_does_not() -> None:
    look = looking(torch.tensor([0.0, 5.0]))
    passes(look, 1)
    assert look.cost.tolist() == pytest.approx([0.01, 0.01])
    passes(look, 1)
    assert look.cost.tolist() == pytest.approx([0.01 / 2**1.5, 0.02])
    passes(look, 2)
    assert look.cost.tolist() == pytest.approx([0.01 / 8, 0.04])


def test_the_value_is_minus_the_cross_entropy_and_the_weighted_size_of_the_mask() -> None:
    value, _ = looking(torch.tensor([0.0, 0.0]))(torch.full((2, 2, SIDE, SIDE), 0.5), torch.arange(2))
    assert value.tolist() == pytest.approx([-(0.6931472 + 0.01 * 8)] * 2)


def test_the_smallest_mask_that_works_is_kept() -> None:
    look = looking(torch.tensor([0.0, 5.0]))
    for size in (0.5, 0.25, 0.75):
        passes(look, 1, size)
    assert look.best[:, 0, 0, 0].tolist() == [0.75, 0.25]  # of the class that is never reached, the last one
    assert look.success.tolist() == [0, 1] and look.smallest.tolist() == [float("inf"), 4.0]


def test_a_class_is_done_once_nothing_smaller_comes_and_the_weight_has_moved_both_ways() -> None:
    look = looking(torch.tensor([0.0, 5.0]), stale=3, patience=1)
    assert passes(look, 6).tolist() == [False, False]
    look.fails.moved[1] = True
    assert passes(look, 1).tolist() == [False, True]


def test_the_rule_takes_the_steps_of_adam_and_leaves_other_rows_where_they_are() -> None:
    start = torch.full((2, 1, 1, 1), 0.5)
    move = Descent(start, 0.1)
    at = Point(torch.tensor([1]), start[1:], start[1:], torch.zeros(1), torch.full((1, 1, 1, 1), -3.0))
    moved = move(0, at)  # the first step of Adam has the length lr: w = -0.1
    assert moved.item() == pytest.approx((torch.tensor(-0.1).tanh().item() + 1) / 2, abs=1e-6)
    assert move.w[0].item() == 0
