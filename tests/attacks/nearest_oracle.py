"""Linear models of many classes, and the exact distance from an image to the nearest other class inside the box."""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from deconfound.threat import Norm


class Planes(nn.Module):
    """Logits W x + b; counts the images of its forward passes, its calls, and the calls of its backward passes."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)
        self.images = self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.forwards += 1
        logits = x.flatten(1) @ self.w.T + self.b
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, _: Tensor) -> None:
        self.backwards += 1


def planes(classes: int, *, count: int = 24, seed: int = 0) -> tuple[Planes, Tensor, Tensor]:
    """A model, images 3 x 2 x 2 of which a third of the pixels are 0 or 1, and the model's own labels."""
    rng = torch.Generator().manual_seed(seed)
    model = Planes(torch.randn(classes, 12, generator=rng), torch.zeros(classes))
    x = (torch.rand(count, 3, 2, 2, generator=rng) * 1.5 - 0.25).clamp(0, 1)
    with torch.no_grad():
        model.b -= model(x).mean(0)  # so that every class is near
        y = model(x).argmax(1)
    model.images = model.forwards = 0
    return model, x, y


def exact(model: Planes, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Distance (N,) to the nearest other class, in the box."""
    w, b = model.w.detach(), model.b.detach()
    found = []
    for image, label in zip(x.flatten(1), y.tolist(), strict=True):
        others = [k for k in range(len(w)) if k != label]
        gaps = [(w[k] - w[label], float(image @ (w[k] - w[label]) + b[k] - b[label])) for k in others]
        found.append(min(distance(image, slope, value, norm) for slope, value in gaps))
    return torch.tensor(found)


def distance(x: Tensor, w: Tensor, value: float, norm: Norm) -> float:
    """Smallest |d| with value + <w, d> = 0 and x + d in [0, 1], of one image (D,); infinity where there is none."""
    image, slope = x.double().numpy(), w.double().numpy()
    size = len(image)
    bounds = list(zip(-image, 1 - image, strict=True))
    if norm == "linf":  # variables d and t, |d| <= t
        eye, ones = np.eye(size), np.ones((size, 1))
        sides = np.block([[eye, -ones], [-eye, -ones]])
        solved = linprog(
            [*np.zeros(size), 1.0],
            A_ub=sides,
            b_ub=np.zeros(2 * size),
            A_eq=[[*slope, 0.0]],
            b_eq=[-value],
            bounds=[*bounds, (0, None)],
        )
        return float(solved.fun) if solved.success else np.inf
    if norm == "l1":  # d = up - down
        room = [(0, 1 - pixel) for pixel in image] + [(0, pixel) for pixel in image]
        solved = linprog(np.ones(2 * size), A_eq=[[*slope, *-slope]], b_eq=[-value], bounds=room)
        return float(solved.fun) if solved.success else np.inf
    low, high = -1e6, 1e6  # d = t w, cut off at the box; <w, d> rises in t
    for _ in range(200):
        middle = (low + high) / 2
        d = np.clip(middle * slope, -image, 1 - image)
        low, high = (middle, high) if value + slope @ d < 0 else (low, middle)
    return float(np.linalg.norm(d)) if abs(value + slope @ d) < 1e-6 else np.inf
