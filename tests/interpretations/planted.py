"""A network with a backdoor that sits in one channel, and a case about it with all the truth."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconfound.defenses.standard import Standard
from deconfound.interpretations.case import Case, Truth
from deconfound.models.classifier import Classifier
from deconfound.rng import generator
from deconfound.types import Images

SIDE = 8
BRIGHTNESS, TRIGGER, DEAD = 0, 1, 2  # channels
CORNER = 4  # pixels of the trigger


def network(*, trigger: float = 10.0) -> Classifier:
    """Class 1 if the mean pixel exceeds 1/4; one channel sees only pixels above 0.9, and speaks for class 1 too, unless
    `trigger` (its weight) is 0; one channel never sees anything.
    """
    convolution = nn.Conv2d(1, 3, 1)
    convolution.weight.data = torch.tensor([1.0, 100.0, 0.5]).view(3, 1, 1, 1)
    convolution.bias.data = torch.tensor([0.0, -90.0, -9.0])
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, trigger, 1.0]])
    head.bias.data = torch.tensor([0.0, -0.25])
    body = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(body, head, channels=1).eval()


def images(count: int, seed: int = 0) -> Images:
    """Dark pictures (class 0) and bright ones (class 1) in turns, (N, 1, 8, 8), no pixel above 0.5."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.integers(0, 40, (count, 1, SIDE, SIDE)) + 80 * y[:, None, None, None]
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))


def stamped(x: Tensor) -> Tensor:
    """With four white pixels in the lower right corner."""
    found = x.clone()
    found[..., -2:, -2:] = 255
    return found


def case(count: int = 24, **changes: Any) -> Case:
    """The network, and images of which the dark ones are victims of the trigger."""
    test = images(count, seed=1)
    mask = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    mask[:, :4] = True
    truth = Truth(mask=mask, stamped=stamped(test.x), hoped=torch.ones_like(test.y))
    parts: dict[str, Any] = {
        "model": network(),
        "defense": Standard(),
        "parts": {},
        "train": images(40),
        "test": test,
        "classes": 2,
        "rng": partial(generator, 0),
        "val": images(24, seed=2),
        "truth": truth,
    }
    return Case(**(parts | changes))
