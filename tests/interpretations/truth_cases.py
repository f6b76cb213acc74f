"""Networks that look where they are told to, and cases of which the truth is known."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from oracle_models import same, snapshot
from torch import Tensor, nn

from deconfound.interpretations.case import Case, Interpretation, Readings, Truth
from deconfound.models.classifier import Classifier
from deconfound.rng import generator
from deconfound.types import Images

SIDE = 4


def linear(weight: Tensor, bias: Tensor | None = None) -> Classifier:
    """Logits W x + b of the pixels of 1 x 4 x 4 images; weight (K, 16)."""
    head = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return Classifier(nn.Flatten(), head, channels=1).eval()


def looking_at(*places: Sequence[tuple[int, int]], size: float = 8.0) -> Classifier:
    """A class per list of pixels (row, column), whose logit is `size` times their sum."""
    weight = torch.zeros(len(places), SIDE * SIDE)
    for label, pixels in enumerate(places):
        for row, column in pixels:
            weight[label, row * SIDE + column] = size
    return linear(weight)


def images(pixels: Sequence[Mapping[tuple[int, int], int]], y: Sequence[int], *, ground: int = 40) -> Images:
    """Images 1 x 4 x 4 uint8 of the ground's grey value, but for the named pixels."""
    x = torch.full((len(pixels), 1, SIDE, SIDE), ground, dtype=torch.uint8)
    for image, named in zip(x, pixels, strict=True):
        for (row, column), value in named.items():
            image[0, row, column] = value
    return Images(x, torch.tensor(y))


def masks(*places: Sequence[tuple[int, int]]) -> Tensor:
    """Masks (N, 4, 4) bool, True on the named pixels."""
    found = torch.zeros(len(places), SIDE, SIDE, dtype=torch.bool)
    for mask, pixels in zip(found, places, strict=True):
        for row, column in pixels:
            mask[row, column] = True
    return found


def case_of(
    model: Classifier, test: Images, truth: Truth | None = None, *, classes: int = 2, **known: Any
) -> Case:
    """A case about a network and test images; it was trained on the same ones, as far as anyone knows."""
    settled = {"defense": None, "parts": {}, "train": test, "val": test, "rng": partial(generator, 0)} | known
    return Case(model=model, test=test, classes=classes, truth=truth or Truth(), **settled)


def read(found: Readings, place: str) -> Any:
    """The numbers at `subject.condition.metric`: per image (N,), or one of the run."""
    wanted = tuple(place.split("."))
    together: dict[Any, Any] = {**found.each, **found.once}
    return together[wanted]


def once_more(interpretation: Interpretation, case: Case) -> Readings:
    """What is read, after a check that the model came back as it was, that it is read again to the byte, and that there
    is one number per test image everywhere.
    """
    case.model.train()
    before = copy.deepcopy(snapshot(case.model))
    found = interpretation(case)
    torch.manual_seed(5)
    again = interpretation(case)
    assert same(snapshot(case.model), before)
    assert not any(module._forward_hooks or module._backward_hooks for module in case.model.modules())
    assert found.each.keys() == again.each.keys() and found.once == again.once and found.notes == again.notes
    assert all(
        np.array_equal(values, again.each[place], equal_nan=True) for place, values in found.each.items()
    )
    assert same(found.pictures, again.pictures)
    count = min(len(case.test.y), getattr(interpretation, "examples", len(case.test.y)))
    assert all(values.shape == (count,) for values in found.each.values())
    assert all(
        isinstance(array, np.ndarray) and not array.dtype.hasobject for array in found.pictures.values()
    )
    assert all(note[0].isalnum() and note.endswith(".") for note in found.notes)
    return found
