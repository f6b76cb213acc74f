"""A network whose features are the pixels, adversarial examples that leave its manifold, and what learns from them."""

import torch
from suspects import linear, pictures
from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.models.classifier import Classifier
from deconfound.rng import generator
from deconfound.types import Images

WIDTH = 18  # pixels, of which two are read


def two_classes() -> Classifier:
    """Class 1 where pixel 1 is brighter than pixel 0; the other pixels are not read."""
    weight = 20 * torch.eye(2, WIDTH)
    return linear(weight.tolist(), [0.0, 0.0])


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pixels (N, 18) and labels (N,): bright 0 and dark 1, or the reverse, and little noise; the others vary widely."""
    y = torch.arange(count) % 2
    centre = torch.full((count, WIDTH), 120.0)
    centre[:, 0], centre[:, 1] = torch.where(y == 0, 180.0, 60.0), torch.where(y == 0, 60.0, 180.0)
    spread = torch.full((WIDTH,), 30.0)
    spread[:2] = 5
    noise = spread * torch.randn(count, WIDTH, generator=generator(seed, "rows"))
    return (centre + noise).clamp(0, 255), y


def images(count: int, seed: int = 0) -> Images:
    return pictures(*rows(count, seed))


def turned(data: Images) -> Tensor:
    """Adversarial versions in [0, 1]: both read pixels become alike, a little on the wrong side; no class is there."""
    x = data.x / 255.0
    x[:, 0, 0, 0] = torch.where(data.y == 0, 0.45, 0.5)
    x[:, 0, 0, 1] = torch.where(data.y == 0, 0.5, 0.45)
    return x


def evidence(*, seed: int = 0, crafted: bool = True, val: int = 40) -> Evidence:
    """Training and held-out images, the latter with their adversarial versions."""
    held = images(val, 1)
    found = {"turn": turned(held)} if crafted else None
    return Evidence(two_classes(), images(200), held, lambda purpose: generator(seed, purpose), found)
