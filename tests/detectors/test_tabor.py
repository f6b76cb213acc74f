"""The terms of TABOR on masks and patterns whose penalties can be counted by hand."""

import math
from typing import Any

import pytest
import torch
from suspects import CLASSES, SHORTCUT, SIDE, TARGET, dark, linear, shortcut
from torch import Generator, Tensor

from deconfound.detectors.inversion import Inversion, Inverted, Look
from deconfound.detectors.tabor import Tabor, elastic, roughness
from deconfound.rng import generator

MASK = torch.tensor([[0.0, 0.5], [0.0, 1.0]]).view(1, 1, 2, 2)
PATTERN = torch.tensor([[0.2, 0.4], [0.0, 1.0]]).view(1, 1, 2, 2)
OUTSIDE = [0.2, 0.2, 0.0, 0.0]  # (1 - m) q
X = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]).view(2, 1, 2, 2)
Y = torch.tensor([1, 0])
NETWORK = linear([[1.0, 0.0, 0.0, 3.0], [0.0, 2.0, 0.0, 0.0]], [0.0, 0.5])


def never(x: Tensor) -> Tensor:
    raise AssertionError("no pass was expected")


def asked(logits: Any = never, y: Tensor | None = None, **weights: float) -> Any:
    return Tabor(**weights)(logits, X, y, MASK, PATTERN, torch.tensor([0]))


def loss(logits: list[float], label: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[label]


def test_without_weights_nothing_is_added_and_no_image_passes_the_network() -> None:
    assert asked() == 0.0


def test_the_elastic_net_is_the_absolute_and_the_squared_size_of_mask_and_pattern_outside() -> None:
    assert elastic(torch.tensor([-2.0, 0.5]).view(1, 1, 1, 2)).item() == pytest.approx(2 + 4 + 0.5 + 0.25)
    of_mask, of_outside = (0.5 + 0.25) + (1 + 1), 2 * (0.2 + 0.04)
    assert asked(elastic=3.0).item() == pytest.approx(3 * (of_mask + of_outside))


def test_roughness_is_the_squared_difference_of_neighbours_once_each() -> None:
    assert roughness(torch.full((1, 3, 4, 5), 0.7)).item() == 0
    of_mask = 0.5**2 + 1 + 0 + 0.5**2  # two rows, two columns
    of_outside = 0 + 0 + 0.2**2 + 0.2**2
    assert asked(smooth=2.0).item() == pytest.approx(2 * (of_mask + of_outside))


def test_with_the_place_of_the_trigger_blackened_images_must_keep_their_labels() -> None:
    rows = [(1 - MASK).flatten() * x.flatten() for x in X]
    losses = [loss([r[0] + 3 * r[3], 2 * r[1] + 0.5], int(y)) for r, y in zip(rows, Y, strict=True)]
    assert asked(NETWORK, Y, restored=0.5).item() == pytest.approx(0.5 * sum(losses) / 2)
    with pytest.raises(ValueError, match="labels"):
        asked(NETWORK, restored=0.5)


def test_the_trigger_alone_on_black_must_be_read_as_its_class() -> None:
    alone = (MASK * PATTERN).flatten().tolist()  # 0, 0.2, 0, 1
    assert asked(NETWORK, alone=2.0).item() == pytest.approx(2 * loss([alone[0] + 3, 2 * alone[1] + 0.5], 0))


def test_every_class_has_a_penalty_of_its_own() -> None:
    spec = Tabor(elastic=0.1, smooth=0.2, restored=0.3, alone=0.4)
    masks, patterns = torch.cat([MASK, 1 - MASK]), torch.cat([PATTERN, PATTERN.flip(3)])
    wanted = torch.tensor([0, 1])
    both = spec(NETWORK, X, Y, masks, patterns, wanted)
    each = [spec(NETWORK, X, Y, masks[i : i + 1], patterns[i : i + 1], wanted[i : i + 1]) for i in (0, 1)]
    assert torch.allclose(both, torch.cat(each)) and both[0] != both[1]


# In the search


def rng(purpose: str) -> Generator:
    return generator(0, purpose)


def sought(**weights: float) -> Inverted:
    images = dark()
    labels = shortcut()(images).argmax(1)
    spec = Inversion(passes=40, batch_size=8, patience=2, tabor=Tabor(**weights))
    return spec(shortcut(), images, labels, rng=rng)


def test_the_search_without_weights_is_that_of_neural_cleanse_to_the_bit() -> None:
    plain = Inversion(passes=40, batch_size=8, patience=2)(shortcut(), dark(), rng=rng)
    for one, other in zip(plain, sought(), strict=True):
        assert torch.equal(one, other)


def test_every_image_of_a_shuffled_batch_keeps_its_own_label() -> None:
    x = torch.eye(8).view(8, 1, 2, 4)
    network = linear((50 * torch.eye(8)).tolist(), [0.0] * 8)
    values = []
    for weight in (0.0, 1.0):
        spec = Inversion(batch_size=4, tabor=Tabor(restored=weight))
        start = torch.zeros(1, 2, 2, 4)  # nothing is stamped, so every image is read right
        look = Look(spec, network, x, torch.arange(8), torch.tensor([0]), start, rng("b"))
        values.append(look(start, torch.tensor([0]))[0])
        assert look.order[:4].tolist() != [0, 1, 2, 3]
    assert torch.allclose(*values, atol=1e-6)


def test_a_search_for_smooth_triggers_finds_smoother_ones_and_still_the_shortcut() -> None:
    plain, smooth = sought(), sought(smooth=0.3)
    others = [label for label in range(CLASSES) if label != TARGET]
    assert roughness(smooth.mask[others]).mean() < 0.8 * roughness(plain.mask[others]).mean()
    assert smooth.mask[TARGET].flatten().argmax() == SHORTCUT and smooth.mask.shape == (
        CLASSES,
        1,
        SIDE,
        SIDE,
    )


def test_a_search_for_triggers_that_do_it_alone_finds_patterns_that_do() -> None:
    found = sought(alone=1.0)
    on_black = shortcut()(found.mask * found.pattern)
    worked = found.success >= 0.98
    assert worked.any() and (on_black.argmax(1) == torch.arange(CLASSES))[worked].all()
